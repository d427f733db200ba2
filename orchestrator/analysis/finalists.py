"""What runs on several seeds say: their means and intervals, and whether the winning finalist is the best. Pure.

Each mean has the 95 % interval of Student's t, ``m ± t(0.975, n-1) s/√n`` ("The probable error of a mean",
Biometrika 6, 1908). The k-th runs of all finalists share a seed, so two finalists are compared by the paired t-test,
the same formula on the n differences. The winner is compared with the runner-up and with the study's defaults, and both
p are corrected by Holm ("A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6, 1979). All values
that the search itself saw stay out, for it picked the luckiest of them.

The winner is picked by the very runs that are then tested. Having to beat its runner-up, the luckiest of the others,
makes up for that: measured, where all are equally good a trial is found better in 2.5 % of studies with one finalist,
1 to 1.5 % with two, below 1 % with three. The worst case is 5 %: two equal finalists far better than the defaults.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import DEFAULTS, finite_value, metric_of
from tasks.api import Goal, Support, Verdict

LEVEL = 0.05


@dataclass(frozen=True)
class Group:
    """The ``runs`` of one trial's parameters on several seeds: values, mean, and the mean's 95 % interval."""

    trial: str
    runs: tuple[str, ...]
    values: list[float]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Lead:
    """By how much one is better than another (above 0: better), by the seeds on which both finished.

    ``p`` is two-sided, for no difference. With fewer than two common seeds all but ``seeds`` is NaN.
    """

    over: str
    seeds: int
    mean: float
    low: float
    high: float
    p: float


def groups(record: Record) -> list[Group]:
    """The finalists and the defaults that finished on two fresh seeds or more, best mean first."""
    return _ordered(record, _finalist_runs(record))


def repeats(record: Record) -> list[Group]:
    """The points of a grid that finished on two seeds or more, best mean first. Each is called by its first trial."""
    points: dict[str, list[TrialRecord]] = {}
    for trial in record.trials.values() if record.study["search"].get("seeds", 1) > 1 else ():
        points.setdefault(repr(sorted(trial.chosen.items())), []).append(trial)
    return _ordered(record, {trials[0].id: trials for trials in points.values()})


def verdict(record: Record) -> Verdict:
    """Whether the winner is better than the runner-up and than the defaults, both at 5 %; else it is undecided.

    Where the defaults win, the search did not beat them: not supported when they beat the best searched trial at 5 %,
    undecided otherwise. Needs two `groups` or more.
    """
    ordered = groups(record)
    assert len(ordered) >= 2, "a comparison takes two"
    winner, *others = (group.trial for group in ordered)
    compared = others[:1] + [other for other in others[1:] if other == DEFAULTS and winner != DEFAULTS]
    leads = [lead(record, winner, other) for other in compared]
    adjusted = holm([lead.p for lead in leads])
    better = all(p < LEVEL and lead.mean > 0 for p, lead in zip(adjusted, leads, strict=True))
    said = f"{_measured(ordered[0], record)}, {_said(leads, adjusted)}{_missing(record, [winner, *compared])}"
    if winner == DEFAULTS:
        support = Support.NOT_SUPPORTED if better else Support.UNDECIDED
        return Verdict(support, f"The search did not beat the defaults: they lead with {said}.")
    if DEFAULTS not in others:
        said, better = f"{said}; too few runs of the defaults finished to compare with", False
    than = "both" if len(compared) == 2 else "the defaults"
    end = f"It is better than {than}." if better else f"That it is better than {than} is not established."
    return Verdict(Support.SUPPORTED if better else Support.UNDECIDED, f"{winner} leads with {said}. {end}")


def lead(record: Record, winner: str, other: str) -> Lead:
    """The paired comparison of two finalists."""
    _, goal = metric_of(record)
    runs = _finalist_runs(record)
    ours, theirs = (
        {record.trials[run].seed: value for run, value in _finite(record, runs[name]).items()}
        for name in (winner, other)
    )
    common = [seed for seed in ours if seed in theirs]
    sign = 1 if goal is Goal.MAX else -1
    differences = [sign * (ours[seed] - theirs[seed]) for seed in common]
    if len(common) < 2:
        return Lead(other, len(common), *[math.nan] * 4)
    rounding = 1e-12 * max(abs(values[seed]) for values in (ours, theirs) for seed in common)
    if max(differences) - min(differences) <= rounding:  # all the same: t would be infinite, or 0/0
        mean = statistics.fmean(differences)
        return Lead(other, len(common), *(0, 0, 0, 1) if abs(mean) <= rounding else (mean, mean, mean, 0))
    return Lead(other, len(common), *_mean(differences), _p_of_zero(differences))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number: the i-th smallest of m counts m - i + 1 times, none less than one before.

    >>> holm([0.03, 0.02])
    [0.04, 0.04]
    """
    adjusted, largest = [math.nan] * len(ps), 0.0
    known = sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])
    for rank, index in enumerate(known):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _finalist_runs(record: Record) -> dict[str, list[TrialRecord]]:
    runs: dict[str, list[TrialRecord]] = {}
    for trial in record.trials.values():
        if trial.of is not None:
            runs.setdefault(trial.of, []).append(trial)
    return runs


def _finite(record: Record, runs: Sequence[TrialRecord]) -> dict[str, float]:
    """The finite values of finished runs."""
    metric, _ = metric_of(record)
    values = {run.id: finite_value(run, metric) for run in runs if run.state is State.FINISHED}
    return {id: value for id, value in values.items() if value is not None}


def _ordered(record: Record, runs: Mapping[str, Sequence[TrialRecord]]) -> list[Group]:
    _, goal = metric_of(record)
    finite = {of: _finite(record, same) for of, same in runs.items()}
    found = [
        Group(of, tuple(values), list(values.values()), *_mean(list(values.values())))
        for of, values in finite.items()
        if len(values) >= 2
    ]
    return sorted(found, key=lambda group: (-group.mean if goal is Goal.MAX else group.mean, group.trial))


def _mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its 95 % t-interval."""
    from scipy.special import stdtrit  # not at import: what lists studies answers at once

    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, 1 - LEVEL / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _p_of_zero(values: Sequence[float]) -> float:
    """The two-sided p of Student's t for a mean of 0."""
    from scipy.special import stdtr

    t = statistics.fmean(values) / (statistics.stdev(values) / math.sqrt(len(values)))
    return 2 * float(stdtr(len(values) - 1, -abs(t)))


def _measured(group: Group, record: Record) -> str:
    metric, _ = metric_of(record)
    return (
        f"a mean {metric} of {group.mean:.4g} over {len(group.values)} fresh seeds "
        f"(95 % interval {group.low:.4g} to {group.high:.4g})"
    )


def _said(leads: Sequence[Lead], adjusted: Sequence[float]) -> str:
    """``0.02 ahead of the runner-up t0007 (… p = 0.01) and … (paired t-tests over 5 common seeds, Holm-corrected)``."""
    parts = []
    for number, (lead, p) in enumerate(zip(leads, adjusted, strict=True)):
        rival = f"the runner-up {lead.over}" if number == 0 and lead.over != DEFAULTS else _name(lead.over)
        if lead.seeds < 2:
            parts.append(f"not to be compared with {rival} for want of common seeds")
            continue
        if lead.low < lead.high:
            sure = f"95 % interval {lead.low:.4g} to {lead.high:.4g}, p = {p:.2g}"
        else:
            sure = f"every seed differs by exactly the same, p = {p:.2g}" if lead.mean else "equal on every seed, p = 1"
        parts.append(f"{lead.mean:.4g} ahead of {rival} ({sure})")
    seeds = " and ".join(dict.fromkeys(str(lead.seeds) for lead in leads))
    test = "paired t-test" if len(leads) == 1 else "Holm-corrected paired t-tests"
    return f"{' and '.join(parts)} by {test} over {seeds} common seeds"


def _name(trial: str) -> str:
    return "the defaults" if trial == DEFAULTS else trial


def _missing(record: Record, compared: Sequence[str]) -> str:
    """Which runs the comparison lacks: what fails on some seeds is worse than the mean of the others says."""
    failed = {of: sum(t.of == of and t.state is State.FAILED for t in record.trials.values()) for of in compared}
    lacking = [f"{count} of {_name(of)}" for of, count in failed.items() if count]
    return f"; runs that failed are left out: {', '.join(lacking)}" if lacking else ""
