"""From a record to what it means: the leaderboard and the verdict. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator import registry
from orchestrator.journal import Record, TrialRecord
from orchestrator.states import State
from tasks.api import Goal, Row, Support, Verdict


@dataclass(frozen=True)
class Entry:
    """One line of a leaderboard. ``value`` is None where there is no finite one."""

    rank: int
    trial: str
    state: State
    value: float | None
    interval: tuple[float, float] | None
    params: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def metric_of(record: Record) -> tuple[str, Goal]:
    search = record.study["search"]
    return search["metric"], Goal(search["goal"])


def leaderboard(record: Record) -> list[Entry]:
    """All trials, best first: the finished, then the pruned (by their last report), then those without a result."""
    metric, goal = metric_of(record)
    ordered = sorted(record.trials.values(), key=lambda trial: _order(trial, metric, goal))
    return [
        Entry(rank, trial.id, trial.state, _finite_value(trial, metric), interval(trial.metrics, metric), trial.chosen)
        for rank, trial in enumerate(ordered, start=1)
    ]


def best(record: Record) -> TrialRecord | None:
    """The best trial that finished, or None."""
    entries = leaderboard(record)
    if not entries or entries[0].state is not State.FINISHED:
        return None
    return record.trials[entries[0].trial]


def best_so_far(record: Record) -> float | None:
    """The best finite value any trial has now, running ones included."""
    metric, goal = metric_of(record)
    values = [v for t in record.trials.values() if t.state is not State.FAILED and math.isfinite(v := t.value(metric))]
    if not values:
        return None
    return max(values) if goal is Goal.MAX else min(values)


def interval(metrics: Mapping[str, float], metric: str) -> tuple[float, float] | None:
    """The 95 % interval that the task reports beside a metric, if it does."""
    low, high = metrics.get(f"{metric}_low"), metrics.get(f"{metric}_high")
    return None if low is None or high is None else (low, high)


def verdict(record: Record) -> Verdict:
    """What the task concludes from the finished trials; without a conclusion of its own, which trial leads."""
    metric, _ = metric_of(record)
    finished = [e.trial for e in leaderboard(record) if e.state is State.FINISHED]
    rows = [Row(id, record.trials[id].params, record.trials[id].metrics) for id in finished]
    if not rows:
        return Verdict(Support.UNDECIDED, "no trial finished, so there is nothing to conclude from")
    conclude = registry.task(record.study["task"]).conclude
    if conclude is not None:
        return conclude(rows)
    return Verdict(Support.UNDECIDED, f"{rows[0].trial} leads with {metric} {rows[0].metrics[metric]:.4g}")


def end_state(record: Record) -> State:
    """How a study ended that ran to its end: FINISHED when any trial has a result, FAILED otherwise."""
    return State.FINISHED if record.count(State.FINISHED, State.PRUNED) else State.FAILED


def seconds_per_trial(record: Record) -> float | None:
    """The median time of the finished trials."""
    times = [t.ended - t.started for t in record.trials.values() if t.state is State.FINISHED and t.ended]
    return statistics.median(times) if times else None


def show(record: Record, name: str, run_ids: Mapping[str, str]) -> dict[str, Any]:
    """What ``show --json`` prints."""
    keys = ("id", "state", "reason", "seed", "node", "params", "metrics", "steps")
    trials = [
        {**{key: getattr(trial, key) for key in keys}, "run_id": run_ids.get(trial.id)}
        for trial in record.trials.values()
    ]
    return {"study": name, "state": record.state, "verdict": record.verdict, "trials": trials}


def summary(record: Record, name: str) -> dict[str, Any]:
    """What ``ps --json`` prints for one study."""
    return {
        "study": name,
        "task": record.study.get("task"),
        "state": record.state,
        "trials": record.planned,
        "done": sum(trial.state.is_over for trial in record.trials.values()),
        "best": best_so_far(record) if record.trials else None,
        "started": record.started,
    }


def _finite_value(trial: TrialRecord, metric: str) -> float | None:
    value = trial.value(metric)
    return value if trial.state is not State.FAILED and math.isfinite(value) else None


def _order(trial: TrialRecord, metric: str, goal: Goal) -> tuple[int, float, str]:
    value = _finite_value(trial, metric)
    classes = [State.FINISHED, State.PRUNED, State.RUNNING, State.STOPPED]
    if value is None:
        return (len(classes), 0.0, trial.id)
    return (classes.index(trial.state), -value if goal is Goal.MAX else value, trial.id)
