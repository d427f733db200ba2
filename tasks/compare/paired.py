"""How far two classifiers lie apart on the same photos, with intervals that use the pairing.

Sources: McNemar, Psychometrika 12 (1947), and Fagerland, Lydersen & Laake, BMC Med. Res. Methodol. 13:91 (2013) for
its mid-p version; Efron's percentile bootstrap; the crossed two-way random model that compares diagnostic tests over
readers and cases (Roe & Metz, Acad. Radiol. 4:587, 1997), with runs of several seeds in the place of readers.
Idea: what both get right or both get wrong cancels, so that the interval of a difference is far narrower than the
difference of two intervals.

>>> round(mcnemar(gained=10, lost=2), 4)
0.0225
>>> crossed(np.array([[1.0, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]])).mean
0.5
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
_AT_ONCE = 50


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; ``p_value`` of its being 0, two-sided, where it was asked for."""

    mean: float
    low: float
    high: float
    p_value: float = math.nan


def mcnemar(gained: int, lost: int) -> float:
    """The exact mid-p value of McNemar's test: of the photos on which two differ, is either oftener right?"""
    n = gained + lost
    if n == 0:
        return 1.0
    least = min(gained, lost)
    both = 2 * stats.binom.cdf(least, n, 0.5) - stats.binom.pmf(least, n, 0.5)
    return float(min(1.0, both))


def bootstrap(values: np.ndarray, seed: int) -> Estimate:
    """The mean over photos (n,) with its percentile bootstrap interval over photos."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    means = np.concatenate([
        values[rng.integers(0, len(values), (_AT_ONCE, len(values)), dtype=np.int32)].mean(axis=1)
        for _ in range(RESAMPLES // _AT_ONCE)
    ])  # fmt: skip
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def crossed(differences: np.ndarray) -> Estimate:
    """The mean of differences (seeds, photos) whose interval holds for other photos and other seeds alike.

    Variance of the mean: that over photos of the mean over seeds, plus that over seeds of the mean over photos; a t
    interval with Satterthwaite's degrees of freedom. What is left of a photo and a seed together counts in both, so
    the interval is somewhat too wide where seeds hardly matter. Subtracting it gave intervals that held the truth as
    rarely as 89 % of the time with 3 seeds that differ by 2 points.
    """
    seeds, photos = differences.shape
    if seeds < 2 or photos < 2:
        raise ValueError(f"needs two seeds and two photos, got {seeds} and {photos}")
    mean = float(differences.mean())
    by_photo = float(differences.mean(axis=0).var(ddof=1)) / photos
    by_seed = float(differences.mean(axis=1).var(ddof=1)) / seeds
    variance = by_photo + by_seed
    if variance == 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = variance**2 / (by_photo**2 / (photos - 1) + by_seed**2 / (seeds - 1))
    error = math.sqrt(variance)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Estimate(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def signs(differences: np.ndarray) -> tuple[int, int]:
    """On how many photos the sum over seeds of (seeds, photos) differences is above 0, and below."""
    total = differences.sum(axis=0)
    return int((total > 1e-9).sum()), int((total < -1e-9).sum())


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values (Scand. J. Statist. 6:65, 1979): below α for all that hold together at level α.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
