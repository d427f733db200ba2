"""The law of the angle between two random directions in n dimensions, exactly and far into its tails.

Source: Su Jianlin, kexue.fm/archives/7076: p_n(θ) = sin^{n−2}θ / B((n−1)/2, ½) on [0, π].
Idea: by symmetry one vector may be held fixed, and the other then cuts the sphere at height cos θ, whose square is
Beta(½, (n−1)/2). So the distribution function is an incomplete beta function, and its logarithm a series where that
function is too small for a float.

>>> angle = Angle(512)
>>> round(angle.variance, 9), float(round(angle.log_tail(0.5), 3))
(0.001956945, -76.16)
>>> float(round(angle.quantile(angle.cdf(1.5)), 12))
1.5
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from tasks.api import InputError

MAX_DIMENSION = 10**6
_FAR = 50.0  # where (n−1)/2 · cos²θ exceeds this, the tail's series is exact to the last digit
_TERMS = 60


class Angle:
    """The angle Θ in [0, π] between two independent, uniformly random directions in R^n.

    Methods take angles in radians, numbers or arrays, and return float64 of their shape. ``mean`` is π/2, ``variance``
    ½ψ₁(n/2), ``fourth_cumulant`` −ψ₃(n/2)/8; the third is 0. Raises `InputError` unless 2 ≤ n ≤ 10⁶.
    """

    def __init__(self, n: int) -> None:
        if int(n) != n or not 2 <= n <= MAX_DIMENSION:
            raise InputError(f"n={n}: directions need a whole number of dimensions from 2 to {MAX_DIMENSION}")
        self.n = int(n)
        self._a = (self.n - 1) / 2
        self._log_beta = _log_beta_half(self._a)
        self.mean = math.pi / 2
        self.variance = float(special.polygamma(1, self.n / 2)) / 2
        self.fourth_cumulant = -float(special.polygamma(3, self.n / 2)) / 8

    def __repr__(self) -> str:
        return f"Angle(n={self.n})"

    def logpdf(self, theta: ArrayLike) -> NDArray[np.float64]:
        """ln p_n(θ); −inf outside [0, π]."""
        theta = np.asarray(theta, np.float64)
        inside = (theta >= 0) & (theta <= math.pi)
        at = np.where(inside, theta, 1.0)
        height = (self.n - 2) * _log_sin(np.sin(at), np.cos(at)) if self.n > 2 else np.zeros_like(at)
        return _scalar(np.where(inside, height - self._log_beta, np.where(np.isnan(theta), np.nan, -np.inf)))

    def pdf(self, theta: ArrayLike) -> NDArray[np.float64]:
        """p_n(θ), per radian; 0 outside [0, π]."""
        return _scalar(np.exp(self.logpdf(theta)))

    def logcdf(self, theta: ArrayLike) -> NDArray[np.float64]:
        """ln P(Θ ≤ θ): accurate down to probabilities of e^{−10⁹}."""
        theta = np.clip(np.asarray(theta, np.float64), 0, math.pi)
        return _scalar(self._log_below(np.sin(theta), np.cos(theta)))

    def logsf(self, theta: ArrayLike) -> NDArray[np.float64]:
        """ln P(Θ > θ)."""
        theta = np.clip(np.asarray(theta, np.float64), 0, math.pi)
        return _scalar(self._log_below(np.sin(theta), -np.cos(theta)))

    def cdf(self, theta: ArrayLike) -> NDArray[np.float64]:
        """F_n(θ) = P(Θ ≤ θ)."""
        return _scalar(np.exp(self.logcdf(theta)))

    def sf(self, theta: ArrayLike) -> NDArray[np.float64]:
        """P(Θ > θ)."""
        return _scalar(np.exp(self.logsf(theta)))

    def central(self, deviation: ArrayLike) -> NDArray[np.float64]:
        """P(0 ≤ Θ − π/2 ≤ δ), odd in δ: F_n(π/2 + δ) − ½ without its cancellation."""
        deviation = np.clip(np.asarray(deviation, np.float64), -math.pi / 2, math.pi / 2)
        sin2, cos2 = np.cos(deviation) ** 2, np.sin(deviation) ** 2
        inside = np.where(cos2 < 0.5, special.betainc(0.5, self._a, cos2), special.betaincc(self._a, 0.5, sin2))
        return _scalar(np.sign(deviation) * inside / 2)

    def quantile(self, probability: ArrayLike) -> NDArray[np.float64]:
        """The θ with F_n(θ) = p, for p in [0, 1]."""
        p = np.asarray(probability, np.float64)
        if not np.all((p >= 0) & (p <= 1)):
            raise InputError(f"a probability lies from 0 to 1, got {p}")
        q = np.minimum(p, 1 - p)
        inside = (q > 0) & (q < 0.5)
        found = self._lower_quantile(np.where(inside, q, 0.25))
        lower = np.where(inside, found, np.where(q > 0, math.pi / 2, 0.0))
        return _scalar(np.where(p <= 0.5, lower, math.pi - lower))

    def log_tail(self, epsilon: ArrayLike) -> NDArray[np.float64]:
        """ln P(|cos Θ| > ε): 0 at and below ε = 0, −inf from ε = 1 on."""
        eps = np.clip(np.asarray(epsilon, np.float64), 0, 1)
        return _scalar(math.log(2) + self._log_half(np.sqrt((1 - eps) * (1 + eps)), eps))

    def _lower_quantile(self, q: NDArray[np.float64]) -> NDArray[np.float64]:
        """The θ with F_n(θ) = q, for 0 < q < ½: a guess, and Newton steps on ln F as a function of ln θ."""
        cos2, a = special.betainccinv(0.5, self._a, 2 * q), self._a
        tiny = np.exp((np.log(2 * q) + math.log(a) + self._log_beta) / (2 * a))  # sin^{2a} = 2q·a·B, near 0
        theta = np.where(tiny < 0.03, tiny, np.arccos(np.sqrt(np.minimum(cos2, 0.9999))))
        for _ in range(3):
            log_p = self.logcdf(theta)
            slope = np.exp(self.logpdf(theta) - log_p) * theta
            theta = np.minimum(theta * np.exp((np.log(q) - log_p) / slope), math.pi / 2)
        return theta

    def _log_below(self, sin: NDArray[np.float64], cos: NDArray[np.float64]) -> NDArray[np.float64]:
        half = self._log_half(sin, np.abs(cos))
        return np.where(cos >= 0, half, np.log1p(-np.exp(half)))

    def _log_half(self, sin: NDArray[np.float64], cos: NDArray[np.float64]) -> NDArray[np.float64]:
        """ln ½I_{sin²}((n−1)/2, ½), the logarithm of the probability beyond an angle on one side of π/2; sin, cos ≥ 0.

        Far out, with a = (n−1)/2 and T = sin²/cos²: I = sin^{2a} / (a·B(a, ½)·cos) · Σ_k (½)_k/(a+1)_k·(−T)^k. This
        is Pfaff's form of the series; it converges for T < 1 and else is asymptotic, its smallest term e^{−a·cos²}.
        """
        a, cos2 = self._a, cos**2
        far = (a * cos2 > _FAR) | (sin < 0.1)
        centre2 = np.where(far, 0.5, cos2)
        within = special.betainc(0.5, a, centre2)
        # the complement of what is small must not be computed as such: it would lose digits
        beyond = np.where(within < 0.5, 1 - within, special.betaincc(0.5, a, centre2))
        beyond = np.where(centre2 < 0.5, beyond, special.betainc(a, 0.5, np.where(far, 0.5, sin**2)))
        log_cos = np.log(np.where(far, cos, 1.0))
        ratio = np.where(far, (sin / np.where(far, cos, 1.0)) ** 2, 0.0)
        term = total = np.ones_like(ratio)
        for k in range(_TERMS):
            term = term * -ratio * ((k + 0.5) / (a + 1 + k))
            total = total + term
        series = 2 * a * _log_sin(sin, cos) - log_cos - math.log(a) - self._log_beta + np.log(total)
        return np.where(far, series, np.log(np.where(far, 1.0, beyond))) - math.log(2)


def _log_beta_half(a: float) -> float:
    """ln B(a, ½) for a ≥ ½. The difference of two log-gammas would lose ten digits at a = 10⁶."""
    if a < 25:
        return math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    # ln Γ(a+½)/Γ(a), by Stirling's series for both
    series = -1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7) - 31 / (18432 * a**9)
    return 0.5 * math.log(math.pi / a) - series


def _log_sin(sin: NDArray[np.float64], cos: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln sin θ, by way of cos θ where that is the smaller, so that neither end cancels."""
    with np.errstate(divide="ignore"):
        return np.where(cos**2 < 0.5, np.log1p(-np.minimum(cos**2, 0.5)) / 2, np.log(sin))


def _scalar(values: Any) -> Any:
    """A number for a number, an array for an array."""
    return values[()] if isinstance(values, np.ndarray) else values
