from __future__ import annotations

import os

import pytest

from tasks.api import InputError
from tasks.dogs.folders import find_photos


def make(root, **counts):
    """``make(root, **{"train/a": 3})``: empty files are enough, nothing is opened."""
    for place, count in counts.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / place / f"{i:02d}.jpg").touch()
    return root


def test_train_and_val_folders(tmp_path):
    photos = find_photos(make(tmp_path, **{"train/b": 2, "train/a": 3, "val/a": 1, "val/b": 1}))
    assert photos.classes == ("a", "b")
    assert photos.labels == (0, 0, 0, 1, 1, 0, 1)
    assert photos.trained == 5
    assert photos.paths[5].parent.name == "a"


def test_one_folder_is_split_by_class_and_always_alike(tmp_path):
    make(tmp_path, a=10, b=5, c=2)
    first, second = find_photos(tmp_path, 0.2), find_photos(tmp_path, 0.2)
    assert first == second
    held = [photos.parent.name for photos in first.paths[first.trained :]]
    assert {name: held.count(name) for name in held} == {"a": 2, "b": 1, "c": 1}
    assert len(set(first.paths)) == 17
    assert find_photos(tmp_path, 0.2, split_seed=1).paths != first.paths
    before = [p for p in first.paths[first.trained :] if p.parent.name == "a"]
    make(tmp_path, d=4)  # another class leaves the split of the others alone
    again = find_photos(tmp_path, 0.2)
    assert [p for p in again.paths[again.trained :] if p.parent.name == "a"] == before


def test_the_digest_follows_the_photos(tmp_path):
    make(tmp_path, a=3, b=3)
    before = find_photos(tmp_path).digest()
    assert find_photos(tmp_path).digest() == before
    os.utime(tmp_path / "a" / "00.jpg", (1, 1))
    assert find_photos(tmp_path).digest() != before


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({}, "holds no photos"),
        ({"a": 5}, "has 1 class with photos"),
        ({"a": 5, "b": 1}, "class 'b' has a single photo"),
        ({"train/a": 2, "train/b": 2}, "has train/ but no val/"),
        ({"train/a": 2, "train/b": 2, "val/a": 1}, "class 'b' of .* has no validation photo"),
        ({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "val/z": 1}, "has the class 'z'"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, counts, says):
    with pytest.raises(InputError, match=says):
        find_photos(make(tmp_path, **counts))
