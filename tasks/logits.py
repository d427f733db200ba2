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
        if len(set(self.keys)) < len(self.keys) or len(set(self.classes)) < len(self.classes):
            raise ValueError("a photo's key or a class's name is there twice")
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            raise ValueError(
                f"labels go from {self.labels.min()} to {self.labels.max()}, of {len(self.classes)} classes"
            )


@dataclass(frozen=True)
class Frame:
    """What classifiers are compared on: ``keys`` of photos and names of ``classes``, both sorted; ``labels`` of the
    photos index ``classes``. No matter in which order a classifier left them."""

    keys: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, logits: Logits) -> Frame:
        """The photos and classes of one classifier, sorted."""
        rows, columns = _sorting(logits.keys), _sorting(logits.classes)
        place = np.empty(len(columns), int)
        place[columns] = np.arange(len(columns))
        return cls(
            tuple(logits.keys[row] for row in rows),
            place[logits.labels[rows]],
            tuple(logits.classes[column] for column in columns),
        )

    def match(self, logits: Logits, name: str, first: str) -> Places:
        """Where this frame's photos and classes stand in a classifier's scores.

        Raises `InputError` when the photos, the classes or the labels are not the same, naming both classifiers.
        """
        own = Frame.of(logits)
        if own.classes != self.classes:
            raise InputError(f"{name} and {first} {_differ(own.classes, self.classes, 'class', 'classes')}")
        if own.keys != self.keys:
            raise InputError(f"{name} and {first} {_differ(own.keys, self.keys, 'photo', 'photos')}")
        if (wrong := np.flatnonzero(own.labels != self.labels)).size:
            photo = self.keys[wrong[0]]
            raise InputError(f"{name} and {first} give {len(wrong)} photos different classes, {photo} for one")
        return Places(_sorting(logits.keys), _sorting(logits.classes))


@dataclass(frozen=True)
class Places:
    """``rows`` and ``columns`` of a classifier's scores in the order of a `Frame`."""

    rows: np.ndarray
    columns: np.ndarray

    def take(self, scores: np.ndarray, photos: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The scores of some of the frame's photos, float32 (photos, classes), in the frame's order."""
        taken = np.asarray(scores[self.rows[photos]], dtype=np.float32)
        in_order = bool((self.columns == np.arange(len(self.columns))).all())
        return taken if in_order else taken[:, self.columns]


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


def scores(folder: Path) -> np.ndarray:
    """The scores in a folder alone, memory-mapped: for a folder that `read` has looked at."""
    mapped: np.ndarray = np.load(folder / _SCORES, mmap_mode="r")
    return mapped


def _sorting(names: tuple[str, ...]) -> np.ndarray:
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=int)


def _differ(one: tuple[str, ...], other: tuple[str, ...], singular: str, plural: str) -> str:
    more, less = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    if len(more) == len(one):
        return f"have no {singular} in common: '{one[0]}' and '{other[0]}' are the first of {len(one)} and {len(other)}"
    found = [
        f"{len(names)} {singular if len(names) == 1 else plural} only {where} has ('{names[0]}')"
        for names, where in ((more, "the first"), (less, "the second"))
        if names
    ]
    return f"differ: {', '.join(found)}. They must come from the same data and the same split"
