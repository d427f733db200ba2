"""A trial: one dimension, its sample drawn in shards, and what the sample says of the law."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tasks.angles import TAILS, AngleParams
from tasks.angles.approximations import better_variance, distance, post_variance
from tasks.angles.figures import density_figure, ks_figure
from tasks.angles.goodness import Goodness, Tested
from tasks.angles.shards import measure, split
from tasks.angles.statistics import Statistics
from tasks.api import Context

STEPS = 10
"""At most this many reports, each on all that was drawn so far."""


def run(params: AngleParams, context: Context) -> Mapping[str, float]:
    """Draw, test and draw figures; reports how the tests stand after each tenth of the shards."""
    shards = split(params.n, params.sampler, context.seed, params.samples, params.shard, context.device)
    for step, so_far in enumerate(_stages(context.map(measure, shards), len(shards)), 1):
        test = Goodness(so_far)
        ks, variance = test.ks(), test.variance()
        context.report(
            step, samples=so_far.count,
            **_with_interval("ks/distance", ks), **_with_interval("variance/sample", variance),
        )  # fmt: skip
    context.figure("density", density_figure(so_far, params.bins))
    context.figure("ks", ks_figure(so_far))
    return measured(so_far, params.bins, context.seed)


def measured(statistics: Statistics, bins: int, seed: int) -> dict[str, float]:
    """The final metrics: the tests, and what the normal approximations would get wrong."""
    test, n = Goodness(statistics), statistics.n
    ks, chi2, variance = test.ks(), test.chi2(bins), test.variance()
    metrics = {
        "dimension": n, "samples": statistics.count,
        **_with_interval("ks/distance", ks), "ks/p_value": ks.p_value,
        "chi2/statistic": chi2.value, "chi2/p_value": chi2.p_value,
        **_with_interval("variance/sample", variance), "variance/p_value": variance.p_value,
        "variance/exact": test.angle.variance,
        "kurtosis/sample": statistics.moments.kurtosis,
        "kurtosis/exact": test.angle.fourth_cumulant / test.angle.variance**2,
        "normal/better_distance": distance(n, better_variance(n)),
    }  # fmt: skip
    if n > 2:
        metrics["normal/post_distance"] = distance(n, post_variance(n))
    for epsilon in TAILS:
        tail = test.log10_tail(epsilon, seed)
        metrics |= _with_interval(f"tail_{epsilon}/log10_sample", tail)
        metrics[f"tail_{epsilon}/log10_exact"] = test.log10_exact(epsilon)
        metrics[f"tail_{epsilon}/p_value"] = tail.p_value
    return metrics


def _stages(parts: Iterable[Statistics], count: int) -> Iterator[Statistics]:
    """All parts so far, in their order, after each tenth of them."""
    total: Statistics | None = None
    for done, part in enumerate(parts, 1):
        total = part if total is None else total.merged(part)
        if done * STEPS // count > (done - 1) * STEPS // count or done == count:
            yield total


def _with_interval(name: str, tested: Tested) -> dict[str, float]:
    return {name: tested.value, f"{name}_low": tested.low, f"{name}_high": tested.high}
