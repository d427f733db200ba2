"""What a classifier scored, photo by photo: left behind by one study's trials, read by the studies that come after.

Scores stay on disk and are mapped into memory, so that a thousand models of some thousand photos cost what is looked
at. Photos are known by a key that does not depend on where the data lies (``val/<class>/<file>``).

>>> import tempfile
>>> scores = np.array([[2.0, 0.0], [0.5, 1.0]])
>>> with tempfile.TemporaryDirectory() as folder:
...     write(Path(folder), Logits(scores, ("val/a/1.jpg", "val/b/2.jpg"), np.array([0, 1]), ("a", "b")))
...     read(Path(folder)).scores.argmax(1).tolist()
[0, 1]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.api import InputError

_SCORES, _ABOUT = "logits.npy", "logits.json"


@dataclass(frozen=True)
class Logits:
    """``scores`` (photos, classes), float32: log-probabilities up to a constant a row. ``labels`` index ``classes``."""

    scores: np.ndarray
    keys: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        wanted = (len(self.keys), len(self.classes))
        if self.scores.shape != wanted or self.labels.shape != wanted[:1]:
            raise ValueError(
                f"scores are {self.scores.shape}, labels {self.labels.shape}, of {wanted} photos × classes"
            )


def write(folder: Path, logits: Logits) -> None:
    """Leave the scores in a folder, whole or not at all: the description comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _SCORES, np.ascontiguousarray(logits.scores, dtype=np.float32))
    about = {"keys": logits.keys, "labels": logits.labels.tolist(), "classes": logits.classes}
    (folder / _ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def read(folder: Path) -> Logits:
    """The scores in a folder, memory-mapped. Raises `InputError` when there are none, or they are damaged."""
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        scores = np.load(folder / _SCORES, mmap_mode="r")
        return Logits(scores, tuple(about["keys"]), np.array(about["labels"], dtype=int), tuple(about["classes"]))
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no logits: its trial did not finish, or its task leaves none (dogs does)"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"the logits in {folder} cannot be read: {error}") from error
