"""How good scores and decisions are, for several right labels at once.

Sources: the reviews of multi-label learning (Zhang and Zhou 2014, doi 10.1109/TKDE.2013.39) for F1, ranking loss and
coverage; Guo et al. 2017, arXiv 1706.04599, for the expected calibration error. Scores and targets are (rows, labels);
equal scores count as in scikit-learn: against the ranking.

>>> scores, holds = np.array([[2.0, 1.0, -1.0]]), np.array([[True, False, True]])
>>> f1_micro(scores > 0, holds), ranking_loss(scores, holds), coverage(scores, holds)
(0.5, 0.5, 3.0)
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

__all__ = [
    "best_threshold", "best_threshold_known", "calibration", "calibration_error", "coverage", "f1_macro", "f1_micro",
    "mean_average_precision", "ranking_loss",
]  # fmt: skip


def f1_micro(decided: np.ndarray, holds: np.ndarray) -> float:
    """2TP / (2TP + FP + FN) over all labels of all rows; 0 where there is nothing to find and nothing is found."""
    wanted = int(decided.sum()) + int(holds.sum())
    return 2 * int((decided & holds).sum()) / wanted if wanted else 0.0


def f1_macro(decided: np.ndarray, holds: np.ndarray) -> float:
    """The mean of F1 over the labels that occur."""
    occurs = holds.any(axis=0)
    hits, wanted = (decided & holds).sum(axis=0), decided.sum(axis=0) + holds.sum(axis=0)
    return float((2 * hits[occurs] / wanted[occurs]).mean()) if occurs.any() else 0.0


def mean_average_precision(scores: np.ndarray, holds: np.ndarray) -> float:
    """The mean over the labels that occur of Σ (recall − recall before) · precision, at each distinct score."""
    found = [_average_precision(s, h) for s, h in zip(scores.T, holds.T, strict=True) if h.any()]
    return float(np.mean(found)) if found else 0.0


def ranking_loss(scores: np.ndarray, holds: np.ndarray) -> float:
    """Share of a row's pairs of a positive and a negative that are ordered wrongly or not at all; mean over rows, of
    which those without such a pair count 0."""
    positives = holds.sum(axis=1)
    pairs = positives * (holds.shape[1] - positives)
    # Over all labels as against over positives: how many negatives score at least as high as a positive.
    among_all = rankdata(-scores, method="max", axis=1)
    of_positives = np.where(holds, -scores, np.inf)
    among_positives = rankdata(of_positives, method="max", axis=1)
    wrong = np.where(holds, among_all - among_positives, 0).sum(axis=1)
    return float(np.where(pairs > 0, wrong / np.maximum(1, pairs), 0).mean())


def coverage(scores: np.ndarray, holds: np.ndarray) -> float:
    """How many labels score at least as high as the lowest positive; mean over rows, 0 for one without positives."""
    lowest = np.where(holds, scores, np.inf).min(axis=1, keepdims=True)
    return float((scores >= lowest).sum(axis=1).mean())


def calibration(probabilities: np.ndarray, holds: np.ndarray, bins: int = 15) -> np.ndarray:
    """``(3, bins)``: entries, mean probability and share that holds, in bins of equal width; of all labels together."""
    p = np.clip(probabilities.ravel().astype(np.float64), 0, 1)
    where = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(where, minlength=bins)
    sums = [np.bincount(where, weights=values, minlength=bins) for values in (p, holds.ravel().astype(float))]
    return np.stack([counts, *(total / np.maximum(1, counts) for total in sums)])


def calibration_error(probabilities: np.ndarray, holds: np.ndarray, bins: int = 15) -> float:
    """Mean distance of the share that holds from the probability, over bins, by entries."""
    counts, claimed, held = calibration(probabilities, holds, bins)
    return float((counts * abs(claimed - held)).sum() / max(1, counts.sum()))


def best_threshold(scores: np.ndarray, holds: np.ndarray) -> tuple[float, float]:
    """``(threshold, F1)``: predicting every score above this one gives the greatest micro-F1 on these rows.

    It lies midway between two scores, so as to depend on neither's last bit; with nothing to find it is the greatest.
    """
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")
    return _best_cut(flat[order], holds.ravel()[order].astype(np.float64))


def best_threshold_known(probabilities: np.ndarray) -> tuple[float, float]:
    """The same where the probabilities are true: F1 is that of the expected hits, and the threshold is half of it."""
    flat = -np.sort(-probabilities.ravel())
    _, best = _best_cut(flat, flat)
    return best / 2, best


def _best_cut(descending: np.ndarray, held: np.ndarray) -> tuple[float, float]:
    """Where to cut a list of scores for the best F1; ``held``: whether, or how likely, each entry holds."""
    f1 = 2 * np.cumsum(held) / (np.arange(1, len(held) + 1) + held.sum())
    f1[:-1][descending[:-1] == descending[1:]] = -1  # no cut falls between equals
    at = int(f1.argmax())
    if f1[at] <= 0:
        return float(descending[0]), 0.0
    below = descending[at + 1] if at + 1 < len(descending) else descending[at] - 1
    return float((descending[at] + below) / 2), float(f1[at])


def _average_precision(scores: np.ndarray, holds: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(holds[order])
    last = np.append(ordered[:-1] != ordered[1:], True)  # of equals, only all together can be found
    hits, found = hits[last], np.flatnonzero(last) + 1
    return float((np.diff(hits, prepend=0) * hits / found).sum() / hits[-1])
