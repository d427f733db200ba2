"""What a study's runs show: events folded into the names, tags, params and metrics of its tracker's runs. Pure.

A `View` folds the journal and keeps, for each run, the `Update` that is still to be sent. How the journal was cut into
pieces, and where one driver took over from another, makes no difference to what the updates add up to.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from orchestrator.analysis import standings
from orchestrator.history.events import (
    Event,
    ItemsDone,
    Mutated,
    Reported,
    Sampled,
    StudyEnded,
    StudyResumed,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialPlaced,
    TrialStarted,
)
from orchestrator.history.record import MapRecord, Record, TrialRecord
from orchestrator.history.states import State

NOTE = "mlflow.note.content"  # what the UI shows as a run's description
STUDY = ""  # stands for the study's own run where a trial's id stands for a trial's
# What is longer than the tracker takes for one value is cut here and whole in the journal.
_MAX_KEY = 250
_MAX_PARAM = 6000
_MAX_TAG = 5000
_STATUS = {
    State.FINISHED: "FINISHED",
    State.PRUNED: "FINISHED",
    State.FAILED: "FAILED",
    State.STOPPED: "KILLED",
}

Value = tuple[str, float, int, int]  # a metric's key and value, its time in ms, its step


@dataclass(frozen=True)
class Status:
    """A run's status in the tracker's words and, when it is over, its end in ms."""

    name: str = "RUNNING"
    end: int | None = None


@dataclass
class Update:
    """What is still to be sent of one run; ``sessions`` are those of the study that began."""

    metrics: list[Value] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: Status | None = None
    traceback: str | None = None
    sessions: list[int] = field(default_factory=list)

    def tag(self, tags: Mapping[str, object]) -> None:
        self.tags |= {name: str(value)[:_MAX_TAG] for name, value in tags.items()}


class View:
    """What the runs should show after the events folded in so far."""

    def __init__(self) -> None:
        self.record = Record()
        self.pending: dict[str, Update] = defaultdict(Update)  # by trial; `STUDY` is the study's own run
        self._sent: dict[str, _Sent] = defaultdict(_Sent)

    def fold(self, event: Event) -> None:
        id = getattr(event, "trial", STUDY)
        reason = self.record.trials[id].reason if id in self.record.trials else None
        verdict = self.record.verdict
        self.record.apply(event)
        update = self.pending[id]
        match event:
            case Reported():
                update.metrics += self._sent[id].report(event)
            case TrialStarted():
                update.params = self._params(event)
                update.tag({"state": State.RUNNING, "seed": event.seed})
                update.tag({"finalist.of": event.of} if event.of else {})
            case Sampled():
                update.metrics += self._sent[id].sample(event)
            case TrialPlaced():
                update.tag({"node": event.node})
            case TrialContinued():
                update.status, update.traceback = Status(), None
                update.tag({"state": State.RUNNING, "attempt": event.attempt} | _said(None, reason))
            case ItemsDone():
                done = self.record.trials[id].maps[event.map]
                if done.ended is not None:
                    update.metrics += self._sent[id].map(event, done)
            case Mutated():
                trial = self.record.trials[id]
                update.metrics += self._sent[id].mutation(event, trial.searched)
                update.tag({"pbt.parent": event.parent, "pbt.mutations": len(trial.mutations)})
            case TrialInterrupted() | TrialEnded():
                self._trial_end(update, event, reason)
            case StudyStarted() | StudyResumed():
                update.status = Status()
                update.sessions.append(self.record.sessions)
                update.tag(self._begun() | ({"verdict": ""} if verdict else {}))
            case StudyEnded():
                self._study_end(update, event)

    def _params(self, event: TrialStarted) -> dict[str, str]:
        """Those that the study searches: a run's columns are then what tells it from the others.

        A run of the study's defaults, for which nothing was chosen, shows what the others are compared with.
        """
        names = event.searched or [name for name in self.record.study["search"]["space"] if name in event.params]
        return {name: str(event.params[name])[:_MAX_PARAM] for name in names}

    def _trial_end(self, update: Update, event: TrialInterrupted | TrialEnded, reason: str | None) -> None:
        """A trial that is over, or waits: then its run stays open."""
        state = self.record.trials[event.trial].state
        if isinstance(event, TrialEnded):
            update.metrics += self._sent[event.trial].final(event)
        if state.is_over:
            update.status, update.traceback = Status(_STATUS[state], millis(event.at)), event.traceback
        update.tag({"state": state} | _said(event.reason, reason))

    def _begun(self) -> dict[str, object]:
        study = self.record.study
        data = study["data"]
        return {
            "task": study["task"],
            "data": "built-in" if data == "builtin" else data,
            "state": State.RUNNING,
            NOTE: note(self.record, None, {}),
            **{f"inputs.{pin['study']}": f"{len(pin['trials'])} trials" for pin in pinned_inputs(self.record)},
        } | ({"sessions": self.record.sessions, "reason": ""} if self.record.sessions > 1 else {})

    def _study_end(self, update: Update, event: StudyEnded) -> None:
        """The counts and the best numbers, a step a session: a study that is resumed ends again."""
        best, at, step = standings.best(self.record), millis(event.at), self.record.sessions - 1
        over = [state for state in State if state.is_over]
        update.metrics += [(f"trials/{state.lower()}", self.record.count(state), at, step) for state in over]
        if best is not None:
            update.metrics += [(f"best/{key}", value, at, step) for key, value in best.metrics.items()]
            update.tag({"best_trial": best.id})
        update.tag({"state": event.state, "reason": event.reason or ""} if event.reason else {"state": event.state})
        if event.verdict:
            update.tag({"verdict": f"{event.verdict['support']}: {event.verdict['sentence']}"})
        update.status = Status(_STATUS[event.state], at)


class _Sent:
    """Which (key, step) a trial's run has, so that each is there once, however often an attempt went over it."""

    def __init__(self) -> None:
        self._step = 0
        self._highest: Mapping[str, float] = {}  # what was reported at that step
        self._more: set[tuple[str, int]] = set()  # final metrics and mutations
        self._samples = 0

    def report(self, event: Reported) -> Iterator[Value]:
        """Its metrics, unless an attempt before has been there: a trial that goes on may repeat steps."""
        if event.step <= self._step:
            return
        self._step, self._highest = event.step, event.metrics
        at = millis(event.at)
        for key, value in event.metrics.items():
            if (key, event.step) not in self._more:
                yield _key(key), value, at, event.step

    def final(self, event: TrialEnded) -> Iterator[Value]:
        """The final metrics at the last step, or one step on where the last report said something else."""
        for key, value in event.metrics.items():
            said = self._highest.get(key)
            if said is None:
                yield from self._once(key, value, event.at, self._step)
            elif said != value and not (math.isnan(said) and math.isnan(value)):
                yield from self._once(key, value, event.at, self._step + 1)

    def mutation(self, event: Mutated, searched: tuple[str, ...]) -> Iterator[Value]:
        """The searched numbers it goes on with, as a series: the params of a run cannot change."""
        for name in searched:
            value = event.params.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield from self._once(f"pbt/{name}", value, event.at, event.step)

    def map(self, event: ItemsDone, done: MapRecord) -> Iterator[Value]:
        """Of a map that is complete: its items, and the seconds that workers took for those that were computed."""
        yield from self._once(f"map/{event.map}/items", done.items, event.at, 0)
        yield from self._once(f"map/{event.map}/seconds", done.seconds, event.at, 0)

    def sample(self, event: Sampled) -> Iterator[Value]:
        """What its process used, as the series of the UI's page for system metrics; its steps count the looks."""
        self._samples += 1
        for name, value in event.usage.items():
            yield _key(f"system/{name}"), value, millis(event.at), self._samples

    def _once(self, key: str, value: float, at: float, step: int) -> Iterator[Value]:
        if (key, step) not in self._more:
            self._more.add((key, step))
            yield _key(key), value, millis(at), step


def pinned_inputs(record: Record) -> Sequence[Mapping[str, Any]]:
    """The earlier studies that this one reads, as its journal has them."""
    return (record.study.get("inputs") or {}).get("pinned", ())


def trial_name(trial: TrialRecord, folder: str, study: str) -> str:
    """The id and the first two searched values: enough to tell runs apart in a list, short enough for a title.

    A study that is run again shares its experiment with the first: its trials say whose they are (``dogs-2/t0003 …``).
    """
    chosen = " ".join(f"{name}={_short(value)}" for name, value in list(trial.chosen.items())[:2])
    return f"{'' if folder == study else f'{folder}/'}{trial.id} {chosen}".strip()[:100]


def note(record: Record, best: TrialRecord | None, links: Mapping[str, str]) -> str:
    """The study's run in Markdown: question, verdict, the best trial, what was fixed, and ``links``, text → address.

    The link called ``best`` leads to the best trial's run.
    """
    study, verdict = record.study, record.verdict
    lines = [f"### {study['question']}", ""]
    if verdict:
        lines += [f"**Verdict: {verdict['support']}.** {verdict['sentence']}", ""]
    elif not record.state.is_over:
        lines += [f"Under way: {record.planned} trials planned.", ""]
    if study["data"] == "builtin":
        lines += ["Ran on the task's **built-in data**, not on real data.", ""]
    if best is not None:
        metric, _ = standings.metric_of(record)
        chosen = ", ".join(f"{name} = {_short(value)}" for name, value in best.chosen.items())
        lines += [
            f"**Best:** [{best.id}]({links['best']}) with {metric} {best.value(metric):.4g}"
            + (f" ({chosen})" if chosen else ""),
            "",
        ]
    shown = [f"[{text}]({address})" for text, address in links.items() if text != "best"]
    lines += [" · ".join(shown), ""] if shown else []
    search, fixed = study["search"], {k: v for k, v in study["params"].items() if k not in study["search"]["space"]}
    lines += [f"Search: {search['algorithm']}, scheduler {search['scheduler']['kind']}, seed {study['seed']}."]
    if fixed:
        lines += ["", "Fixed: " + ", ".join(f"{name} = {_short(value)}" for name, value in fixed.items())]
    return "\n".join(lines)[:_MAX_TAG]


@dataclass(frozen=True)
class Dataset:
    """Data that a study reads, as the tracker lists it: ``source`` is where it is, of this ``kind``."""

    name: str
    digest: str
    kind: str
    source: Mapping[str, str]


def datasets(record: Record) -> list[Dataset]:
    """The study's data, as its sessions found it, and the trials of earlier studies that it reads."""
    task, (data, _, _) = record.study["task"], record.study["data"].partition("#")
    if data == "builtin":
        name, kind, source = f"built-in {task}", "code", {"task": task}
    else:
        name, source = data.rstrip("/").rpartition("/")[2], {"uri": data}
        kind = data.partition("://")[0] if "://" in data else "local"
    found = [Dataset(name, digest[-36:], kind, source) for digest in record.data_digests]
    for pin in pinned_inputs(record):
        trials = hashlib.sha256(" ".join([pin["uid"], *pin["trials"]]).encode()).hexdigest()[:16]
        found.append(Dataset(f"trials of {pin['study']}", trials, "study", {"study": pin["study"], "uid": pin["uid"]}))
    return found


def millis(at: float) -> int:
    return 0 if math.isnan(at) else int(at * 1000)


def _said(reason: str | None, before: str | None) -> dict[str, Any]:
    """The tag for a reason; one that holds no more is emptied."""
    return {"reason": reason or ""} if reason or before else {}


@lru_cache(maxsize=100_000)
def _key(name: str) -> str:
    """A metric's name as the tracker takes it: some signs (``hit@5``) and empty parts of a path are not for it."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    return "/".join(part for part in parts if part.strip(".") or len(part) > 2)[:_MAX_KEY].rstrip("/") or "_"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
