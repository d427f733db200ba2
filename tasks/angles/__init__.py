"""Angles: how is the angle of two random vectors in n dimensions distributed?

Source: Su Jianlin, kexue.fm/archives/7076.
Idea: the density is proportional to sin^{n−2}θ, so that in high dimensions any two vectors are nearly perpendicular,
the angle nearly normal about π/2 with a variance of about 1/n. The law is computed exactly, and up to billions of
sampled angles are held against it, of which nothing is kept but mergeable statistics.

>>> TASK.params(n=3).sampler
'exact'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from tasks.api import Choice, Context, Field, Goal, Params, Resources, Row, Task, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAILS = (0.1, 0.2, 0.3, 0.5)
"""The ε of the tails P(|cos θ| > ε)."""


class AngleParams(Params):
    n: int = Field(100, ge=2, le=1_000_000)
    """Dimensions."""
    samples: int = Field(1_000_000, ge=1000, le=10**13)
    """Angles to draw."""
    sampler: Literal["exact", "direct"] = "exact"
    """``exact``: the law of the angle, O(1) a sample. ``direct``: two Gaussian vectors and the angle between them."""
    shard: int = Field(100_000, ge=1000, le=10**9)
    """Angles that one worker draws at a time. Each shard has its own stream: another size gives other samples."""
    bins: int = Field(100, ge=2, le=200)
    """Bins of the χ² test, of equal probability, and of the drawn histogram."""


def run(params: AngleParams, context: Context) -> Mapping[str, float]:
    """Draw the sample all over the cluster and test it; returns what the tests measure."""
    from tasks.angles.trial import run  # scipy and matplotlib take a second to import, listing tasks need not

    return run(params, context)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Does the law hold, over all rows and tests, and does it give the post's table?"""
    from tasks.angles.verdict import conclude

    return conclude(rows)


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """The errors of the two normal approximations against n."""
    from tasks.angles.figures import study_figures

    return study_figures(rows)


def _tail_reports(epsilon: float) -> dict[str, str]:
    name = f"tail_{epsilon}"
    return {
        f"{name}/log10_exact": f"log₁₀ P(|cos θ| > {epsilon}) by the law",
        f"{name}/log10_sample": "the same by the sample; by importance sampling where it would hold fewer than 10",
        f"{name}/log10_sample_low": "lower end of its 95 % interval (Clopper–Pearson where counted)",
        f"{name}/log10_sample_high": "upper end",
        f"{name}/p_value": "probability of as many or as few, were the law true",
    }


TASK = Task(
    name="angles",
    question="How is the angle of two random vectors in R^n distributed?",
    params=AngleParams,
    metric="ks/distance",
    goal=Goal.MIN,
    reports={
        "dimension": "n",
        "samples": "angles drawn",
        "ks/distance": "greatest distance of the sample's distribution function from the law's",
        "ks/distance_low": "lower end of its 95 % interval",
        "ks/distance_high": "upper end",
        "ks/p_value": "probability of a greater one, were the law true (Kolmogorov–Smirnov)",
        "chi2/statistic": "Pearson's χ² over bins of equal probability",
        "chi2/p_value": "probability of a greater one, were the law true",
        "variance/sample": "mean of (θ − π/2)², square radians",
        "variance/sample_low": "lower end of its 95 % interval",
        "variance/sample_high": "upper end",
        "variance/exact": "½ψ₁(n/2)",
        "variance/p_value": "probability of a sample variance as far off, were the law true",
        "kurtosis/sample": "excess kurtosis of θ",
        "kurtosis/exact": "−½ψ₃(n/2)/ψ₁(n/2)²",
        "normal/post_distance": "greatest error of N(π/2, 1/(n−2)) as a distribution function, from n = 3",
        "normal/better_distance": "greatest error of N(π/2, 1/(n−1))",
        **{name: said for epsilon in TAILS for name, said in _tail_reports(epsilon).items()},
    },
    space={"n": Choice(2, 3, 5, 10, 20, 50, 100, 200, 1000, 4096), "sampler": Choice("exact", "direct")},
    resources=Resources(cpus=1),
    run=run,
    conclude=conclude,
    figures=figures,
    maps=True,
    reads_data=False,
)
