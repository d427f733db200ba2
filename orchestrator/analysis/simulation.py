"""What a finished study would have found and cost under another scheduler or a smaller budget, by its own journal.

The journal's reports are told again, in the order in which they came, to a scheduler of `schedulers`, whose word counts
now: what it stops reports no more. What it lets go on beyond where the study stopped it has no curve there: that is
unknown, and said. So a study without a scheduler (``none``) can answer every such question, one that stopped much only
those about stopping more. Told to the study's own scheduler, the journal gives the study's own decisions.

What no record knows: how reports would have come in another order, and which trials ``tpe`` would have proposed after
other results. Time is that of the record: each trial takes what it took, and trials start in their order on as many
places as the study had at once; waiting at rungs is left out.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator.errors import UserError
from orchestrator.history.events import (
    Cause,
    Event,
    Mutated,
    Reported,
    Saved,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialPlaced,
    TrialStarted,
)
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import finite_value, metric_of, ranked, trial_id
from orchestrator.studies.study import Algorithm, Study
from orchestrator.tuning.schedulers import Mutate, Prune, Scheduler, make_scheduler

_HEARD = (Reported, Saved, TrialInterrupted, TrialEnded)


@dataclass(frozen=True)
class Found:
    """What a search came to. ``best`` is the best finished trial's value, None without one; ``hours`` is wall time."""

    trials: int
    finished: int
    pruned: int
    best: float | None
    best_trial: str | None
    trial_seconds: float
    steps: int
    hours: float


@dataclass(frozen=True)
class Simulation:
    """``would`` beside the ``study`` itself, in the same accounts. ``regret``: by how much its best is worse.

    ``stopped``: at which step the scheduler stops which trials; ``unknown``: beyond which step the record does not say
    how trials that go on would have fared; ``changed``: how many trials are stopped elsewhere than in the study, and
    ``proposals``: how many of the trials here `tpe` would have proposed after such a change.
    """

    scheduler: dict[str, Any]
    would: Found
    study: Found
    regret: float | None
    stopped: dict[str, int]
    unknown: dict[str, int]
    changed: int
    proposals: int
    notes: list[str]

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def simulate(
    events: Iterable[Event], study: Study, trials: int | None = None, hours: float | None = None
) -> Simulation:
    """Replay a journal under the scheduler of ``study``, which is the journal's own but for that.

    ``trials``: only the first so many of the search; ``hours``: only what ends within so many.
    Raises `UserError` when the record has fewer trials, or none.
    """
    told = _Told(events)
    if not told.order:
        raise UserError("no trial of this study's search has started: there is nothing to replay")
    if trials is not None and trials > len(told.order):
        hint = f"run them: orchestrator resume {told.study['name']} search.trials={trials}"
        raise UserError(f"the record has {len(told.order)} trials: what {trials} would find it does not say", hint)
    kept = {trial_id(index) for index in range(trials)} if trials is not None else set(told.order)
    replayed = _Replay(told, make_scheduler(study, len(kept)), kept)
    before = told.decided
    changed = [id for id in kept if replayed.stopped.get(id) != before.get(id) and id not in replayed.cut_short]
    places, order = told.places, [id for id in told.order if id in kept]
    would = _found(replayed.record, replayed.seconds, order, places, hours)
    whole = _found(told.record, told.seconds, told.order, places, None)
    proposals = replayed.started_after_change if study.search.algorithm is Algorithm.TPE else 0
    _, goal = metric_of(told.record)
    worse = None if would.best is None or whole.best is None else (whole.best - would.best)
    return Simulation(
        study.search.scheduler.to_plain(),
        would,
        whole,
        worse if worse is None or goal == "max" else -worse,
        replayed.stopped,
        replayed.unknown,
        len(changed),
        proposals,
        list(_notes(study, replayed, proposals, hours)),
    )


class _Told:
    """What a journal says of its search: trials in the order of their start, what each said, and how long it took."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.record = Record()
        self.events: list[Event] = []
        self.at: list[float] = []  # the seconds that the trial of the event had run by then
        self.order: list[str] = []
        self.places = 1
        self.decided: dict[str, int] = {}  # trials that the study's scheduler stopped, and the step
        self.seconds: dict[str, float] = {}
        clocks: dict[str, float] = {}  # of trials that run: when theirs was read last
        for event in events:
            id = getattr(event, "trial", "")
            if isinstance(event, TrialStarted) and event.of is not None:
                continue  # finalists are no part of the search
            if id and id not in self.record.trials and not isinstance(event, TrialStarted):
                continue  # nor is what they say
            self.record.apply(event)
            self._read_clock(event, id, clocks)
            self.places = max(self.places, len(clocks))
            if isinstance(event, TrialStarted):
                self.order.append(id)
            elif isinstance(event, TrialEnded) and event.state is State.PRUNED:
                self.decided[id] = self.record.trials[id].steps
            if isinstance(event, (TrialStarted, *_HEARD)):
                self.events.append(event)
                self.at.append(self.seconds.get(id, 0.0))
        self.study = self.record.study

    def _read_clock(self, event: Event, id: str, clocks: dict[str, float]) -> None:
        if isinstance(event, TrialStarted | TrialContinued | TrialPlaced):
            clocks[id] = event.at  # what it waits for a place is no work
        elif id in clocks and not (isinstance(event, TrialEnded) and event.state is State.PRUNED):
            self.seconds[id] = self.seconds.get(id, 0.0) + max(0.0, event.at - clocks[id])
            clocks[id] = event.at
        if isinstance(event, TrialInterrupted | TrialEnded):
            clocks.pop(id, None)
        elif not id:
            clocks.clear()  # a session ends or begins: nothing runs


@dataclass
class _Waiting:
    """A trial of the replay: whether it is due to wait, and what it said in the record after that."""

    due: bool = False
    pause_at: int | None = None
    inbox: deque[tuple[Event, float]] = field(default_factory=deque)


class _Replay:
    """The events told again, with the scheduler's decisions in place of the study's."""

    def __init__(self, told: _Told, scheduler: Scheduler, kept: set[str]) -> None:
        self._told, self._scheduler, self._metric = told, scheduler, metric_of(told.record)[0]
        self.record = Record()
        self.record.apply(StudyStarted("", told.study, len(kept)))
        self.seconds: dict[str, float] = {}
        self.stopped: dict[str, int] = {}
        self.unknown: dict[str, int] = {}
        self.cut_short: set[str] = set()  # by an order or a budget: nobody's decision
        self.started_after_change = 0
        self._trials: dict[str, _Waiting] = {}
        self._ready: deque[str] = deque()  # those that go on
        self._going_on = False
        for event, at in zip(told.events, told.at, strict=True):
            id = event.trial  # type: ignore[attr-defined]
            if id not in kept:
                continue
            if isinstance(event, TrialStarted):
                self.started_after_change += self._has_changed()
                self.record.apply(event)
                self._trials[id] = _Waiting(pause_at=scheduler.pause_at(self.record.trials[id]))
            elif _waits(self.record.trials[id]):
                if isinstance(event, TrialInterrupted) and not self._trials[id].inbox:
                    self.seconds[id] = at  # it waits in the record, too
                self._trials[id].inbox.append((event, at))
            else:
                self._hear(self.record.trials[id], event, at)
        for trial in [trial for trial in self.record.trials.values() if trial.is_open and not _waits(trial)]:
            self.cut_short.add(trial.id)  # the journal ends in the middle of it
            self._unknown(trial)
            self._move()
        for trial in [trial for trial in self.record.trials.values() if trial.is_open]:
            self._unknown(trial)  # it waits for others that the record knows nothing more of

    def _has_changed(self) -> bool:
        """Whether something is known to have gone otherwise than in the study."""
        if self.unknown:
            return True
        return any(self._told.decided.get(id) != step for id, step in self.stopped.items())

    def _hear(self, trial: TrialRecord, event: Event, at: float) -> None:
        if not trial.is_open:
            return
        waiting = self._trials[trial.id]
        ends = isinstance(event, TrialEnded) and event.state in (State.FINISHED, State.FAILED)
        if waiting.due and not ends and not isinstance(event, Saved):
            if isinstance(event, TrialInterrupted):
                self.seconds[trial.id] = at
            self._pause(trial)
            waiting.inbox.appendleft((event, at))
            self._move()
            return
        self.seconds[trial.id] = at
        if isinstance(event, Reported):
            self._report(trial, event)
        elif isinstance(event, Saved):
            self.record.apply(event)
            if waiting.due:
                self._pause(trial)
                self._move()
        elif ends:
            self.record.apply(event)
            self._move()
        elif isinstance(event, TrialEnded):
            if event.state is State.STOPPED:
                self.cut_short.add(trial.id)
            self._unknown(trial)
            self._move()

    def _report(self, trial: TrialRecord, event: Reported) -> None:
        waiting, value = self._trials[trial.id], event.metrics.get(self._metric, math.nan)
        self.record.apply(event)
        if math.isfinite(value) and not self._scheduler.on_report(trial.id, event.step, value):
            self._stop(trial)
        elif waiting.pause_at is not None and event.step >= waiting.pause_at:
            waiting.due = True

    def _pause(self, trial: TrialRecord) -> None:
        self._trials[trial.id].due = False
        self.record.apply(TrialInterrupted(trial.id, Cause.PAUSED, ""))

    def _stop(self, trial: TrialRecord) -> None:
        self.stopped[trial.id] = trial.steps
        self.record.apply(TrialEnded(trial.id, State.PRUNED, None, trial.last))
        self._trials[trial.id].inbox.clear()

    def _unknown(self, trial: TrialRecord) -> None:
        """It goes on, and the record does not say how: it counts no more, with a result or for others."""
        if trial.id not in self.cut_short:
            self.unknown[trial.id] = trial.steps
        self.record.apply(TrialEnded(trial.id, State.STOPPED, None, trial.last))

    def _move(self) -> None:
        """What the scheduler has the waiting trials do; those that go on are heard up to where they wait next."""
        for move in self._scheduler.moves(self.record):
            trial = self.record.trials[move.trial]
            if move.trial in self._ready:
                continue
            if isinstance(move, Prune):
                self._stop(trial)
            elif isinstance(move, Mutate) and not self._is_recorded(trial, move):
                self._unknown(trial)
            else:
                if isinstance(move, Mutate):
                    self.record.apply(Mutated(trial.id, trial.steps, move.parent, move.params))
                self._ready.append(trial.id)
        if not self._going_on:
            self._going_on = True
            while self._ready:
                self._go_on(self.record.trials[self._ready.popleft()])
            self._going_on = False

    def _go_on(self, trial: TrialRecord) -> None:
        waiting = self._trials[trial.id]
        waiting.pause_at = self._scheduler.pause_at(replace(trial, steps=trial.paused))
        self.record.apply(TrialContinued(trial.id, trial.attempt + 1))
        while waiting.inbox and not _waits(trial):
            self._hear(trial, *waiting.inbox.popleft())

    def _is_recorded(self, trial: TrialRecord, move: Mutate) -> bool:
        recorded = self._told.record.trials[trial.id].mutations
        return any(m.step == trial.steps and m.parent == move.parent and m.params == move.params for m in recorded)


def _waits(trial: TrialRecord) -> bool:
    return trial.cause is Cause.PAUSED


def _found(record: Record, seconds: dict[str, float], order: Sequence[str], places: int, hours: float | None) -> Found:
    """What is found by then; each trial takes the first place that is free, in this order."""
    metric, _ = metric_of(record)
    free, ends, limit = [0.0] * places, dict[str, float](), math.inf if hours is None else 3600 * hours
    spent, steps, last = 0.0, 0, 0.0
    for id in order:
        start = heapq.heappop(free)
        took = seconds.get(id, 0.0)
        heapq.heappush(free, start + took)
        if start >= limit:
            continue
        ends[id] = start + took
        within = min(took, limit - start)
        spent, last = spent + within, max(last, start + within)
        steps += round(record.trials[id].steps * within / took) if took else record.trials[id].steps
    over = {id for id, end in ends.items() if end <= limit}
    done = [t for t in ranked(record) if t.id in over and t.state is State.FINISHED]
    best = next((t for t in done if finite_value(t, metric) is not None), None)
    return Found(
        trials=len(ends),
        finished=len(done),
        pruned=sum(record.trials[id].state is State.PRUNED for id in over),
        best=finite_value(best, metric) if best is not None else None,
        best_trial=best.id if best is not None else None,
        trial_seconds=round(spent, 3),
        steps=steps,
        hours=round(last / 3600, 6),
    )


def _notes(study: Study, replayed: _Replay, proposals: int, hours: float | None) -> Iterable[str]:
    if replayed.unknown:
        yield (
            f"{len(replayed.unknown)} decisions are unknown: these trials would have gone on beyond where the study "
            "has a curve of them. They could have been better, and changed what became of others"
        )
    if proposals:
        yield f"tpe would have proposed {proposals} of the trials otherwise after other results: they stay as they were"
    if hours is not None and study.search.scheduler.kind.is_synchronous:
        yield "trials that wait for each other leave places empty: the hours leave that out"
