"""From a record to what it means: the leaderboard and the verdict. Pure.

Runs of finalists (`TrialRecord.of`) are no lines of their own: they make up the value of the trial that they repeat.
"""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.analysis import finalists
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.redaction import redacted
from orchestrator.studies import registry
from orchestrator.studies.plan import DEFAULTS, finite_value, metric_of, ranked
from tasks.api import Goal, Row, Support, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Entry", "best", "best_so_far", "end_state", "figures", "interval", "leaderboard", "metric_of",
    "seconds_per_trial", "show", "summary", "verdict",
]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One line of a leaderboard. ``value`` is None where there is no finite one.

    Of a finalist, value and interval are those of its mean over ``seeds`` fresh seeds; of a point of a grid that is run
    on several seeds, those of its mean over them, and ``trial`` is the first. ``seeds`` is None for others.
    The defaults, which are run beside finalists, are the line `plan.DEFAULTS`: no trial of the search has this id.
    """

    rank: int
    trial: str
    state: State
    value: float | None
    interval: tuple[float, float] | None
    params: dict[str, Any]
    seeds: int | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it; ``seeds`` is there for means alone."""
        return {name: value for name, value in asdict(self).items() if name != "seeds" or value is not None}


def leaderboard(record: Record) -> list[Entry]:
    """All trials, best first: those with means over seeds, the finished, the pruned, those without a result."""
    metric, _ = metric_of(record)
    entries: list[Entry] = []
    groups = finalists.groups(record) or finalists.repeats(record)
    for group in groups:
        chosen = {} if group.trial == DEFAULTS else record.trials[group.trial].chosen
        line = (group.trial, State.FINISHED, group.mean, (group.low, group.high), chosen, len(group.values))
        entries.append(Entry(len(entries) + 1, *line))
    again = {trial for group in groups for trial in (group.trial, *group.runs)}
    for trial in ranked(record):
        if trial.id not in again:
            value, within = finite_value(trial, metric), interval(trial.metrics, metric)
            entries.append(Entry(len(entries) + 1, trial.id, trial.state, value, within, trial.chosen))
    return entries


def best(record: Record) -> TrialRecord | None:
    """The trial that won, or None when none finished. Where the defaults won, it is the first of their runs."""
    entries = leaderboard(record)
    if not entries or entries[0].state is not State.FINISHED or entries[0].value is None:
        return None
    winner = entries[0].trial
    if winner == DEFAULTS:
        return next(t for t in record.trials.values() if t.of == DEFAULTS and t.state is State.FINISHED)
    return record.trials[winner]


def best_so_far(record: Record) -> float | None:
    """The best finite value any trial of the search has now, running ones included."""
    metric, goal = metric_of(record)
    values = [v for t in record.trials.values() if t.of is None and (v := finite_value(t, metric)) is not None]
    if not values:
        return None
    return max(values) if goal is Goal.MAX else min(values)


def interval(metrics: Mapping[str, float], metric: str) -> tuple[float, float] | None:
    """The 95 % interval that the task reports beside a metric, if it does."""
    low, high = metrics.get(f"{metric}_low"), metrics.get(f"{metric}_high")
    return None if low is None or high is None else (low, high)


def verdict(record: Record) -> Verdict:
    """What the finalists' runs say; without two to compare, what the task concludes, or else which trial leads."""
    if len(finalists.groups(record)) >= 2:
        return finalists.verdict(record)
    metric, _ = metric_of(record)
    rows = finished(record)
    if not rows:
        return Verdict(Support.UNDECIDED, "no trial finished, so there is nothing to conclude from")
    conclude = registry.task(record.study["task"]).conclude
    if conclude is not None:
        return conclude(rows)
    return Verdict(Support.UNDECIDED, f"{rows[0].trial} leads with {metric} {rows[0].metrics[metric]:.4g}")


def finished(record: Record) -> list[Row]:
    """The finished trials, best first: what a task concludes from."""
    done = [trial for trial in ranked(record) if trial.state is State.FINISHED]
    return [Row(trial.id, trial.params, trial.metrics, trial.seed) for trial in done]


def decimals(value: float | None) -> str:
    """A metric as it is shown: four decimals, or four digits where those would hide it.

    >>> [decimals(value) for value in (0.336, 12, 3.21e-7, 0, None, math.nan)]
    ['0.3360', '12.0000', '3.21e-07', '0.0000', '–', '–']
    """
    return "–" if value is None or math.isnan(value) else f"{value:{_form(value)}}"


def between(of: tuple[float, float] | None) -> str:
    """An interval as it is shown, both ends alike; empty where there is none.

    >>> between((-0.00057, 0.0314)), between((1e-7, 3e-7)), between(None)
    ('-0.0006 … 0.0314', '1e-07 … 3e-07', '')
    """
    if of is None:
        return ""
    form = _form(max(of, key=abs))
    return f"{of[0]:{form}} … {of[1]:{form}}"


def _form(value: float) -> str:
    return ".4f" if value == 0 or 1e-3 <= abs(value) < 1e6 else ".4g"


def figures(record: Record) -> Mapping[str, Figure]:
    """What the task draws of its finished trials, by name."""
    draw, rows = registry.task(record.study["task"]).figures, finished(record)
    return draw(rows) if draw is not None and rows else {}


def end_state(record: Record) -> State:
    """How a study ended that ran to its end.

    FAILED without any result, and when more trials failed for good than its ``failures.max_failures``; else FINISHED.
    """
    allowed = record.study.get("failures", {}).get("max_failures")
    if allowed is not None and record.count(State.FAILED) > allowed:
        return State.FAILED
    return State.FINISHED if record.count(State.FINISHED, State.PRUNED) else State.FAILED


def seconds_per_trial(record: Record) -> float | None:
    """The median time of the finished trials."""
    finished = [t for t in record.trials.values() if t.state is State.FINISHED]
    times = [t.seconds or t.ended - t.started for t in finished if t.ended]  # pauses between attempts left out
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
        "trials": max(record.planned, len(record.trials)),  # runs of finalists come in when they start
        "done": sum(not trial.is_open for trial in record.trials.values()),
        "best": best_so_far(record) if record.trials else None,
        "started": record.started,
    }


def notice(record: Record, name: str, trouble: BaseException | None) -> dict[str, Any]:
    """What a notification says of a study that is over, or that ``trouble`` ended before it could write that down."""
    ended = record.state.is_over
    state = record.state if ended else State.FAILED
    reason = record.reason if ended else redacted(str(trouble) or repr(trouble))
    verdict = record.verdict or {}
    won = best(record) if record.study else None
    sentence = f"{verdict['support']}. {verdict['sentence']}" if verdict else "no verdict"
    return {
        "text": f"{name} {state} on {platform.node()}" + (f" ({reason})" if reason else "") + f": {sentence}",
        "study": name,
        "state": state.value,
        "reason": reason,
        "verdict": dict(verdict) or None,
        "best": won and won.id,
        "value": won and finite_value(won, metric_of(record)[0]),
        "done": record.count(State.FINISHED),
        "trials": record.planned,
    }
