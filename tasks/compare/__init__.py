"""Paired comparison: which settings of an earlier study differ beyond chance, on the same photos and the same seeds?

Sources: McNemar 1947; Roe & Metz, Acad. Radiol. 4:587 (1997), for intervals over two random factors; Holm 1979.
Idea: an arm and the baseline are trained on the same seeds and scored on the same photos. What both get right, or both
get wrong, cancels; what is left has an interval that holds for other photos and other seeds alike.

A trial of this task compares one arm. A study lets a grid search give the arms: the leaderboard then lists the
differences with their intervals, and the verdict corrects for their number.

>>> TASK.params(by="without", baseline="nothing", arm="glu", removes=True).seeds
3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.api import Choice, Context, Field, Goal, InputError, Params, Resources, Row, Task, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = bool | int | float | str


class CompareParams(Params):
    by: str = "arm"
    """The parameter of the inputs whose value says which arm a trial is of; ``study``: the study that it is of."""
    baseline: Value = "baseline"
    """Its value for the baseline."""
    arm: Value = "better"
    """Its value for the arm that is compared with the baseline; what a grid search goes through."""
    removes: bool = False
    """An arm leaves something out, as in an ablation: a lower top-1 than the baseline's says that this helps."""
    seeds: int = Field(3, ge=2, le=1000)
    """Fewer seeds that arm and baseline both ran on are refused: the interval over seeds needs them."""


def run(params: CompareParams, context: Context) -> Mapping[str, float]:
    """The difference of the arm from the baseline, with what it rests on."""
    from tasks.compare.trial import run  # scipy takes a second to import, listing tasks need not

    check(params, None)
    return run(params, context)


def check(params: CompareParams, data: Path | None) -> None:
    """An arm is compared with another one."""
    if str(params.arm) == str(params.baseline):
        raise InputError(f"params.arm={params.arm} is the baseline: leave it out of the arms")


def conclude(rows: Sequence[Row]) -> Verdict:
    """Which arms differ from the baseline, after Holm's correction for all of them?"""
    from tasks.compare.verdict import conclude

    return conclude(rows)


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """All differences with their intervals."""
    from tasks.compare.verdict import figures

    return figures(rows)


TASK = Task(
    name="compare",
    question="Which settings differ from the baseline beyond chance?",
    params=CompareParams,
    metric="difference",
    goal=Goal.MAX,
    reports={
        "difference": "top-1 of the arm less that of the baseline, mean over seeds",
        "difference_low": "lower end of its 95 % interval over photos and seeds",
        "difference_high": "upper end",
        "p_value": "of the difference being 0, over photos and seeds",
        "photo_low": "lower end of the 95 % bootstrap interval over photos alone, these seeds given",
        "photo_high": "upper end",
        "seed_spread": "standard deviation of the difference over seeds",
        "mcnemar_p": "exact mid-p of the photos on which the arm is oftener right against those where the baseline is",
        "gained": "photos that the arm has right on more seeds than the baseline",
        "lost": "photos that it has right on fewer",
        "seeds": "seeds on which both ran",
        "photos": "photos that both were validated on",
        "arm/top1": "mean over seeds",
        "baseline/top1": "mean over seeds",
        "arm/log_loss": "nats, mean over seeds",
        "baseline/log_loss": "nats, mean over seeds",
        "log_loss_gain": "log loss of the baseline less the arm's, nats: tells more of each photo than right or wrong",
        "log_loss_gain_low": "lower end of its 95 % interval over photos and seeds",
        "log_loss_gain_high": "upper end",
    },
    space={"arm": Choice("better", "same", "worse")},
    resources=Resources(cpus=1),
    run=run,
    check=check,
    conclude=conclude,
    figures=figures,
    reads_inputs=True,
)
