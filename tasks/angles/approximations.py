"""How far the angle's law is from a normal one.

Source: Su Jianlin, kexue.fm/archives/7076, approximates Θ by N(π/2, 1/(n−2)), from the curvature of ln p_n at π/2.
Idea: the true variance is ½ψ₁(n/2) = 1/n + 1/n² + 2/(3n³) + …, to which 1/(n−1) is far closer than 1/(n−2). Both
distances are computed here without sampling: two distribution functions differ most where their densities cross.

>>> at = 1000
>>> [float(f"{distance(at, variance(at)):.2g}") for variance in (post_variance, better_variance)]
[8.7e-05, 4.6e-05]
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from tasks.angles.exact import Angle
from tasks.api import InputError


def post_variance(n: int) -> float:
    """1/(n−2), the post's; raises `InputError` at n = 2, where there is none."""
    if n <= 2:
        raise InputError(f"n={n}: the approximation N(π/2, 1/(n−2)) begins at n=3")
    return 1 / (n - 2)


def better_variance(n: int) -> float:
    """1/(n−1), which agrees with ½ψ₁(n/2) to the second order in 1/n."""
    return 1 / (n - 1)


def distance(n: int, variance: float) -> float:
    """max |F_n − Φ|, Φ the distribution function of N(π/2, ``variance``), to about 1e-14."""
    angle, sd = Angle(n), math.sqrt(variance)

    def log_ratio(deviation: float) -> float:
        normal = -(deviation**2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
        return float(angle.logpdf(math.pi / 2 - deviation)) - normal

    def gap(deviation: float) -> float:
        return abs(float(angle.central(deviation)) - float(special.ndtr(deviation / sd)) + 0.5)

    end = math.pi / 2
    grid = np.linspace(0, min(end, 12 * sd), 401)[:-1]
    signs = [log_ratio(x) > 0 for x in grid]
    crossings = [
        optimize.brentq(log_ratio, low, high, xtol=1e-15)
        for low, high, before, after in zip(grid, grid[1:], signs, signs[1:], strict=False)
        if before != after
    ]
    return max(gap(x) for x in (*crossings, end))
