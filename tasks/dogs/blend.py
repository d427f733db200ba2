"""One prediction of two heads: p = α·p_head + (1 − α)·p_auxiliary, with α chosen on photos other than those it serves.

Source: kexue.fm/archives/4611, which chooses α on a hold-out. Choosing and reporting on the same photos is optimistic;
so the validation photos are halved by class, α is chosen on either half, and each half is predicted with the α of the
other. All photos are then predicted, none by an α that has seen it.

>>> p = np.log([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
>>> cross_fitted(Scores(p, None), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])).alphas
()
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the head and of the auxiliary head, (photos, classes); None where there is no such head."""

    main: np.ndarray
    auxiliary: np.ndarray | None

    def blended(self, alpha: float) -> np.ndarray:
        """Log-probabilities of the blend."""
        if self.auxiliary is None:
            return self.main
        with np.errstate(divide="ignore"):  # α of 0 or 1 leaves one of them out: its logarithm is −inf
            return np.logaddexp(np.log(alpha) + self.main, np.log(1 - alpha) + self.auxiliary)

    def part(self, rows: np.ndarray) -> Scores:
        return Scores(self.main[rows], None if self.auxiliary is None else self.auxiliary[rows])


@dataclass(frozen=True)
class Blend:
    """``scores`` are cross-fitted; ``alphas`` are those of the halves 0 and 1, each chosen on the other half;
    ``alpha`` is chosen on all, for photos that come later."""

    scores: np.ndarray
    alpha: float
    alphas: tuple[float, ...]

    def metrics(self) -> dict[str, float]:
        if not self.alphas:
            return {}
        return {"blend/alpha": self.alpha, "blend/alpha_first": self.alphas[0], "blend/alpha_second": self.alphas[1]}


def cross_fitted(scores: Scores, labels: np.ndarray, half: np.ndarray) -> Blend:
    """The blend of photos of classes ``labels`` that lie in the halves ``half`` (0 or 1)."""
    if scores.auxiliary is None:
        return Blend(scores.main, 1.0, ())
    out, alphas = np.empty_like(scores.main), []
    for own in (0, 1):
        others = np.flatnonzero(half != own)
        alphas.append(choose(scores.part(others), labels[others]))
        rows = np.flatnonzero(half == own)
        out[rows] = scores.part(rows).blended(alphas[-1])
    return Blend(out, choose(scores, labels), tuple(alphas))


def choose(scores: Scores, labels: np.ndarray) -> float:
    """The α of the grid with the most photos right; of several, the one with the least cross entropy."""

    def rank(alpha: float) -> tuple[int, float]:
        blended = scores.blended(alpha)
        own = blended[np.arange(len(labels)), labels]
        hits = int(((blended >= own[:, None]).sum(1) == 1).sum())
        return -hits, float(-own.mean())

    return min(GRID, key=rank)


def halves(keys: Sequence[str], labels: Sequence[int], seed: int) -> np.ndarray:
    """In which half each photo is, (photos,): told by its key and the seed, as even in each class as can be."""
    out = np.zeros(len(keys), dtype=np.int64)
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"{seed}/{keys[i]}".encode()).digest())
    seen: dict[int, int] = {}
    for i in order:
        label = int(labels[i])
        at = seen.setdefault(label, label)  # classes begin with either half in turn, so that the whole is even too
        out[i], seen[label] = at % 2, at + 1
    return out
