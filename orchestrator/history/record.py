"""The state of a study: what its events add up to. Everything that is shown, decided or resumed is read from here."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.history.events import (
    Cause,
    Event,
    ItemsDone,
    MapStarted,
    Mutated,
    Reported,
    Saved,
    StudyEnded,
    StudyResumed,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialPlaced,
    TrialStarted,
)
from orchestrator.history.states import State

_ENDS_STUDY = (Cause.STOPPED, Cause.NO_SPACE)  # after these the trial waits for a resume


@dataclass
class Curve:
    """The study's metric by step, 24 bytes a report: what schedulers, searchers and figures look at."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))  # Unix time of each report

    def append(self, step: int, value: float, at: float) -> None:
        self.steps.append(step)
        self.values.append(value)
        self.times.append(at)

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(slots=True)
class Span:
    """A stretch of work in one place: an attempt of a trial, or items of its map. ``ended`` is None while it lasts."""

    node: str
    began: float
    ended: float | None = None


@dataclass
class MapRecord:
    """What the journal says of a map of a trial: its items, the batches that are done, and the seconds they took."""

    items: int
    started: float
    batches: list[tuple[int, int]] = field(default_factory=list)
    done: int = 0
    computed: int = 0  # of them since ``started``; the others were there before
    seconds: float = 0.0
    ended: float | None = None
    spans: list[Span] = field(default_factory=list)  # a batch each, of those that were computed

    def add(self, event: ItemsDone) -> None:
        items = event.stop - event.start
        self.batches.append((event.start, event.stop))
        self.done += items
        if event.node is not None:
            self.computed += items
            self.spans.append(Span(event.node, event.at - event.seconds, event.at))
        self.seconds += event.seconds
        if self.done == self.items:
            self.ended = event.at


@dataclass
class TrialRecord:
    """What the journal says of one trial. ``seconds`` is the time of its ended attempts."""

    id: str
    seed: int
    params: Mapping[str, Any]
    searched: tuple[str, ...]
    started: float
    of: str | None = None
    state: State = State.RUNNING
    reason: str | None = None
    cause: Cause | None = None  # set while the trial waits to go on
    attempt: int = 1
    failures: int = 0  # attempts that failed or stalled
    node: str | None = None
    node_id: str = ""
    pid: int | None = None
    ended: float | None = None
    seconds: float = 0.0
    final: Mapping[str, float] = field(default_factory=dict)
    traceback: str | None = None
    steps: int = 0  # the last reported step
    last: Mapping[str, float] = field(default_factory=dict)  # what was reported there
    saved: int = 0  # the step of the last checkpoint
    paused: int = 0  # the last step at which it waited for the others
    waits: bool = False  # whether it waits there still
    curve: Curve = field(default_factory=Curve)
    mutations: list[Mutated] = field(default_factory=list)
    maps: dict[str, MapRecord] = field(default_factory=dict)
    mapped: float = 0.0  # seconds that workers took for items of its maps, all attempts together
    heard: float = 0.0  # when something last came from it
    spans: list[Span] = field(default_factory=list)  # its attempts, from when each had a place
    _began: float = 0.0

    @property
    def metrics(self) -> Mapping[str, float]:
        """The final metrics, or the last reported ones while there are none."""
        return self.final or self.last

    @property
    def chosen(self) -> dict[str, Any]:
        """The searched parameters alone, as the trial began."""
        return {name: self.params[name] for name in self.searched}

    @property
    def now(self) -> Mapping[str, Any]:
        """The parameters it runs with now: those of its last mutation, if it had one."""
        return self.mutations[-1].params if self.mutations else self.params

    @property
    def is_open(self) -> bool:
        """Whether it runs, waits, or can be resumed."""
        return not self.state.is_over or self.cause is not None

    def value(self, metric: str) -> float:
        """The metric's current value, NaN where there is none."""
        return self.metrics.get(metric, math.nan)

    def begin_attempt(self, at: float) -> None:
        self._began = self.heard = at

    def end_attempt(self, at: float) -> None:
        if self.state is State.RUNNING:
            self.seconds += at - self._began
        if self.spans and self.spans[-1].ended is None:
            self.spans[-1].ended = at


@dataclass
class Record:
    """What the journal says of a study. `apply` folds one event in."""

    uid: str = ""
    study: Mapping[str, Any] = field(default_factory=dict)
    planned: int = 0
    started: float = math.nan
    ended: float | None = None
    state: State = State.PENDING
    reason: str | None = None
    verdict: Mapping[str, str] | None = None
    data_digests: list[str] = field(default_factory=list)  # what its sessions found, each once; without any: no data
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    sessions: int = 0  # how many drivers have worked on it
    seconds: float = 0.0  # the time of the sessions that are over
    at: float = 0.0  # the last event's time
    version: int = 0
    session_began: float = 0.0
    _metric: str = ""

    def apply(self, event: Event) -> None:
        match event:
            case Reported():
                trial = self.trials[event.trial]
                trial.steps, trial.last, trial.heard = event.step, event.metrics, event.at
                if self._metric in event.metrics:
                    trial.curve.append(event.step, event.metrics[self._metric], event.at)
            case Saved():
                trial = self.trials[event.trial]
                trial.saved, trial.heard = event.step, event.at
            case TrialStarted():
                trial = TrialRecord(event.trial, event.seed, event.params, event.searched, event.at, event.of)
                trial.begin_attempt(event.at)
                self.trials[event.trial] = trial
            case TrialPlaced():
                trial = self.trials[event.trial]
                trial.node, trial.pid, trial.node_id = event.node, event.pid, event.node_id
                trial.begin_attempt(event.at)  # what it waited for a place is no work
                trial.spans.append(Span(event.node, event.at))
            case TrialContinued():
                trial = self.trials[event.trial]
                trial.state, trial.cause, trial.reason, trial.ended, trial.final = State.RUNNING, None, None, None, {}
                trial.attempt, trial.pid, trial.waits = event.attempt, None, False
                trial.begin_attempt(event.at)
            case MapStarted():
                trial = self.trials[event.trial]
                trial.maps[event.map] = MapRecord(event.items, event.at, ended=None if event.items else event.at)
                trial.heard = event.at
            case ItemsDone():
                trial = self.trials[event.trial]
                trial.maps[event.map].add(event)
                trial.mapped, trial.heard = trial.mapped + event.seconds, event.at
            case Mutated():
                self.trials[event.trial].mutations.append(event)
            case TrialInterrupted():
                trial = self.trials[event.trial]
                trial.end_attempt(event.at)
                trial.state = State.STOPPED if event.cause in _ENDS_STUDY else State.PENDING
                trial.cause, trial.reason = event.cause, event.reason
                trial.traceback = event.traceback or trial.traceback
                trial.failures += event.cause in (Cause.FAILED, Cause.STALLED)
                if event.cause is Cause.PAUSED:
                    trial.paused, trial.waits = trial.steps, True
            case TrialEnded():
                trial = self.trials[event.trial]
                trial.end_attempt(event.at)
                trial.state, trial.reason, trial.cause = event.state, event.reason, None
                trial.traceback = event.traceback or trial.traceback
                trial.final, trial.ended = event.metrics, event.at
                trial.failures += event.state is State.FAILED
            case StudyStarted() | StudyResumed():
                self._begin_session(event)
            case StudyEnded():
                self.seconds += event.at - self.session_began
                self.state, self.verdict, self.reason, self.ended = event.state, event.verdict, event.reason, event.at
        self.at = event.at

    def _begin_session(self, event: StudyStarted | StudyResumed) -> None:
        if isinstance(event, StudyStarted):
            self.uid, self.started = event.uid, event.at
        elif self.state is State.RUNNING:  # the driver before died without a word
            self.seconds += self.at - self.session_began
            for trial in self.trials.values():
                if trial.state is State.RUNNING:
                    trial.end_attempt(self.at)
                    trial.state, trial.cause, trial.reason = State.PENDING, Cause.LOST, "the study's process died"
        self.study, self.planned, self.version = event.study, event.trials, event.version
        self._metric = event.study["search"]["metric"]
        if event.data_digest and event.data_digest not in self.data_digests:
            self.data_digests.append(event.data_digest)
        self.state, self.reason, self.ended, self.verdict = State.RUNNING, None, None, None
        self.session_began = event.at
        self.sessions += 1

    def count(self, *states: State) -> int:
        return sum(trial.state in states for trial in self.trials.values())

    def seconds_at(self, now: float) -> float:
        """How long drivers have worked on this study up to ``now``, pauses between sessions left out."""
        return self.seconds + (max(0.0, now - self.session_began) if self.state is State.RUNNING else 0.0)

    def gpu_seconds_at(self, now: float, gpus: float) -> float:
        """GPU time of all attempts up to ``now``; of a trial that maps, its items hold the GPUs and it holds none."""
        busy = 0.0
        for trial in self.trials.values():
            running = max(0.0, now - trial._began) if trial.state is State.RUNNING else 0.0
            busy += trial.mapped if trial.maps else trial.seconds + running
        return busy * gpus


def replay(events: Iterable[Event]) -> Record:
    """The state of a study after these events."""
    record = Record()
    for event in events:
        record.apply(event)
    return record
