"""Ensembles: is a combination of trained classifiers better than the best of them, on photos that chose nothing?

Sources: Caruana et al., Ensemble selection from libraries of models (ICML 2004); Yao et al., stacking (2018); Wortsman
et al., Model soups (arXiv 2203.05482); the contest of kexue.fm/archives/4611 was won with an average of models.
Idea: classifiers that err on different photos correct one another. What chooses members, weights and temperatures on
some photos looks better on these than it is, so each photo is predicted by a combination that never saw it.

The photos fall into two parts, by their keys. On the search part everything is cross-fitted: for each fold the
members, their weights, the temperatures and the best single member are chosen on the other folds and reported on this
one. A study searches the methods by these metrics. The report part sees only the end: what the whole search part chose,
held against the best single member that the search part chose. ``report/…`` is the verdict's, and no search should be
given it as its metric.

>>> TASK.params(method="greedy").bags
20
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field as Bounded

from tasks.api import Choice, Context, Field, Goal, IntRange, Params, Resources, Row, Support, Task, Verdict


class EnsembleParams(Params):
    method: Literal["average", "geometric", "greedy", "stacking", "soup", "greedy_soup"] = "greedy"
    """``average``: of the best members' probabilities. ``geometric``: of their log-probabilities. ``greedy``: selection
    with replacement. ``stacking``: weights of the greatest likelihood. ``soup``: the mean of the best members' weights,
    which needs the photos as data. ``greedy_soup``: of those weights that do not make it worse."""
    metric: Literal["log_loss", "accuracy"] = "log_loss"
    """What chooses: members are ranked and picked by it. The log loss tells more of each photo than right or wrong."""
    size: int = Field(50, ge=1, le=1000)
    """Members that are averaged or souped; picks of the greedy selection, with replacement."""
    start: int = Field(5, ge=0, le=1000)
    """Greedy: so many best members are the first picks."""
    bags: int = Field(20, ge=1, le=1000)
    """Greedy: selections that are averaged, each from a random part of the members."""
    fraction: float = Field(0.5, gt=0, le=1)
    """Greedy: the part of the members that a bag may pick from."""
    prior: float = Field(10.0, ge=0, le=1e6)
    """Stacking: so many photos' worth of weight is spread evenly over the members."""
    temperature: Literal["fit"] | Annotated[float, Bounded(gt=0, le=100)] = 1.0
    """Members' scores are divided by it before they are combined. ``fit``: each by its own, of least log loss."""
    recalibrate: bool = True
    """Divide the combination's scores by the temperature of least log loss; the best single member's likewise."""
    top: int = Field(0, ge=0)
    """Only so many best members are candidates; 0 is all. They are ranked on the photos that choose."""
    folds: int = Field(5, ge=2, le=50)
    """Folds of the search part."""
    report_share: float = Field(0.5, gt=0, lt=1)
    """Share of the photos that chooses nothing, and that the verdict rests on."""
    split_seed: int = Field(0, ge=0)
    """Which photos these are; the same for all trials of a study."""
    classifiers: int = Field(24, ge=2, le=10_000)
    """Without inputs: classifiers to generate."""
    correlation: float = Field(0.6, ge=0, lt=1)
    """Without inputs: how much of their noise they share."""
    photos: int = Field(2400, ge=100, le=1_000_000)
    """Without inputs: photos to generate, of 12 classes."""


def run(params: EnsembleParams, context: Context) -> Mapping[str, float]:
    """Cross-fit on the search part, then fit on all of it and report on the rest."""
    from tasks.ensemble.trial import run  # scipy and matplotlib take a second to import, listing tasks need not

    return run(params, context)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Is the setting that the search part found best above the best single member on the report part?"""
    best = rows[0].metrics
    gain, low, high = (100 * best[f"report/gain{end}"] for end in ("", "_low", "_high"))
    found = (
        f"{rows[0].trial} ({rows[0].params.get('method', 'greedy')}, {best['members']:.0f} members) has top-1 "
        f"{best['report/top1']:.4f} where the best single member has {best['report/single/top1']:.4f}: {gain:+.2f} "
        f"points (95 % paired {low:+.2f} … {high:+.2f}, McNemar p {best['report/mcnemar_p']:.2g})"
    )
    how = f"on {best['report/photos']:.0f} photos that chose nothing; the best of {len(rows)} trials on the others"
    if low > 0:
        return Verdict(Support.SUPPORTED, f"The ensemble is better: {found}, {how}.")
    if high < 0:
        return Verdict(Support.NOT_SUPPORTED, f"The ensemble is worse: {found}, {how}.")
    return Verdict(Support.UNDECIDED, f"The gain is not told from 0: {found}, {how}.")


def _reports(prefix: str, photos: str) -> dict[str, str]:
    return {
        f"{prefix}top1": f"share of {photos} whose class scores highest",
        f"{prefix}top1_low": "lower end of its 95 % Wilson interval",
        f"{prefix}top1_high": "upper end",
        f"{prefix}log_loss": "nats",
        f"{prefix}ece": "expected calibration error, 15 bins",
        f"{prefix}photos": f"{photos}, how many",
        f"{prefix}single/top1": "that of the member of best top-1, chosen by the same photos",
        f"{prefix}single/log_loss": "that of the member of least log loss, chosen by the same photos, nats",
        f"{prefix}gain": "top-1 less that of the member of best top-1",
        f"{prefix}gain_low": "lower end of its 95 % paired bootstrap interval over photos",
        f"{prefix}gain_high": "upper end",
        f"{prefix}log_loss_gain": "log loss of the member of least log loss less the ensemble's, nats",
        f"{prefix}log_loss_gain_low": "lower end of its 95 % paired bootstrap interval over photos",
        f"{prefix}log_loss_gain_high": "upper end",
        f"{prefix}mcnemar_p": "exact mid-p of McNemar's test against the member of best top-1",
    }


TASK = Task(
    name="ensemble",
    question="Is an ensemble of the trained classifiers better than the best of them, and which?",
    params=EnsembleParams,
    metric="top1",
    goal=Goal.MAX,
    reports={
        **_reports("", "cross-fitted photos of the search part"),
        **_reports("report/", "photos of the report part"),
        "models": "classifiers to choose from, exact copies counted once",
        "members": "those with a weight, chosen on the whole search part",
        "effective_members": "1/Σw² of their weights",
        "diversity/disagreement": "mean over pairs of members: share of report photos that only one has right",
        "diversity/double_fault": "mean over pairs: share that both have wrong",
        "diversity/q_statistic": "mean over pairs: Yule's Q of their successes",
        "diversity/ambiguity": "the members' weighted mean log loss less that of their combination, nats",
        "bayes/top1": "generated classifiers: what the best combination there is has, in expectation",
    },
    space={
        "method": Choice("average", "geometric", "greedy", "stacking"),
        "metric": Choice("log_loss", "accuracy"),
        "size": IntRange(3, 100, log=True),
        "bags": IntRange(1, 40, log=True),
        "temperature": Choice("fit", 0.5, 1.0, 2.0),
    },
    resources=Resources(cpus=1),
    run=run,
    conclude=conclude,
    reads_inputs=True,
)
