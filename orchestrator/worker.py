"""One attempt at a trial, where it runs: the task's context, its log, its end. Knows nothing of Ray.

The task runs in a thread of its own. What it reports is gathered and handed on by `Attempt.next` as the driver asks for
it, so a task that reports a thousand times a second is not slowed to the driver's pace. Whatever the task does (return,
raise, diverge), exactly one `TrialEnded` is handed on, unless the attempt is stopped or the process dies: then the
driver writes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import random
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import checkpoint, data, failures, fence, gpu, registry, trialfiles
from orchestrator.errors import DataProblem, StorageProblem
from orchestrator.events import Cause, Event, ItemsDone, Reported, Saved, TrialEnded, TrialInterrupted, TrialPlaced
from orchestrator.folder import TrialFolder, inside
from orchestrator.jobs import Executor, InProcess
from orchestrator.logs import log_to
from orchestrator.maps import MapFailed, Maps
from orchestrator.memory import forget_peak, free_memory, gpu_peak, peak_bytes
from orchestrator.record import MapRecord
from orchestrator.redaction import redacted
from orchestrator.states import State
from orchestrator.storage import Mirror
from tasks.api import Goal, InputError

_GATHER_SECONDS = 0.05  # how long reports are gathered before they are handed on
_MOST_GATHERED = 10_000  # a task that is this far ahead of the driver waits for it
_METRIC_NAME = re.compile(r"[\w.\-/ :]{1,250}")  # what trackers accept


@dataclass(frozen=True)
class TrialSpec:
    """All that a worker needs for an attempt. Steps up to ``reported`` are in the journal and not reported again.

    With a ``mirror``, ``cache`` and ``folder`` are relative to its root on each machine: `here` makes them absolute.
    """

    id: str
    attempt: int
    task: str
    seed: int
    params: Mapping[str, Any]
    metric: str
    goal: Goal
    data: Path | data.DataUrl | None
    cache: Path
    folder: Path
    gpus: float
    cpus: float = 1
    priority: int = 0
    processes: int = 1
    reported: int = 0
    pause_at: int | None = None
    maps: Mapping[str, MapRecord] = field(default_factory=dict)  # what of them is done already
    avoid: str | None = None  # Ray's id of the node where the attempt before failed
    mirror: Mirror | None = None

    def here(self) -> TrialSpec:
        root = Path() if self.mirror is None else self.mirror.root
        return replace(self, cache=root / self.cache, folder=root / self.folder)

    def __deepcopy__(self, memo: Any) -> TrialSpec:
        return self  # Tune copies what it is given, several times a trial


class Diverged(Exception):
    """The study's metric became NaN or infinite."""


class Stopped(BaseException):
    """Raised in the task's thread when its attempt is to end; no error of the task's."""


class Paused(Stopped):
    """The trial has come to where it waits for others."""


class Drained(Stopped):
    """The trial's node is about to be taken away, and all that it has done is on disk."""


class Attempt:
    """A task at work in a thread; its events are fetched by `next`."""

    def __init__(self, spec: TrialSpec, node_id: str = "", executor: Executor | None = None) -> None:
        self.spec, self.executor = spec.here(), executor or InProcess()
        self._folder = TrialFolder(self.spec.folder, self.spec.mirror)
        self._lag = trialfiles.Lag(self._folder)
        self._placed: Event | None = TrialPlaced(spec.id, socket.gethostname(), os.getpid(), node_id)
        self._events: list[Event] = []
        self.certain = spec.reported  # the last step that is known to be in the journal
        self._handed: list[Event] = []  # what `next` gave out last: it counts once `next` is called again
        self._change = threading.Condition()
        self._over = self._stopping = self._leaving = False
        self._thread = threading.Thread(target=self._run, name=spec.id, daemon=True)
        forget_peak()

    def next(self, patience: float) -> list[Event]:
        """What has happened since the last call; waits up to ``patience`` seconds for something to happen.

        To call it again says that what it gave before is in the journal. The task begins once the journal knows where:
        one that kills its worker at once is not known to be there otherwise.
        """
        if self._placed is not None:
            placed, self._placed = self._placed, None
            return [placed]
        if self._thread.ident is None:
            self._thread.start()
        with self._change:
            reports = [event for event in self._handed if isinstance(event, Reported)]
            self.certain = max([self.certain, *self._lag.passed(reports)])
            self._handed = []
            self._change.wait_for(lambda: len(self._events) > 0 or self._over, patience)
            if not self._over:
                self._change.wait_for(lambda: self._over or len(self._events) >= _MOST_GATHERED, _GATHER_SECONDS)
            self._handed, self._events = self._events, []
            self._change.notify_all()
        return self._handed

    def uncertain(self) -> list[Reported]:
        """Reports that may not be in the journal yet, or not at its URL."""
        with self._change:
            return [event for event in (*self._lag, *self._handed, *self._events) if isinstance(event, Reported)]

    def stop(self, patience: float) -> bool:
        """End the task, between two of its bytecodes if need be. Returns whether it has ended in time."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread.ident is None:
            return True
        deadline = time.monotonic() + patience
        self._thread.join(min(0.05, patience))
        while self._thread.is_alive() and time.monotonic() < deadline:
            # It may be in the middle of a long epoch: the exception reaches it as soon as it runs Python again.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(Stopped)
            )
            self._thread.join(0.1)
        if ended := not self._thread.is_alive():
            trialfiles.publish_in_a_moment(self._folder)
        return ended

    def leave(self) -> None:
        """End it at its next checkpoint, or when the next items of a map are done; a task with neither goes on."""
        self._leaving = True

    def put(self, event: Event) -> None:
        """Called in the task's thread. Raises `Stopped` when the attempt is to end."""
        with self._change:
            self._change.wait_for(lambda: self._stopping or len(self._events) < _MOST_GATHERED)
            if self._stopping:
                raise Stopped
            self._events.append(event)
            self._change.notify_all()
        if self._leaving and isinstance(event, Saved | ItemsDone):
            raise Drained

    def _run(self) -> None:
        try:
            end = run_task(self.spec, self)
            if end is not None:
                self.put(end)
        except Stopped:
            pass
        finally:
            with self._change:
                self._over = True
                self._change.notify_all()


def run_task(spec: TrialSpec, attempt: Attempt) -> Event | None:
    """Run the task to its end and say how that was; None when it was stopped. Never raises for what the task does."""
    folder = TrialFolder(spec.folder, spec.mirror)
    context = TrialContext(spec, folder, attempt)
    if spec.mirror is None and not folder.root.parents[1].exists():  # made here, it would be this node's alone
        return _blind(spec, folder.root.parents[1])
    try:
        trialfiles.fetch(folder)
        with log_to(folder.log), trialfiles.log_followed(folder):
            end = _outcome(spec, context)
        if end is not None:
            trialfiles.publish(folder)
        return end
    except StorageProblem as error:
        return _failure(spec, error)
    except OSError as error:  # of the log itself
        return _failure(spec, error)
    finally:
        free_memory()


def _outcome(spec: TrialSpec, context: TrialContext) -> Event | None:
    try:
        if isinstance(spec.data, Path) and not spec.data.exists():
            return _blind(spec, spec.data)
        seed_globals(spec.seed)
        task, context.data = registry.task(spec.task), data.localized(spec.data)
        gpu.keep_to_share(0 if task.maps else spec.gpus)
        return _finish(spec, context, task.run(task.params(**spec.params), context))
    except Paused:
        return TrialInterrupted(spec.id, Cause.PAUSED, f"waits at step {context.step}")
    except Drained:
        return TrialInterrupted(spec.id, Cause.DRAINED, "its node is being drained")
    except Stopped:
        return None
    except Diverged as error:
        return TrialEnded(spec.id, State.FAILED, str(error), context.last, final=True)
    except Exception as error:  # a failing trial is a result of the study: it is reported, with its trace
        with contextlib.suppress(OSError):
            print(redacted(traceback.format_exc()), file=sys.stderr, flush=True)
        return _failure(spec, error)


def _blind(spec: TrialSpec, path: Path) -> Event:
    """A node that joined late lacks what the others were asked for before the start. Another node may do."""
    return TrialEnded(spec.id, State.FAILED, f"node {socket.gethostname()} does not see {path}")


def _failure(spec: TrialSpec, error: Exception) -> Event:
    if isinstance(error, OSError) and failures.is_full_disk(error):
        where = error.filename or spec.folder
        return TrialInterrupted(spec.id, Cause.NO_SPACE, f"the disk of {where} is full", traceback.format_exc())
    trace = redacted(traceback.format_exc())
    if isinstance(error, StorageProblem):
        return TrialInterrupted(spec.id, Cause.NO_STORAGE, redacted(str(error)), trace)
    final = isinstance(error, InputError | DataProblem)
    return TrialEnded(spec.id, State.FAILED, redacted(describe(error)), traceback=trace, final=final)


def describe(error: BaseException) -> str:
    """One line: what Python's last traceback line says; for a task's own input errors the message alone."""
    if isinstance(error, InputError | MapFailed | DataProblem):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory on the host: the worker's peak was {peak_bytes() / 1e9:.1f} GB"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is not imported for its sake
        return f"out of memory on the GPU: {gpu_peak()}"
    return traceback.format_exception_only(error)[-1].strip()


class TrialContext:
    """The `tasks.api.Context` of an attempt."""

    def __init__(self, spec: TrialSpec, folder: TrialFolder, attempt: Attempt) -> None:
        self.seed, self.cache = spec.seed, spec.cache
        self.data: Path | None = None  # until it is here
        self.rank, self.processes = 0, spec.processes
        # The items of a map have GPUs, the trial itself has none then.
        self.device = "cuda" if spec.gpus and (registry.task(spec.task).maps or gpu.has_cuda()) else "cpu"
        self.last: Mapping[str, float] = {}
        self.step = self._saved = 0
        self._spec, self._folder, self._attempt = spec, folder, attempt
        self._artifacts = folder.artifacts
        self._identity = trialfiles.identity(spec.seed, spec.params)
        self._known: set[str] = set()  # metric names that have been checked
        where = spec.mirror, spec.data
        self._maps = Maps(spec.id, folder.maps, spec.cache, spec.maps, attempt.put, attempt.executor, *where)

    def report(self, step: int, /, **metrics: float) -> None:
        if step <= self.step:
            raise ValueError(f"steps must increase: {step} was reported after {self.step}")
        self._pause_if_due()
        self.step, self.last = step, plain_metrics(metrics, self._known)
        if step <= self._spec.reported:
            return  # it was, before the attempt that this one repeats was cut off
        if step <= self._saved:
            raise ValueError(f"step {step} was saved before it was reported; report first: a resume begins behind it")
        self._attempt.put(Reported(self._spec.id, step, self.last))
        value = self.last.get(self._spec.metric)
        if value is not None and not math.isfinite(value):
            raise Diverged(f"diverged at step {step}: {self._spec.metric} is {value}")

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        value = self.last.get(self._spec.metric, math.nan)
        score = value if self._spec.goal is Goal.MAX else -value
        # A checkpoint may be ahead of the journal. It then holds the reports that a resume behind it would miss.
        notes = [vars(report) for report in self._attempt.uncertain()]
        notes.insert(0, {"trial": self._spec.id, "after": self._attempt.certain, "of": self._identity})
        score = score if math.isfinite(score) else -math.inf
        checkpoint.save(self._folder.checkpoint, step, state, score, notes, self._end_if_passed)
        trialfiles.publish_saved(self._folder)
        self._saved = step
        self._attempt.put(Saved(self._spec.id, step))
        self._pause_if_due()

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        kept = self._kept()
        if kept is None:
            return None
        self._saved = kept.step
        for report in (Reported(**note) for note in kept.notes[1:]):
            if report.trial == self._spec.id and report.step > self._spec.reported:
                self.step, self.last = report.step, report.metrics
                self._attempt.put(report)
        if self._spec.pause_at is not None and kept.step >= self._spec.pause_at:
            self._attempt.put(Saved(self._spec.id, kept.step))  # the attempt before died before it could say so
            raise Paused
        return kept.step, kept.state

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        name: str | None = None,
        keys: Sequence[str] | None = None,
    ) -> Sequence[Any]:
        if not registry.task(self._spec.task).maps:
            raise TypeError(f"task '{self._spec.task}' uses context.map: its Task must say maps=True")
        return self._maps.run(function, items, name, keys)

    def artifact(self, name: str) -> Path:
        self._end_if_passed()
        path = inside(self._artifacts, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def figure(self, name: str, figure: Any) -> None:
        figure.savefig(self.artifact(f"{name}.png"), dpi=120, bbox_inches="tight")

    def _end_if_passed(self) -> None:
        """The driver took this attempt for dead and another has begun: it is to leave no more files."""
        self._folder.obtain(self._folder.attempt)
        if fence.is_passed(self._folder.attempt, self._spec.attempt):
            raise Stopped

    def _kept(self) -> checkpoint.Checkpoint | None:
        """The last checkpoint, unless the journal lacks what comes before it."""
        self._folder.obtain(self._folder.checkpoint, exact=True)
        kept = checkpoint.load_last(self._folder.checkpoint)
        if kept is not None and (
            lost := trialfiles.lost_before(kept.notes[0], self._spec.id, self._spec.reported, self._identity)
        ):
            print(f"the journal has lost {lost} checkpoint {kept.step}: beginning anew", flush=True)
            return None
        return kept

    def _pause_if_due(self) -> None:
        """Pausing comes after the checkpoint of the step that was waited for, or, without one, before the next step."""
        if self._spec.pause_at is not None and self.step >= self._spec.pause_at:
            raise Paused


def plain_metrics(metrics: Mapping[str, Any], known: set[str]) -> dict[str, float]:
    """Metrics as plain floats. Raises TypeError or ValueError naming the first that is no number or has no good name.

    ``known`` remembers the names that are good.
    """
    plain = {}
    for name, value in metrics.items():
        if hasattr(value, "item"):  # a 0-d array or tensor
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"metric '{name}' must be a number, got {value!r}")
        if name not in known:
            if not _METRIC_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name a metric: letters, digits, '_', '.', '-', '/', ':' and spaces can"
                )
            if not {"", ".", ".."}.isdisjoint(name.split("/")):  # trackers take a name for a path, and refuse these
                raise ValueError(f"{name!r} cannot name a metric: it is no plain path")
            known.add(name)
        plain[name] = float(value)
    return plain


def _finish(spec: TrialSpec, context: TrialContext, final: Any) -> TrialEnded:
    if not isinstance(final, Mapping) or spec.metric not in final:
        got = sorted(final) if isinstance(final, Mapping) else repr(final)
        return TrialEnded(spec.id, State.FAILED, f"the task returned no '{spec.metric}', but {got}", final=True)
    metrics = plain_metrics(final, set())
    if not math.isfinite(metrics[spec.metric]):
        reason = f"diverged at step {context.step}: {spec.metric} is {metrics[spec.metric]}"
        return TrialEnded(spec.id, State.FAILED, reason, metrics, final=True)
    return TrialEnded(spec.id, State.FINISHED, metrics=metrics)


def seed_globals(seed: int) -> None:
    """A net for libraries that draw from global generators; a task itself uses ``context.seed``.

    Ray gives the process as many threads as the trial holds CPUs (``OMP_NUM_THREADS``): sums depend on that too.
    """
    random.seed(seed)
    np.random.seed(seed)
