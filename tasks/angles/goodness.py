"""Do the statistics agree with the law? Four questions, each answered with an interval and a p-value.

Source: Su Jianlin, kexue.fm/archives/7076 (the law); Kolmogorov–Smirnov, χ² on cells of equal probability, the variance
with its exact standard error, tails by exact binomial intervals (Clopper–Pearson) or, beyond the sample's reach, by
importance sampling. Idea: everything is read off mergeable statistics, and what that costs is accounted for.

>>> from tasks.angles.shards import Shard, measure
>>> test = Goodness(measure(Shard(n=10, sampler="exact", seed=1, index=0, samples=200_000)))
>>> test.ks().p_value > 0.01, test.chi2(100).p_value > 0.01, test.variance().p_value > 0.01
(True, True, True)

A p-value is uniform on [0, 1] when the law holds; the binomial ones, being discrete, are at least that large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from tasks.angles import TAILS
from tasks.angles.exact import Angle
from tasks.angles.sample import stream
from tasks.angles.statistics import Statistics, cells
from tasks.api import InputError

REACH = 10
"""A tail is counted when this many samples are expected in it, else it is sampled by importance."""
_Z = 1.959963984540054
_KS_95 = 1.3581  # the 95 % point of Kolmogorov's distribution
_OVERSHOOT = 0.5826  # −ζ(½)/√(2π): what a Brownian path exceeds its values on a unit grid by
_IMPORTANCE_DRAWS = 2**16
_PURPOSE = 3  # of the stream; the samplers have 1 and 2


@dataclass(frozen=True)
class Tested:
    """A measured ``value``, its 95 % interval, and the probability of a value as far off, were the law true."""

    value: float
    low: float
    high: float
    p_value: float


class Goodness:
    """The tests of one sample's statistics against the law of its dimension."""

    def __init__(self, statistics: Statistics) -> None:
        if statistics.count == 0:
            raise InputError("there are no samples to test: draw at least one (params.samples)")
        self.statistics = statistics
        self.angle = Angle(statistics.n)
        self._count = statistics.count

    def ks(self) -> Tested:
        """Distance D = max |F_N − F_n| over the cells' edges.

        The true maximum lies between edges: above D by at most the fullest cell's probability p (7e-5, which the upper
        end of the interval contains), and under the law by 0.58·√(p/N) on average, which the p-value makes up for
        (Broadie, Glasserman and Kou, Math. Finance 7, 1997). The rest is Stephens' correction for finite N.
        """
        grid, root = cells(self.statistics.n), math.sqrt(self._count)
        below = np.cumsum(self.statistics.counts) / self._count
        d = float(np.abs(below - grid.cumulative[1:]).max())
        missed = min(_OVERSHOOT * math.sqrt(grid.widest), grid.widest * root)
        p_value = float(special.kolmogorov((root + 0.12 + 0.11 / root) * d + missed))
        band = _KS_95 / root
        return Tested(d, max(0.0, d - band), min(1.0, d + band + grid.widest), p_value)

    def chi2(self, bins: int) -> Tested:
        """Pearson's statistic on ``bins`` bins, which end at the cell edges nearest to equal probability.

        Their probabilities are the exact ones, so nothing is approximated by that. The interval is the central 95 % of
        the statistic under the law. Raises `InputError` for fewer than 2 bins or more than a fifth of the samples.
        """
        if not 2 <= bins <= 1000:
            raise InputError(f"a histogram of {bins} bins tests nothing: give from 2 to 1000, such as params.bins=100")
        if self._count < 5 * bins:
            raise InputError(
                f"{self._count} samples are too few for a χ² test on {bins} bins, which expects 5 or more in each: "
                f"give params.samples={5 * bins} or more, or fewer bins"
            )
        cumulative = cells(self.statistics.n).cumulative
        ends = np.searchsorted((cumulative[1:] + cumulative[:-1]) / 2, np.arange(1, bins) / bins)
        expected = np.diff(cumulative[ends], prepend=0.0, append=1.0) * self._count
        observed = np.diff(np.cumsum(self.statistics.counts)[ends - 1], prepend=0, append=self._count)
        value, freedom = float(((observed - expected) ** 2 / expected).sum()), bins - 1
        low, high = (2 * float(special.gammaincinv(freedom / 2, p)) for p in (0.025, 0.975))
        return Tested(value, low, high, float(special.gammaincc(freedom / 2, value / 2)))

    def variance(self) -> Tested:
        """The mean of (θ − π/2)², the true mean being known.

        Its exact standard error is √((κ₄ + 2σ⁴)/N), which the p-value uses; the interval uses the sample's own.
        """
        moments, exact = self.statistics.moments, self.angle.variance
        value = moments.m2 / self._count + moments.mean**2
        fourth = moments.m4 / self._count + 4 * moments.mean * moments.m3 / self._count
        fourth += 6 * moments.mean**2 * moments.m2 / self._count + moments.mean**4
        half = _Z * math.sqrt(max(fourth - value**2, 0.0) / self._count)
        z = (value - exact) / math.sqrt((self.angle.fourth_cumulant + 2 * exact**2) / self._count)
        return Tested(value, value - half, value + half, float(special.erfc(abs(z) / math.sqrt(2))))

    def log10_exact(self, epsilon: float) -> float:
        """log₁₀ P(|cos θ| > ε) by the law."""
        return float(self.angle.log_tail(epsilon)) / math.log(10)

    def log10_tail(self, epsilon: float, seed: int) -> Tested:
        """log₁₀ P(|cos θ| > ε), for an ε of `TAILS`: from the sample, or by importance sampling beyond its reach."""
        exact = float(self.angle.log_tail(epsilon))
        if exact + math.log(self._count) < math.log(REACH):
            return importance_log_tail(self.angle, epsilon, seed)
        return _binomial(self.statistics.tails[TAILS.index(epsilon)], self._count, math.exp(exact))


def _binomial(hits: int, count: int, probability: float) -> Tested:
    """log₁₀ of a share with its Clopper–Pearson interval. Without a hit, the share of half a one stands for it."""
    at_most = float(special.bdtr(hits, count, probability))
    at_least = float(special.bdtrc(hits - 1, count, probability)) if hits > 0 else 1.0
    low = float(special.betaincinv(hits, count - hits + 1, 0.025)) if hits > 0 else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0
    least = 0.5 / count
    value, low, high = (math.log10(max(share, least)) for share in (hits / count, low, high))
    return Tested(value, min(low, value), max(high, value), min(1.0, 2 * min(at_most, at_least)))


def importance_log_tail(angle: Angle, epsilon: float, seed: int, draws: int = _IMPORTANCE_DRAWS) -> Tested:
    """log₁₀ P(|cos θ| > ε) from draws that all lie in the tail.

    t = cos² θ is Beta(½, a), a = (n−1)/2. Drawn instead from the density ∝ (1−t)^{a−1} on t > ε², which is
    1 − t = (1−ε²)·U^{1/a}, it has the weight t^{−½}·(1−ε²)^a / (a·B(½, a)): between 1 and 1/ε times a constant, so
    that the mean weight is normal to a good approximation. It measures the formula, not the sampler of the angles.
    """
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon={epsilon}: a tail |cos θ| > ε needs an ε between 0 and 1")
    a = (angle.n - 1) / 2
    uniform = 1 - np.random.Generator(stream(_PURPOSE, angle.n, seed, round(epsilon * 2**32))).random(draws)
    weights = 1 / np.sqrt(1 - (1 - epsilon**2) * uniform ** (1 / a))
    log_beta = -math.lgamma(a + 0.5) + math.lgamma(a) + 0.5 * math.log(math.pi)
    log_scale = a * math.log1p(-(epsilon**2)) - math.log(a) - log_beta
    mean, error = float(weights.mean()), float(weights.std(ddof=1)) / math.sqrt(draws)
    value = log_scale + math.log(mean)
    z = (math.exp(float(angle.log_tail(epsilon)) - value) - 1) * mean / error
    low, high = (value + math.log1p(sign * _Z * error / mean) for sign in (-1, 1))
    ten = math.log(10)
    return Tested(value / ten, low / ten, high / ten, float(special.erfc(abs(z) / math.sqrt(2))))
