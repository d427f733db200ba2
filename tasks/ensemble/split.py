"""Which photos choose and which report: by a photo's key and a seed, class by class, never by order.

The photos fall into a report part, which nothing ever chooses by, and a search part, which falls into folds.

>>> parts = split(tuple("abcdefgh"), np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.5, 2, seed=0)
>>> len(parts.report), [len(fold) for fold in parts.folds]
(4, [2, 2])
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from tasks.api import InputError


@dataclass(frozen=True)
class Parts:
    """Indices of photos, sorted: the ``report`` part, and the ``folds`` that make up the search part."""

    report: np.ndarray
    folds: tuple[np.ndarray, ...]

    @property
    def search(self) -> np.ndarray:
        return np.sort(np.concatenate(self.folds))

    def others(self, fold: int) -> np.ndarray:
        """The search part without one fold."""
        return np.sort(np.concatenate([part for k, part in enumerate(self.folds) if k != fold]))


def split(keys: tuple[str, ...], labels: np.ndarray, report: float, folds: int, seed: int) -> Parts:
    """A share of each class to report on, the rest in folds. Shares differ from even ones by one photo a class.

    Raises `InputError` for too few photos.
    """
    order = _order(keys, labels, seed, "report")
    # The share's whole parts along the order: every class gives its share, and the total is right to one photo.
    reported = [math.floor((place + 1) * report) > math.floor(place * report) for place in range(len(order))]
    search = [index for index, held in zip(order, reported, strict=True) if not held]
    if len(search) < 2 * folds or len(search) == len(order):
        raise InputError(
            f"{len(order)} photos are too few: {len(search)} remain to search on, in {folds} folds, and "
            f"{len(order) - len(search)} to report on"
        )
    among = _order(tuple(keys[index] for index in search), labels[search], seed, "fold")
    return Parts(
        np.sort([index for index, held in zip(order, reported, strict=True) if held]),
        tuple(np.sort([search[place] for place in among[fold::folds]]) for fold in range(folds)),
    )


def _order(keys: tuple[str, ...], labels: np.ndarray, seed: int, salt: str) -> list[int]:
    """Class after class, within a class by a hash of the key."""

    def place(index: int) -> tuple[int, bytes]:
        return int(labels[index]), hashlib.sha256(f"{salt}/{seed}/{keys[index]}".encode()).digest()

    return sorted(range(len(keys)), key=place)
