"""What is kept of a billion angles: sums that merge. No sample is stored.

Source: Su Jianlin, kexue.fm/archives/7076, compares a formula with a histogram; here the formula makes the histogram's
cells. Idea: moments merge by the formulas of Chan and of Pébay, counts by addition; cells of almost equal probability
F_n give the Kolmogorov–Smirnov distance as well as χ², to the width of one cell in 16,384.

>>> of = Statistics.of(5, np.array([0.1, -0.2, 0.4], np.float32))
>>> merged = of.merged(Statistics.of(5, np.array([0.0], np.float32)))
>>> merged.moments.count, round(merged.moments.mean, 6), int(merged.counts.sum())
(4, 0.075, 4)

Samples are deviations δ = θ − π/2 in float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.angles import TAILS
from tasks.angles.exact import Angle

CELLS = 16384
_ROW = 1024  # what float32 adds up before float64 takes over
_BLOCK = 64 * _ROW


@dataclass(frozen=True)
class Moments:
    """Count, mean, and the sums of the 2nd to 4th power of deviations from the mean.

    >>> Moments(1, 2.0).merged(Moments(1, 4.0))
    Moments(count=2, mean=3.0, m2=2.0, m3=0.0, m4=2.0)
    """

    count: int
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0

    @classmethod
    def of_sums(cls, count: int, s1: float, s2: float, s3: float, s4: float) -> Moments:
        """From sums of powers about 0, which must be near the mean: there, nothing cancels."""
        if count == 0:
            return cls(0)
        m = s1 / count
        m4 = s4 - 4 * m * s3 + 6 * m * m * s2 - 3 * count * m**4
        return cls(count, m, s2 - count * m * m, s3 - 3 * m * s2 + 2 * count * m**3, m4)

    def merged(self, other: Moments) -> Moments:
        """Of both samples together: P. Pébay, Sandia report 2008-6212, equations 3.1 and 4.1–4.3."""
        if self.count == 0 or other.count == 0:
            return self if other.count == 0 else other
        a, b, n = self.count, other.count, self.count + other.count
        d = other.mean - self.mean
        m2 = self.m2 + other.m2 + d**2 * a * b / n
        m3 = self.m3 + other.m3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * other.m2 - b * self.m2) / n
        m4 = self.m4 + other.m4 + d**4 * a * b * (a * a - a * b + b * b) / n**3
        m4 += 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2 + 4 * d * (a * other.m3 - b * self.m3) / n
        return Moments(n, self.mean + d * b / n, m2, m3, m4)

    @property
    def variance(self) -> float:
        """Unbiased; NaN for fewer than 2 samples."""
        return self.m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def kurtosis(self) -> float:
        """Excess of the fourth standardised moment over the normal one's 3."""
        return self.count * self.m4 / self.m2**2 - 3 if self.m2 > 0 else math.nan


class Cells:
    """`CELLS` intervals of δ, even in tanh(αδ) and so nearly even in probability; found without a search.

    The angle is nearly N(π/2, 1/(n−2)), and ½ + ½·tanh(0.85 z) nearly the normal distribution function: the fullest
    cell holds 1.14 / `CELLS` at most. What a cell is, is defined by
    the float32 arithmetic of `Collector`, whose constants are kept here; ``edges`` are these, solved for δ.
    """

    def __init__(self, n: int) -> None:
        self.n, self.angle = n, Angle(n)
        self.alpha = np.float32(max(0.85 * math.sqrt(n - 2), 1e-3))  # n = 2 is uniform: a straight line
        self.half = np.float32(CELLS / 2)
        self.scale = np.float32(CELLS / 2 / math.tanh(float(self.alpha) * math.pi / 2))

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """CELLS + 1 values of δ from −π/2 to π/2."""
        inner = (np.arange(1, CELLS) - float(self.half)) / float(self.scale)
        return np.concatenate([[-math.pi / 2], np.arctanh(inner) / float(self.alpha), [math.pi / 2]])

    @cached_property
    def cumulative(self) -> NDArray[np.float64]:
        """F_n at the edges, from 0 to 1."""
        return np.asarray(0.5 + self.angle.central(self.edges))

    @cached_property
    def widest(self) -> float:
        """Probability of the fullest cell."""
        return float(np.diff(self.cumulative).max())


@lru_cache(maxsize=32)
def cells(n: int) -> Cells:
    """The cells of dimension n."""
    return Cells(n)


@dataclass(frozen=True)
class Statistics:
    """All that is kept: ``moments`` of δ, ``counts`` of the cells, ``tails``: how many had |cos θ| > ε, by `TAILS`."""

    n: int
    moments: Moments
    counts: NDArray[np.int64]
    tails: tuple[int, ...]

    @classmethod
    def of(cls, n: int, deviations: NDArray[np.float32]) -> Statistics:
        """Of an array (samples,) of δ."""
        return collected(n, [deviations])

    @property
    def count(self) -> int:
        return self.moments.count

    def merged(self, other: Statistics) -> Statistics:
        """Of both samples together."""
        if self.n != other.n:
            raise ValueError(f"statistics of n={self.n} and n={other.n} have different cells")
        tails = tuple(a + b for a, b in zip(self.tails, other.tails, strict=True))
        return Statistics(self.n, self.moments.merged(other.moments), self.counts + other.counts, tails)


def collected(n: int, blocks: Iterable[NDArray[np.float32]]) -> Statistics:
    """The statistics of blocks of δ, in one pass."""
    collector = Collector(n)
    for block in blocks:
        collector.add(block)
    return collector.statistics()


class Collector:
    """Adds up blocks of samples. This is the inner loop: every line is one pass over arrays in the cache."""

    def __init__(self, n: int) -> None:
        self._cells = cells(n)
        self._thresholds = [np.float32(math.asin(epsilon) ** 2) for epsilon in TAILS]
        self._count, self._sums, self._tails = 0, np.zeros(4), [0] * len(TAILS)
        self._counts = np.zeros(CELLS + 1, np.int64)
        self._ones = np.ones(_ROW, np.float32)
        self._square, self._place = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
        self._cell, self._beyond = np.empty(_BLOCK, np.intp), np.empty(_BLOCK, np.bool_)

    def add(self, deviations: NDArray[np.float32]) -> None:
        """Take in an array (samples,) of δ."""
        for start in range(0, len(deviations), _BLOCK):
            block = deviations[start : start + _BLOCK]
            square = np.multiply(block, block, out=self._square[: len(block)])
            self._count += len(block)
            self._add_sums(block, square)
            self._add_tails(square)
            self._add_counts(block)

    def statistics(self) -> Statistics:
        """What was added so far."""
        counts = self._counts[:CELLS].copy()
        counts[-1] += self._counts[CELLS]  # δ = π/2 itself
        s1, s2, s3, s4 = (float(s) for s in self._sums)
        return Statistics(self._cells.n, Moments.of_sums(self._count, s1, s2, s3, s4), counts, tuple(self._tails))

    def _add_sums(self, block: NDArray[np.float32], square: NDArray[np.float32]) -> None:
        whole = len(block) // _ROW * _ROW
        for part in (slice(0, whole), slice(whole, len(block))):
            if part.start < part.stop:
                width = _ROW if part.start == 0 and whole else part.stop - part.start
                d, q, ones = block[part].reshape(-1, width), square[part].reshape(-1, width), self._ones[:width]
                for i, (left, right) in enumerate(((d, ones), (q, ones), (q, d), (q, q))):
                    self._sums[i] += np.vecdot(left, right).sum(dtype=np.float64)

    def _add_tails(self, square: NDArray[np.float32]) -> None:
        largest = square.max()
        for i, threshold in enumerate(self._thresholds):
            if threshold > largest:
                return
            self._tails[i] += int(np.count_nonzero(np.greater(square, threshold, out=self._beyond[: len(square)])))

    def _add_counts(self, block: NDArray[np.float32]) -> None:
        place, cell = self._place[: len(block)], self._cell[: len(block)]
        np.multiply(block, self._cells.alpha, out=place)
        np.tanh(place, out=place)
        np.multiply(place, self._cells.scale, out=place)
        np.add(place, self._cells.half, out=place)
        np.copyto(cell, place, casting="unsafe")
        self._counts += np.bincount(cell, minlength=CELLS + 1)
