"""How good predictions are, and how different the members are that made them.

Sources: Guo et al. (arXiv 1706.04599) for the calibration error; Kuncheva & Whitaker, Measures of diversity in
classifier ensembles (Machine Learning 51, 2003). Idea: members that err on different photos leave the ensemble room;
how much it uses of that is the ambiguity, the members' mean log loss less the ensemble's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

BINS = 15


def own(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The right class's log-probability (photos,)."""
    return np.asarray(log_p[np.arange(len(labels)), labels])


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927)."""
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Reliability:
    """By bin of confidence: how many photos, their mean confidence, and the share that is right."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of confidence and accuracy, over photos."""
        return float((self.counts * abs(self.confidence - self.accuracy)).sum() / self.counts.sum())


def reliability(log_p: np.ndarray, hits: np.ndarray, bins: int = BINS) -> Reliability:
    """Confidence against accuracy in bins of equal width; empty bins are 0 throughout."""
    sure = np.exp(log_p.max(axis=1))
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    many = np.maximum(counts, 1)
    return Reliability(
        counts,
        np.bincount(bin_of, weights=sure, minlength=bins) / many,
        np.bincount(bin_of, weights=hits, minlength=bins) / many,
    )


@dataclass(frozen=True)
class Diversity:
    """Means over all pairs of members. ``disagreement``: share of photos on which one is right and the other wrong.
    ``double_fault``: on which both are wrong. ``q_statistic``: Yule's Q of their successes: 0 where they are
    independent, 1 where they go together. ``pairs`` (members, members): the disagreement of each pair."""

    disagreement: float
    double_fault: float
    q_statistic: float
    pairs: np.ndarray


def diversity(hits: np.ndarray) -> Diversity:
    """Of members by their successes, bool (members, photos). A single member differs from nobody: 0, its error, 1."""
    good = hits.astype(np.float64)
    both, neither = good @ good.T, (1 - good) @ (1 - good).T
    only_one, only_other = good @ (1 - good).T, (1 - good) @ good.T
    photos = hits.shape[1]
    pairs = (only_one + only_other) / photos
    if len(hits) < 2:
        return Diversity(0.0, float(neither[0, 0] / photos), 1.0, pairs)
    upper = np.triu_indices(len(hits), 1)
    together, apart = (both * neither)[upper], (only_one * only_other)[upper]
    known = together + apart > 0  # two of which one is never wrong say nothing of each other
    q = (together - apart)[known] / (together + apart)[known]
    return Diversity(
        float(pairs[upper].mean()),
        float(neither[upper].mean() / photos),
        float(q.mean()) if known.any() else 0.0,
        pairs,
    )
