"""Decides what runs next and what becomes of each trial; the journal's only writer while trials run. Knows no Ray.

Whoever places trials asks `Driver.next` for attempts, hands over what their workers say (`heard`), and says when one
has died (`died`) or gone (`gone`). Everything else (retries, pauses, budgets, orders from another terminal) happens
here, and all of it can be made again from the journal: a resumed study starts from the same `Driver`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import failures
from orchestrator.errors import EnvironmentProblem, StorageProblem
from orchestrator.history import checkpoint
from orchestrator.history.events import (
    Cause,
    Event,
    Mutated,
    Reported,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialStarted,
)
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import Journal
from orchestrator.history.record import TrialRecord
from orchestrator.history.states import State
from orchestrator.running import limits
from orchestrator.running.control import Command, Mailbox, Request
from orchestrator.studies.plan import Plan, PlannedTrial, finalists
from orchestrator.trial import fence
from orchestrator.trial.spec import TrialSpec
from orchestrator.tuning.schedulers import Go, Mutate, Prune, Scheduler

if TYPE_CHECKING:
    from orchestrator.tuning.search import Searcher  # Optuna takes its time to import

_TICK_SECONDS = 0.2
_STOP_PATIENCE_SECONDS = 2.0  # a worker that goes on for longer after its trial was stopped is killed
_MOST_LOST = 3  # workers in a row that could not even start


class Driver:
    """One session of a study. ``stop`` ends it in order; ``kill`` ends the worker of a trial at once."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        folder: StudyFolder,
        cache: Path,
        searcher: Searcher,
        scheduler: Scheduler,
        stop: threading.Event,
    ) -> None:
        self.plan, self.stop = plan, stop
        self.cut: limits.Cut | None = None  # how and why the study ends before everything has run
        self.trouble: EnvironmentProblem | None = None
        self.kill: Callable[[str], None] = lambda trial: None
        self.places = plan.concurrent  # attempts that the nodes hold at once; whoever places them keeps it right
        self._journal, self._record, self._folder, self._cache = journal, journal.record, folder, cache
        self._searcher, self._scheduler = searcher, scheduler
        self._mailbox = Mailbox(folder)
        self._waiting = [trial for trial in reversed(plan.trials) if trial.id not in self._record.trials]
        self._ready: list[str] = []  # trials that go on
        self._live: dict[str, float] = {}  # attempts under way, and when they are to be killed
        self._lost: dict[str, int] = {}
        self._next_tick = 0.0
        self._guarded(self._rebuild)

    # ------------------------------------------------------------------------------------------ what is to run next

    def next(self) -> TrialSpec | None:
        """The next attempt, or None while there is none to start."""
        if self.stop.is_set() or not self.has_room:
            return None
        spec: TrialSpec | None = self._guarded(self._start_next)
        return spec

    @property
    def has_room(self) -> bool:
        """Whether fewer attempts run than may at once."""
        return len(self._live) < min(self.places, self.plan.study.search.concurrent or self.places)

    @property
    def load(self) -> tuple[int, int, bool]:
        """How many attempts are under way, how many of them work already, and whether it would start another."""
        working = sum(self._record.trials[id].pid is not None and self._goes_on(id) for id in self._live)
        return len(self._live), working, self.has_room and bool(self._ready or self._waiting)

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be started: nothing is left, or the study stops."""
        return self.stop.is_set() or not (self._live or self._ready or self._has_new())

    def _start_next(self) -> TrialSpec | None:
        for id in self._ready:
            if id not in self._live:  # an attempt that was stopped may still be on its way out
                self._ready.remove(id)
                self._journal.append(TrialContinued(id, self._record.trials[id].attempt + 1))
                return self._begin(self._record.trials[id])
        if not self._has_new():
            return None
        planned = self._waiting.pop()
        study = self.plan.study
        chosen = planned.params if planned.params is not None else self._searcher.ask(planned)
        params = study.params_of(chosen).model_dump(mode="json")
        self._journal.append(TrialStarted(planned.id, planned.seed, params, tuple(chosen), planned.of))
        return self._begin(self._record.trials[planned.id])

    def _has_new(self) -> bool:
        if not self._waiting and not self._live and not self._ready:
            self._waiting = list(reversed(self._finalists()))
        if not self._waiting:
            return False
        cut = limits.started(self.plan.study, self._record)
        self.cut = self.cut or cut
        return cut is None

    def _finalists(self) -> list[PlannedTrial]:
        return [t for t in finalists(self.plan.study, self._record) if t.id not in self._record.trials]

    def _begin(self, trial: TrialRecord) -> TrialSpec:
        folder = self._folder.trial(trial.id)
        fence.raise_to(folder.attempt, trial.attempt)
        if trial.attempt > 1:  # there is one before it that may live on
            folder.publish(folder.attempt)
        self._live[trial.id] = math.inf
        return TrialSpec.of(trial, self.plan.study, self._folder, self._cache, self._pause_at(trial))

    def _pause_at(self, trial: TrialRecord) -> int | None:
        """Where it waits next: beyond where it waited last, which may be a step that it has reported already."""
        return self._scheduler.pause_at(replace(trial, steps=trial.paused)) if trial.of is None else None

    # ------------------------------------------------------------------------------------------- what workers say

    def heard(self, id: str, attempt: int, events: Iterable[Event]) -> bool:
        """What an attempt's worker says. Returns whether the attempt goes on."""
        if attempt != self._record.trials[id].attempt:
            return False
        return bool(self._guarded(lambda: all(self._take(id, event) for event in events) and self._goes_on(id)))

    def died(self, id: str, attempt: int, trace: str, peak: int, began: bool) -> None:
        """An attempt's worker died, or, unless it ``began``, could not start.

        ``trace`` is what the cluster says, ``peak`` the most bytes the worker was known to hold.
        """
        trial = self._record.trials[id]
        if attempt != trial.attempt or not self._goes_on(id) or self.stop.is_set():
            return
        self._guarded(lambda: self._died(trial, trace, peak, began))

    def gone(self, id: str) -> None:
        """An attempt has left its worker: the place is free."""
        self._live.pop(id, None)
        if self._record.trials[id].state in (State.FINISHED, State.PRUNED):  # others may be asked to go on
            self._guarded(lambda: self._folder.drop(self._folder.trial(id).maps))

    def _goes_on(self, id: str) -> bool:
        return self._record.trials[id].state is State.RUNNING

    def _take(self, id: str, event: Event) -> bool:
        """Journal one event and decide upon it; False ends the attempt, and what it said afterwards does not count."""
        trial = self._record.trials[id]
        if not self._goes_on(id):
            return False
        self._lost.pop(id, None)
        if isinstance(event, TrialEnded):
            if event.state is State.FAILED:
                self._fail(trial, event)
            else:
                self._end(event)
            return False
        if isinstance(event, Reported):
            return event.step <= trial.steps or self._report(trial, event)
        self._journal.append(event)
        if isinstance(event, TrialInterrupted):
            self._interrupted(trial, event)
            return False
        return True

    def _report(self, trial: TrialRecord, event: Reported) -> bool:
        value = event.metrics.get(self.plan.study.search.metric, math.nan)
        judged = trial.of is None and math.isfinite(value)  # one that is not finite says that the trial diverged
        if not judged or self._scheduler.on_report(trial.id, event.step, value):
            self._journal.append(event)
            return True
        # In one write: a driver that dies between the two would let the trial go on when it is resumed.
        self._journal.append(event, self._pruned(trial, event.step, event.metrics))
        self._ended(trial)
        return False

    def _pruned(self, trial: TrialRecord, step: int, metrics: Mapping[str, float]) -> TrialEnded:
        reason = f"{self.plan.study.search.scheduler.kind} stopped it at step {step}"
        return TrialEnded(trial.id, State.PRUNED, reason, metrics)

    def _interrupted(self, trial: TrialRecord, event: TrialInterrupted) -> None:
        if event.cause in (Cause.NO_SPACE, Cause.NO_STORAGE):
            self._give_up(event.reason, "make room" if event.cause is Cause.NO_SPACE else "see that the store answers")
        elif event.cause is Cause.PAUSED:
            self._apply_moves()
        else:
            self._ready.append(trial.id)

    def _died(self, trial: TrialRecord, trace: str, peak: int, began: bool) -> None:
        reason = failures.reason_of(trace, peak, trial.pid)
        if began:
            self._fail(trial, TrialEnded(trial.id, State.FAILED, reason, traceback=trace))
            return
        self._lost[trial.id] = self._lost.get(trial.id, 0) + 1
        if self._lost[trial.id] > _MOST_LOST:
            reason = f"{_MOST_LOST + 1} workers in a row could not start it: {reason}"
            self._end(TrialEnded(trial.id, State.FAILED, reason, traceback=trace))
        else:
            self._interrupt(trial, Cause.LOST, reason, trace)

    # ------------------------------------------------------------------------------------------ ends and retries

    def _fail(self, trial: TrialRecord, event: TrialEnded, cause: Cause = Cause.FAILED) -> None:
        """Try again, unless that was tried often enough or would end the same way."""
        retries = self.plan.study.failures.retries
        if event.final or trial.failures >= retries:
            tried = f" (after {trial.failures + 1} attempts)" if trial.failures else ""
            self._end(TrialEnded(trial.id, State.FAILED, f"{event.reason}{tried}", event.metrics, event.traceback))
        else:
            self._interrupt(trial, cause, event.reason or "", event.traceback)
        self._halt_if(limits.failed(self.plan.study, self._record))

    def _interrupt(self, trial: TrialRecord, cause: Cause, reason: str, traceback: str | None = None) -> None:
        event = TrialInterrupted(trial.id, cause, reason, traceback)
        self._journal.append(event)
        self._interrupted(trial, event)

    def _end(self, event: TrialEnded) -> None:
        self._journal.append(event)
        self._ended(self._record.trials[event.trial])

    def _ended(self, trial: TrialRecord) -> None:
        if trial.of is None:
            self._searcher.tell(trial)
        self._apply_moves()

    def _apply_moves(self) -> None:
        """Let trials that waited for others go on, as far as those have come; mutations first and all at once."""
        moves = [m for m in self._scheduler.moves(self._record) if m.trial not in self._ready]
        mutated: list[Event] = []
        if moves:
            self._journal.settle()  # no checkpoint may be ahead of what was decided about its trial
        for move in moves:
            if isinstance(move, Mutate):
                parent, own = self._folder.trial(move.parent), self._folder.trial(move.trial)
                parent.obtain(parent.checkpoint, exact=True)
                checkpoint.adopt(own.checkpoint, parent.checkpoint)
                own.publish(own.checkpoint, exact=True)
                step = self._record.trials[move.trial].steps
                params = self.plan.study.params_of(move.params).model_dump(mode="json")
                mutated.append(Mutated(move.trial, step, move.parent, params))
        if mutated:
            self._journal.append(*mutated)
            self._journal.settle()
        self._ready += [move.trial for move in moves if isinstance(move, Go | Mutate)]
        pruned = [move for move in moves if isinstance(move, Prune)]
        if pruned:
            last = {move.trial: self._record.trials[move.trial].last for move in pruned}
            self._journal.append(*(TrialEnded(m.trial, State.PRUNED, m.reason, last[m.trial]) for m in pruned))
            for move in pruned:
                self._searcher.tell(self._record.trials[move.trial])

    # -------------------------------------------------------------------------------------- budgets, stalls, orders

    def tick(self) -> None:
        """To be called often: obeys orders, and looks at budgets and at trials that say nothing."""
        now = time.time()
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK_SECONDS
        self._guarded(self._obey)
        if self.stop.is_set():
            return
        if (trouble := self._journal.trouble()) is not None:
            self._give_up(str(trouble), trouble.hint or "")
        self._halt_if(limits.spent(self.plan.study, self._record, now))
        self._guarded(lambda: self._check_stalls(now))
        for id, deadline in list(self._live.items()):
            if not self._goes_on(id) and deadline == math.inf:
                self._live[id] = now + _STOP_PATIENCE_SECONDS
            elif now > deadline:
                self._live[id] = now + _STOP_PATIENCE_SECONDS
                self.kill(id)

    def retry(self, trial: str) -> None:
        """Let a trial that is over go on from its last checkpoint; one that goes on anyway is left alone."""
        if trial not in self._ready and not self._record.trials[trial].is_open:
            self._ready.append(trial)

    def halt(self, state: State, reason: str) -> None:
        """Stop the study in order; what runs can be resumed."""
        if not self.stop.is_set():
            self.cut = state, reason
            self.stop.set()

    def _halt_if(self, cut: limits.Cut | None) -> None:
        if cut is not None:
            self.halt(*cut)

    def _obey(self) -> None:
        for request in self._mailbox.take():
            done, words = self._stop_trial(request) if request.command is Command.STOP else self._retry(request)
            self._mailbox.answer(request, done, words)

    def _stop_trial(self, request: Request) -> tuple[bool, str]:
        if request.trial is None:
            self.halt(State.STOPPED, "stopped by order")
            return True, f"{self._folder.name} is stopping; go on later: orchestrator resume {self._folder.name}"
        trial = self._record.trials.get(request.trial)
        if trial is None or trial.state.is_over:
            return False, f"{request.trial} is not running" + (f": it is {trial.state}" if trial else " yet")
        if trial.id in self._ready:
            self._ready.remove(trial.id)
        self._end(TrialEnded(trial.id, State.STOPPED, "stopped by order", trial.last))
        return True, f"{trial.id} is stopped at step {trial.steps}"

    def _retry(self, request: Request) -> tuple[bool, str]:
        trial = self._record.trials.get(request.trial or "")
        if trial is None or not trial.state.is_over:
            return False, f"{request.trial} is {'running' if trial else 'not started'}: there is nothing to retry"
        if trial.state is State.FINISHED:
            return False, f"{trial.id} has finished; its result stays"
        self.retry(trial.id)
        return True, f"{trial.id} goes on from step {trial.saved}"

    def _check_stalls(self, now: float) -> None:
        minutes = self.plan.study.failures.stall_minutes
        if minutes is None:
            return
        for id in list(self._live):
            trial = self._record.trials[id]
            if self._goes_on(id) and trial.pid is not None and now - trial.heard > 60 * minutes:
                reason = f"it reported nothing for {minutes:g} minutes after step {trial.steps}"
                self._fail(trial, TrialEnded(id, State.FAILED, reason), Cause.STALLED)
                self.kill(id)

    # ---------------------------------------------------------------------------------------------------- the rest

    def _rebuild(self) -> None:
        """Bring searcher, scheduler and queues to where the journal leads. Open trials are heard last."""
        self._searcher.rebuild(self._record)
        search = [trial for trial in self._record.trials.values() if trial.of is None]
        keeps: dict[str, bool] = {}
        for trial in sorted(search, key=lambda trial: trial.is_open):
            for step, value in zip(trial.curve.steps, trial.curve.values, strict=True):
                if math.isfinite(value):
                    keeps[trial.id] = self._scheduler.on_report(trial.id, step, value)
        for trial in list(self._record.trials.values()):
            if trial.is_open:
                self._reopen(trial, keeps.get(trial.id, True))
        self._apply_moves()

    def _reopen(self, trial: TrialRecord, keeps: bool) -> None:
        """An open trial of an earlier session goes on, waits on, or ends where that session would have ended it."""
        due = self._pause_at(trial)
        if trial.waits or (due is not None and due <= min(trial.steps, trial.saved)):
            self._journal.append(TrialInterrupted(trial.id, Cause.PAUSED, f"waits at step {trial.steps}"))
        elif keeps:
            self._ready.append(trial.id)
        else:
            self._journal.append(self._pruned(trial, trial.steps, trial.last))
            self._searcher.tell(trial)

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """A full disk stops the study in order, whichever write it hits; and so does a store that does not answer."""
        try:
            return action()
        except StorageProblem as error:
            self._give_up(str(error), error.hint or "see that the store answers")
            return None
        except OSError as error:
            if not failures.is_full_disk(error):
                raise
            self._give_up(f"the disk of {self._folder.root} is full", "make room")
            return None

    def _give_up(self, what: str, hint: str) -> None:
        hint = f"{hint}, then: orchestrator resume {self._folder.name}"
        self.trouble = self.trouble or EnvironmentProblem(what, hint)
        self.halt(State.STOPPED, what)
