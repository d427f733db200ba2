"""Who came to which rung when, and what became of it there: read from what the trials reported. Pure.

A rung is a step at which the scheduler compares trials. Which rungs a trial has come to follows from its own reports
alone, as in `orchestrator.tuning.schedulers`; whether it went on from there, from how it ended.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.study import SchedulerKind
from orchestrator.tuning.schedulers import brackets


class Outcome(StrEnum):
    """What became of a trial at a rung."""

    WENT_ON = "went on"
    STOPPED = "stopped there"
    TOOK_OVER = "took over another's state"
    WAITS = "waits there"


@dataclass(frozen=True)
class Arrival:
    """A trial at a rung: when it reported there (Unix time), and its value."""

    trial: str
    rung: int
    at: float
    value: float
    outcome: Outcome


def arrivals(record: Record) -> list[Arrival]:
    """All arrivals at rungs, by rung and then by time. Empty for schedulers that have none."""
    scheduler = record.study["search"]["scheduler"]
    searched = [trial for trial in record.trials.values() if trial.of is None and len(trial.curve)]
    match scheduler["kind"]:
        case SchedulerKind.ASHA:
            found = [a for t in searched for a in _asha(t, scheduler["grace"], scheduler["reduction"])]
        case SchedulerKind.HYPERBAND:
            dealt = brackets(scheduler["max_steps"], scheduler["reduction"], record.planned)
            rungs_of = {id: bracket.rungs[:-1] for bracket in dealt for id in bracket.trials}
            found = [a for t in searched for a in _waiting(t, rungs_of.get(t.id, ()))]
        case SchedulerKind.PBT:
            found = [a for t in searched for a in _waiting(t, _barriers(t, scheduler["interval"]))]
        case _:
            found = []
    return sorted(found, key=lambda arrival: (arrival.rung, arrival.at))


def _asha(trial: TrialRecord, grace: int, reduction: int) -> Iterator[Arrival]:
    """A report counts for the highest rung at or below its step that the trial has not been to."""
    been: set[int] = set()
    curve, last = trial.curve, len(trial.curve) - 1
    powers = (grace * reduction**k for k in itertools.count())
    rungs = list(itertools.takewhile(lambda rung: rung <= curve.steps[-1], powers))
    for index, (step, value, at) in enumerate(zip(curve.steps, curve.values, curve.times, strict=True)):
        if not math.isfinite(value):
            continue
        rung = next((rung for rung in reversed(rungs) if rung <= step and rung not in been), None)
        if rung is not None:
            been.add(rung)
            stopped = trial.state is State.PRUNED and index == last
            yield Arrival(trial.id, rung, at, value, Outcome.STOPPED if stopped else Outcome.WENT_ON)


def _waiting(trial: TrialRecord, rungs: Sequence[int]) -> Iterator[Arrival]:
    """Of a scheduler that lets trials wait: each rung that was reached counts with the first report there."""
    mutated = {mutation.step for mutation in trial.mutations}
    reached = [rung for rung in rungs if rung <= trial.curve.steps[-1]]
    for rung in reached:
        index = bisect_left(trial.curve.steps, rung)
        value, step = trial.curve.values[index], trial.curve.steps[index]
        outcome = Outcome.TOOK_OVER if step in mutated else Outcome.WENT_ON
        if rung == reached[-1] and step == trial.steps:
            outcome = Outcome.WAITS if trial.waits else outcome
            outcome = Outcome.STOPPED if trial.state is State.PRUNED else outcome
        if math.isfinite(value):
            yield Arrival(trial.id, rung, trial.curve.times[index], value, outcome)


def _barriers(trial: TrialRecord, interval: int) -> range:
    return range(interval, trial.curve.steps[-1] + 1, interval)
