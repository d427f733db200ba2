"""One attempt at a trial, where it runs: its thread, its log, its end. Knows nothing of Ray.

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
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import failures
from orchestrator.errors import DataProblem, StorageProblem
from orchestrator.history.events import (
    Cause,
    Event,
    ItemsDone,
    Reported,
    Sampled,
    Saved,
    TrialEnded,
    TrialInterrupted,
    TrialPlaced,
)
from orchestrator.history.folder import TrialFolder
from orchestrator.history.states import State
from orchestrator.objectstore import data
from orchestrator.redaction import redacted
from orchestrator.studies import chain, registry
from orchestrator.trial import gpu, trialfiles
from orchestrator.trial.context import Diverged, Drained, Paused, Stopped, TrialContext, plain_metrics
from orchestrator.trial.jobs import Executor, InProcess
from orchestrator.trial.logs import log_to
from orchestrator.trial.maps import MapFailed
from orchestrator.trial.memory import forget_peak, free_memory, gpu_peak, peak_bytes
from orchestrator.trial.sampling import Sampler
from orchestrator.trial.spec import TrialSpec
from tasks.api import InputError

_GATHER_SECONDS = 0.05  # how long reports are gathered before they are handed on
_MOST_GATHERED = 10_000  # a task that is this far ahead of the driver waits for it


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
        self._sampler = Sampler()
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
        ends = bool(self._handed) and isinstance(self._handed[-1], TrialEnded | TrialInterrupted)
        if usage := self._sampler.look(ends):
            self._handed.insert(0, Sampled(self.spec.id, usage))  # first: nothing counts behind an end
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
        except Exception as error:  # nobody else would tell the driver, who would wait for ever
            with contextlib.suppress(Stopped):
                self.put(_failure(self.spec, error))
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
        context.inputs = chain.read(spec.inputs, spec.folder.parents[2], spec.mirror)
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
