"""Weights on the simplex that make the mixture of the members' probabilities likeliest.

Source: Yao, Vehtari, Simpson & Gelman, Using stacking to average Bayesian predictive distributions (Bayesian Analysis
13:917, 2018); Wolpert 1992. Idea: Σᵢ log Σₘ wₘ pₘ(yᵢ) is concave in w, and the expectation–maximisation update climbs
it without a step size. ``prior`` photos spread evenly over the members keep the weights from resting on few photos.

>>> stack(np.array([[0.9, 0.1], [0.8, 0.3], [0.7, 0.2]]), prior=0.0).round(3).tolist()
[1.0, 0.0]
"""

from __future__ import annotations

import numpy as np


def stack(own: np.ndarray, prior: float, rounds: int = 5000, enough: float = 1e-7) -> np.ndarray:
    """Weights (members,) from ``own`` (photos, members), the probabilities of the right class, which are above 0."""
    photos, members = own.shape
    own = np.ascontiguousarray(own, dtype=np.float64)
    weights = np.full(members, 1 / members)
    before = -np.inf
    for _ in range(rounds):
        mixture = own @ weights
        objective = np.log(mixture).sum() + (prior / members * np.log(weights).sum() if prior else 0.0)
        if objective - before <= enough * photos:
            break
        before = objective
        shares = weights * (own.T @ (1 / mixture)) + prior / members
        weights = np.maximum(shares / shares.sum(), 1e-300)
    return weights / weights.sum()
