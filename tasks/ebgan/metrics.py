"""How good samples, densities and anomaly scores are.

>>> counts = torch.tensor([2.0, 1.0, 1.0, 0.0])
>>> round(kl_to_uniform(counts), 4)  # ln 4 − H(½, ¼, ¼, 0)
0.3466
>>> round(frechet(np.zeros((4, 2)) + [[1], [-1], [1], [-1]], np.ones((4, 2)) + [[1], [-1], [1], [-1]]), 6)
2.0
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import scipy.linalg
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor

from tasks.ebgan.toys import Toy, make_toy

REACH = 4
"""A sample is of high quality within that many standard deviations of a mode's centre."""
_FINE = 2.5
"""Cells a standard deviation, of the grid that densities are compared on."""


def kl_to_uniform(counts: Tensor) -> float:
    """KL(counts, normalised ‖ uniform), nats; ln of their number where there is nothing to count."""
    if not counts.sum() > 0:
        return math.log(len(counts))
    shares = counts.double() / counts.sum()
    return float(torch.xlogy(shares, shares * len(counts)).sum())


def modes(x: Tensor, toy: Toy) -> dict[str, float]:
    """Modes that have a high-quality sample, the share of these, and two KLs (nats); x (n, 2).

    ``kl_uniform``: of the modes' shares among high-quality samples, to uniform. ``kl``: the same with one more outcome,
    being no such sample, which under the truth has probability e^{−8}: so it sees quality and coverage both.
    """
    distance, nearest = torch.cdist(x, toy.centres.to(x)).min(1)
    good = distance <= REACH * toy.sigma
    counts = torch.bincount(nearest[good], minlength=len(toy.centres)).double()
    quality, beside = float(good.double().mean()), math.exp(-(REACH**2) / 2)
    kl_uniform = kl_to_uniform(counts)
    kl = quality * kl_uniform + _term(quality, 1 - beside) + _term(1 - quality, beside)
    return {"modes": float((counts > 0).sum()), "quality": quality, "kl_uniform": kl_uniform, "kl": kl}


@torch.no_grad()
def density_kl(energy: Callable[[Tensor], Tensor], toy: Toy, device: str = "cpu") -> float:
    """KL(truth ‖ e^{−U}/Z) on a grid over ±extent, nats; Z is the grid's own sum. ``energy`` maps (n, 2) to (n,)."""
    points, truth = _truth(toy.name, device)
    ours = -torch.cat([energy(block) for block in points.split(1 << 16)]).double()
    return float((truth.exp() * (truth - ours + ours.logsumexp(0))).sum())


@functools.cache
def _truth(name: str, device: str) -> tuple[Tensor, Tensor]:
    """A law's grid (n, 2), and the logarithms of its shares there (n,)."""
    toy = make_toy(name)
    cells = math.ceil(2 * toy.extent * _FINE / toy.sigma)
    axis = (torch.arange(cells) + 0.5) / cells * 2 * toy.extent - toy.extent
    points = torch.cartesian_prod(axis, axis)
    truth = toy.log_density(points).double()
    return points.to(device), (truth - truth.logsumexp(0)).to(device)


def frechet(ours: np.ndarray, theirs: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½) of features (n, d) and (m, d), population covariances (Heusel 2017).

    tr (C₁C₂)^½ is taken as the sum of the singular values of a product of square roots, which stays real where C is
    singular.
    """
    (mean, root), (other_mean, other_root) = (_moments(np.asarray(each, np.float64)) for each in (ours, theirs))
    both = scipy.linalg.svdvals(root @ other_root.T).sum()
    spread = np.square(root).sum() + np.square(other_root).sum() - 2 * both
    return float(np.square(mean - other_mean).sum() + spread)


def inception_score(probabilities: np.ndarray) -> float:
    """exp E KL(p(y|x) ‖ p(y)) of class probabilities (n, classes)."""
    logs = np.log(np.maximum(probabilities, 1e-16))
    overall = np.log(np.maximum(probabilities.mean(0), 1e-16))
    return float(np.exp((probabilities * (logs - overall)).sum(1).mean()))


def anomaly(scores: Tensor, anomalous: Tensor, percentile: float) -> dict[str, float]:
    """AUPRC; precision, recall and F1 of calling what scores above the percentile an anomaly."""
    values, truth = scores.double().cpu().numpy(), anomalous.cpu().numpy()
    called = values > np.percentile(values, percentile)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, called, average="binary", zero_division=0)
    return {
        "auprc": float(average_precision_score(truth, values)),
        "precision": float(precision), "recall": float(recall), "f1": float(f1),
    }  # fmt: skip


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and R with RᵀR the covariance."""
    mean = features.mean(0)
    root: np.ndarray = np.linalg.qr(features - mean).R
    return mean, root / math.sqrt(len(features))


def _term(p: float, q: float) -> float:
    return p * math.log(p / q) if p > 0 else 0.0
