"""One number that makes a classifier's probabilities honest: softmax(z/T).

Source: Guo et al., On calibration of modern neural networks (arXiv 1706.04599). Idea: the log loss is convex in 1/T,
so that Newton's method, kept within the bracket that the slope's sign gives, finds the least of it.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

LOW, HIGH = 1e-3, 1e3
"""Bounds of 1/T. A classifier that errs nowhere has no finite best one."""


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The T of the least log loss of softmax(scores/T): scores (photos, classes), labels (photos,)."""
    z = scores.astype(np.float64)
    z -= z[np.arange(len(z)), labels][:, None]  # the loss is then log Σ exp(βz)
    low, high, beta = LOW, HIGH, 1.0
    for _ in range(60):
        slope, curvature = _derivatives(z, beta)
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curvature if curvature > 0 else -1.0
        # A step out of the bracket halves it, in the logarithm, instead.
        following = step if low < step < high else float(np.sqrt(low * high))
        if abs(following - beta) <= 1e-6 * beta:
            break
        beta = following
    return float(1 / beta)


def _derivatives(z: np.ndarray, beta: float) -> tuple[float, float]:
    p = softmax(beta * z, axis=1)
    mean = (p * z).sum(axis=1)
    return float(mean.mean()), float(((p * z * z).sum(axis=1) - mean**2).mean())
