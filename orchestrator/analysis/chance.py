"""Whether two results differ beyond chance, as far as what their trials left behind can say it.

The first of these that both sides have decides:

1. Runs on several seeds (finalists, a grid with ``seeds``): Student's t-test of the values, paired by seed where the
   seeds are the same, else Welch's ("The generalization of 'Student's' problem", Biometrika 34, 1947).
2. Scores of the same photos (`tasks.logits`): McNemar's exact mid-p test of their top-1. It is about these two trained
   models; how another seed would have come out it does not say.
3. Intervals that the task reports. Where they lie apart the difference is beyond the chance that they cover; where
   they overlap nothing follows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis import finalists
from orchestrator.analysis.standings import interval
from orchestrator.history.record import Record, TrialRecord
from orchestrator.studies.plan import finite_value, metric_of
from tasks.api import InputError

LEVEL = 0.05


@dataclass(frozen=True)
class Result:
    """A trial's result: ``value`` and ``interval`` of the study's metric, and ``by_seed`` where there were several."""

    name: str
    metric: str
    value: float | None
    interval: tuple[float, float] | None
    by_seed: Mapping[int, float]
    artifacts: Path

    @classmethod
    def of(cls, name: str, record: Record, trial: TrialRecord, artifacts: Path) -> Result:
        metric, _ = metric_of(record)
        value, within = finite_value(trial, metric), interval(trial.metrics, metric)
        return cls(name, metric, value, within, _by_seed(record, trial), artifacts)


@dataclass(frozen=True)
class Judgement:
    """``beyond`` is None where it cannot be said. ``difference`` is b less a; ``p_value`` two-sided, for none."""

    beyond: bool | None
    sentence: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def judge(a: Result | None, b: Result | None, why_not: str | None = None) -> Judgement:
    """Whether b differs from a; ``why_not`` says why they must not be compared at all, if so."""
    if why_not is not None:
        return Judgement(None, f"Their results do not compare: {why_not}.")
    if a is None or b is None or a.value is None or b.value is None:
        return Judgement(None, "Not both have a result to compare.")
    if len(a.by_seed) >= 2 and len(b.by_seed) >= 2:
        return _by_seeds(a, b)
    return _by_photos(a, b) or _by_intervals(a, b)


def _by_seed(record: Record, trial: TrialRecord) -> dict[int, float]:
    """Values by seed of the runs that repeat this trial; of a run of a finalist, those of its finalist."""
    metric, _ = metric_of(record)
    of = trial.of or trial.id
    groups = {group.trial: group.runs for group in finalists.groups(record)}
    runs = groups.get(of) or next((g.runs for g in finalists.repeats(record) if trial.id in g.runs), ())
    return {record.trials[run].seed: record.trials[run].value(metric) for run in runs}


def _by_seeds(a: Result, b: Result) -> Judgement:
    from scipy import stats  # not at import: what lists studies answers at once

    common = sorted(a.by_seed.keys() & b.by_seed.keys())
    if len(common) >= 2:
        how = f"paired t-test over {len(common)} common seeds"
        differences = [b.by_seed[seed] - a.by_seed[seed] for seed in common]
        mean, spread = statistics.fmean(differences), statistics.stdev(differences)
        error, freedom = spread / math.sqrt(len(common)), float(len(common) - 1)
    else:
        how = f"Welch's t-test over {len(a.by_seed)} and {len(b.by_seed)} seeds"
        ours, theirs = list(a.by_seed.values()), list(b.by_seed.values())
        mean = statistics.fmean(theirs) - statistics.fmean(ours)
        parts = [statistics.variance(values) / len(values) for values in (ours, theirs)]
        error = math.sqrt(sum(parts))
        degrees = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (ours, theirs), strict=True))
        freedom = sum(parts) ** 2 / degrees if degrees else math.nan
    if error <= 1e-12 * max(abs(value) for value in (*a.by_seed.values(), *b.by_seed.values())):
        differs = abs(mean) > error
        same = "every seed says the same" if differs else "they are equal on every seed"
        return Judgement(differs, f"{_ahead(a, b, mean)}: {same} ({how}).", mean, (mean, mean), 0.0 if differs else 1.0)
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    numbers = f"95 % interval {mean - half:.4g} to {mean + half:.4g}, p = {p:.2g}, {how}"
    return Judgement(p < LEVEL, f"{_ahead(a, b, mean)} ({numbers}): {_said(p)}.", mean, (mean - half, mean + half), p)


def _by_photos(a: Result, b: Result) -> Judgement | None:
    """None where not both left scores of the same photos."""
    from tasks import logits

    try:
        ours, theirs = (logits.read(each.artifacts / "logits") for each in (a, b))
        frame = logits.Frame.of(ours)
        places = frame.match(ours, a.name, a.name), frame.match(theirs, b.name, a.name)
    except InputError:
        return None
    from tasks.compare.paired import mcnemar

    right = [
        place.take(scores.scores).argmax(axis=1) == frame.labels
        for place, scores in zip(places, (ours, theirs), strict=True)
    ]
    gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    p, mean = mcnemar(gained, lost), (gained - lost) / len(frame.labels)
    sentence = (
        f"On the same {len(frame.labels)} photos {b.name} is right on {gained} that {a.name} has wrong, and wrong on "
        f"{lost} that it has right (top-1 {mean:+.4f}, McNemar's p = {p:.2g}): {_said(p)} for these two models as "
        "trained; another seed of either may come out otherwise."
    )
    return Judgement(p < LEVEL, sentence, mean, None, p)


def _by_intervals(a: Result, b: Result) -> Judgement:
    assert a.value is not None and b.value is not None  # `judge` has seen to it  # noqa: PT018
    mean = b.value - a.value
    if a.interval is None or b.interval is None:
        sentence = (
            f"{_ahead(a, b, mean)}. Whether that is beyond chance cannot be said: each ran once and the task reports "
            "no interval; run both on several seeds (finalists, or a grid with search.seeds)."
        )
        return Judgement(None, sentence, mean)
    apart = a.interval[1] < b.interval[0] or b.interval[1] < a.interval[0]
    both = f"95 % intervals {a.interval[0]:.4g} to {a.interval[1]:.4g} and {b.interval[0]:.4g} to {b.interval[1]:.4g}"
    if apart:
        sentence = f"{_ahead(a, b, mean)}; their {both} lie apart: beyond the chance that these cover."
    else:
        sentence = f"{_ahead(a, b, mean)}; their {both} overlap: nothing is established."
    return Judgement(True if apart else None, sentence, mean)


def _ahead(a: Result, b: Result, mean: float) -> str:
    if not mean:
        return f"{a.name} and {b.name} have the same {a.metric}"
    return f"The {a.metric} of {b.name} is {abs(mean):.4g} {'above' if mean > 0 else 'below'} that of {a.name}"


def _said(p: float) -> str:
    return "beyond chance at 5 %" if p < LEVEL else "not beyond chance at 5 %"
