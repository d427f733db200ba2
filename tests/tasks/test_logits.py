"""What classifiers leave behind: written whole, read mapped, brought to one order."""

from __future__ import annotations

import numpy as np
import pytest

from tasks import logits as left
from tasks.api import InputError
from tasks.logits import Frame, Logits

ONE = Logits(np.array([[1, 2, 3], [4, 5, 6]], np.float32), ("val/b/1", "val/a/1"), np.array([1, 0]), ("b", "a", "c"))


def test_what_is_written_is_read(tmp_path):
    left.write(tmp_path / "new", ONE)
    read = left.read(tmp_path / "new")
    assert isinstance(read.scores, np.memmap)
    assert (read.scores == ONE.scores).all()
    assert (read.keys, read.classes, read.labels.tolist()) == (ONE.keys, ONE.classes, [1, 0])
    assert (left.scores(tmp_path / "new") == ONE.scores).all()


def test_a_frame_is_sorted_and_places_bring_scores_to_it():
    frame = Frame.of(ONE)
    assert frame.keys == ("val/a/1", "val/b/1")
    assert frame.classes == ("a", "b", "c")
    assert frame.labels.tolist() == [1, 0]  # val/a/1 is of class index 0 of (b, a, c): b
    taken = frame.match(ONE, "x", "x").take(ONE.scores)
    assert taken.tolist() == [[5, 4, 6], [2, 1, 3]]
    assert frame.match(ONE, "x", "x").take(ONE.scores, np.array([1])).tolist() == [[2, 1, 3]]


@pytest.mark.parametrize(
    ("keys", "labels", "classes", "told"),
    [
        (("a", "a"), [0, 1], ("x", "y"), "twice"),
        (("a", "b"), [0, 1], ("x", "x"), "twice"),
        (("a", "b"), [0, 2], ("x", "y"), "labels go from 0 to 2"),
        (("a", "b"), [-1, 1], ("x", "y"), "labels go from -1"),
        (("a",), [0], ("x", "y"), r"scores are \(2, 2\)"),
    ],
)
def test_logits_refuse_to_be_built_wrong(keys, labels, classes, told):
    with pytest.raises(ValueError, match=told):
        Logits(np.zeros((2, 2)), keys, np.array(labels), classes)


def test_damage_is_told(tmp_path):
    left.write(tmp_path, ONE)
    (tmp_path / "logits.json").write_text('{"keys": ["a"], "labels": [0], "classes": ["x"]}')
    with pytest.raises(InputError, match="cannot be read: scores are"):
        left.read(tmp_path)
    (tmp_path / "logits.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="cannot be read"):
        left.read(tmp_path)
    with pytest.raises(InputError, match="holds no logits"):
        left.read(tmp_path / "elsewhere")
