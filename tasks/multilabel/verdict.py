"""Which loss is best? A verdict for each problem, from leads that are paired by seed.

Idea: each loss is represented by the point of its grid with the best mean micro-F1 on the rows to choose by; what is
compared are other rows. The k-th runs of all points share their seed, so their rows, first weights and order: the
difference of two losses is taken seed by seed, with a Student interval. A loss is best if its lead over each other one
has an interval without 0.

>>> def row(loss, seed, f1):
...     params = {"problem": "digits", "loss": loss}
...     return Row(f"{loss}{seed}", params, {"val/f1_micro": f1, "f1_micro": f1, "f1_micro_tuned": f1, "map": f1}, seed)
>>> rows = [row(loss, seed, f1 + seed / 100) for loss, f1 in (("bce", 0.5), ("zlpr", 0.6)) for seed in range(3)]
>>> conclude(rows).support.value, conclude(rows[::3]).support.value
('supported', 'undecided')
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

from tasks.api import Row, Support, Verdict

__all__ = ["Arm", "Interval", "arms", "conclude", "interval"]

_CHOSEN_BY = "val/f1_micro"
_TWIN = ("zlpr_sparse", "zlpr")  # the same function of the scores: they differ by rounding alone
_TUNED = ("bce_tuned", "bce")  # the same scores: they differ in the decision alone


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % Student interval, infinite where there is one value only."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95 % {self.low:+.4f} … {self.high:+.4f})"


@dataclass(frozen=True)
class Arm:
    """A loss at its best point: the rows of that point, by seed."""

    loss: str
    rows: Mapping[int, Row]

    def values(self, metric: str) -> dict[int, float]:
        return {seed: row.metrics[metric] for seed, row in self.rows.items()}

    def mean(self, metric: str) -> float:
        return fmean(self.values(metric).values())


def arms(rows: Sequence[Row]) -> dict[str, list[Arm]]:
    """For each problem its losses, each at the point that is best on the rows to choose by."""
    points: dict[tuple[str, str], dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        rest = {name: value for name, value in row.params.items() if name not in ("problem", "loss")}
        points[row.params["problem"], row.params["loss"]][repr(sorted(rest.items()))][row.seed] = row
    found: dict[str, list[Arm]] = defaultdict(list)
    for (problem, loss), tried in sorted(points.items()):
        seeds = max(map(len, tried.values()))
        whole = [Arm(loss, runs) for runs in tried.values() if len(runs) == seeds]  # not those that failed on some
        found[problem].append(max(whole, key=lambda arm: arm.mean(_CHOSEN_BY)))
    return dict(found)


def interval(values: Sequence[float]) -> Interval:
    """The mean of some values, and where the mean of all would be."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Supported: on each problem one loss has the best micro-F1. Each problem gets its sentence."""
    verdicts = [_of_problem(problem, found) for problem, found in arms(rows).items()]
    supported = all(verdict.support is Support.SUPPORTED for verdict in verdicts)
    support = Support.SUPPORTED if supported else Support.UNDECIDED
    return Verdict(support, " ".join(verdict.sentence for verdict in verdicts))


def _of_problem(problem: str, found: Sequence[Arm]) -> Verdict:
    contest = _without(found, _TWIN)
    if len(contest) < 2:
        return Verdict(
            Support.UNDECIDED, f"{problem}: only {contest[0].loss} ran, there is nothing to compare it with."
        )
    seeds = set.intersection(*(set(arm.rows) for arm in contest))
    if len(seeds) < 2:
        best = max(contest, key=lambda arm: arm.mean("f1_micro"))
        return Verdict(
            Support.UNDECIDED,
            f"{problem}: {best.loss} has the highest micro-F1, {best.mean('f1_micro'):.4f}, but the losses have "
            f"{len(seeds)} seeds in common, so their differences have no interval: set search.seeds to 3 or more.",
        )
    decided, by_f1 = _best(contest, "f1_micro", "micro-F1", seeds)
    said = [f"{problem}, {len(seeds)} seeds: {by_f1}"]
    if len(scored := _without(contest, _TUNED)) > 1:
        said.append(_best(scored, "f1_micro_tuned", "micro-F1 where every threshold is tuned", seeds)[1])
        said.append(_best(scored, "map", "mAP", seeds)[1])
    said += _beside(found, seeds)
    return Verdict(Support.SUPPORTED if decided else Support.UNDECIDED, "; ".join(said) + ".")


def _without(found: Sequence[Arm], pair: tuple[str, str]) -> list[Arm]:
    """All but the first of a pair where the second is there."""
    both = set(pair) <= {arm.loss for arm in found}
    return [arm for arm in found if not (both and arm.loss == pair[0])]


def _best(contest: Sequence[Arm], metric: str, name: str, seeds: set[int]) -> tuple[bool, str]:
    """Whether the loss with the greatest mean is ahead of each other one beyond doubt, in words."""
    ranked = sorted(contest, key=lambda arm: -fmean(arm.values(metric)[seed] for seed in seeds))
    first, second = ranked[:2]
    leads = {other.loss: _lead(first, other, metric, seeds) for other in ranked[1:]}
    doubtful = [loss for loss, lead in leads.items() if lead.low <= 0]
    mean = fmean(first.values(metric)[seed] for seed in seeds)
    told = f"{first.loss} has the best {name}, {mean:.4f}, ahead of {second.loss} by {leads[second.loss]}"
    if not doubtful:
        return True, f"{told}, and of every other loss beyond doubt"
    return False, f"{told}; not decided against {', '.join(doubtful)}"


def _lead(one: Arm, other: Arm, metric: str, seeds: set[int]) -> Interval:
    return interval([one.values(metric)[seed] - other.values(metric)[seed] for seed in sorted(seeds)])


def _beside(found: Sequence[Arm], seeds: set[int]) -> list[str]:
    """What else is asked: ZLPR against BCE, tuned and not, and the way left to the best rule."""
    of = {arm.loss: arm for arm in found}
    said = []
    for other in ("bce", "bce_tuned"):
        if "zlpr" in of and other in of:
            said.append(f"zlpr − {other} in micro-F1: {_lead(of['zlpr'], of[other], 'f1_micro', seeds)}")
    if set(_TWIN) <= set(of) and seeds <= set(of[_TWIN[0]].rows):
        said.append(f"zlpr_sparse − zlpr: {_lead(of[_TWIN[0]], of[_TWIN[1]], 'f1_micro', seeds)}, the same function")
    best = max(found, key=lambda arm: arm.mean("f1_micro"))
    if all("gap/f1_micro" in row.metrics for row in best.rows.values()):
        best_rule = best.mean("bayes/f1_micro")
        said.append(f"the best rule there is has {best_rule:.4f}, {best.loss} lacks {best.mean('gap/f1_micro'):.4f}")
    return said
