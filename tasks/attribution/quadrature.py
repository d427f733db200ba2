"""Rules for ∫₀¹: Gauss–Legendre, and the midpoint, trapezoid and right-end rules to compare it with.

On a smooth path Gauss–Legendre gains digits with every node. A network of ReLUs is piecewise linear, its gradient
along the path jumps at each kink, and no rule of fixed nodes converges faster than the width of its steps there.

>>> nodes, weights = rule("gausslegendre", 3)
>>> abs(float(weights @ nodes**5) - 1 / 6) < 1e-15  # exact to the degree 2n − 1
True
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import roots_legendre

Rule = tuple[NDArray[np.float64], NDArray[np.float64]]


def _gausslegendre(n: int) -> Rule:
    nodes, weights = roots_legendre(n)  # on [−1, 1]; numpy's takes minutes for thousands of nodes
    return (nodes + 1) / 2, weights / 2


def _midpoint(n: int) -> Rule:
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def _trapezoid(n: int) -> Rule:
    if n < 2:
        raise ValueError(f"the trapezoid rule takes 2 nodes or more, got {n}")
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


def _right(n: int) -> Rule:
    return (np.arange(n) + 1) / n, np.full(n, 1 / n)


RULES: dict[str, Callable[[int], Rule]] = {
    "gausslegendre": _gausslegendre,
    "midpoint": _midpoint,
    "trapezoid": _trapezoid,
    "right": _right,
}


def rule(name: str, n: int) -> Rule:
    """Nodes and weights, (n,) each, of ∫₀¹ f ≈ weights @ f(nodes). Raises ValueError for what there is none of."""
    if name not in RULES:
        raise ValueError(f"no quadrature rule '{name}'; there are {', '.join(RULES)}")
    if n < 1:
        raise ValueError(f"a rule takes 1 node or more, got {n}")
    return RULES[name](n)
