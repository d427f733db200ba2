"""One trial, where it runs: the task's context, its log, its end. Knows nothing of Ray; messages leave by ``send``.

Whatever the task does (return, raise, diverge), exactly one `TrialEnded` is sent, unless the scheduler stops the trial
or the process dies: then the driver writes it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import checkpoint, registry
from orchestrator.folder import TrialFolder
from orchestrator.journal import Event, Reported, TrialEnded, TrialPlaced
from orchestrator.states import State
from tasks.api import InputError

Send = Callable[[list[Event]], None]


@dataclass(frozen=True)
class TrialSpec:
    """All that a worker needs to run a trial."""

    id: str
    task: str
    seed: int
    params: Mapping[str, Any]
    metric: str
    data: Path | None
    cache: Path
    folder: Path
    gpus: float


class Diverged(Exception):
    """The study's metric became NaN or infinite."""


def run_trial(spec: TrialSpec, send: Send) -> None:
    """Run the task and send what happens. Never raises for what the task does."""
    folder = TrialFolder(spec.folder)
    folder.artifacts.mkdir(parents=True, exist_ok=True)
    context = TrialContext(spec, folder, send)
    with _log_to(folder.log):
        try:
            _seed_globals(spec.seed)
            task = registry.task(spec.task)
            final = task.run(task.params(**spec.params), context)
            end = _finish(spec, context, final)
        except Diverged as error:
            end = TrialEnded(spec.id, State.FAILED, str(error), context.last)
        except Exception as error:  # a failing trial is a result of the study: it is reported, with its trace
            traceback.print_exc()
            end = TrialEnded(spec.id, State.FAILED, describe(error), traceback=traceback.format_exc())
    context.send(end)


def describe(error: BaseException) -> str:
    """One line: for a task's own input errors the message alone, else what Python's last traceback line says."""
    if isinstance(error, InputError):
        return str(error)
    return traceback.format_exception_only(error)[-1].strip()


class TrialContext:
    """The `tasks.api.Context` of a trial."""

    def __init__(self, spec: TrialSpec, folder: TrialFolder, send: Send) -> None:
        self.seed, self.data, self.cache = spec.seed, spec.data, spec.cache
        self.device = "cuda" if spec.gpus and _has_cuda() else "cpu"
        self.last: Mapping[str, float] = {}
        self.step = 0
        self._spec, self._folder, self._send = spec, folder, send
        self._unsent: list[Event] = [TrialPlaced(spec.id, socket.gethostname(), os.getpid())]

    def report(self, step: int, /, **metrics: float) -> None:
        if step <= self.step:
            raise ValueError(f"steps must increase: {step} was reported after {self.step}")
        self.step, self.last = step, plain_metrics(metrics)
        value = self.last.get(self._spec.metric)
        self.send(Reported(self._spec.id, step, self.last))
        if value is not None and not math.isfinite(value):
            raise Diverged(f"diverged at step {step}: {self._spec.metric} is {value}")

    def send(self, event: Event) -> None:
        events, self._unsent = [*self._unsent, event], []
        self._send(events)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        checkpoint.save(self._folder.checkpoint, step, state)

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        return checkpoint.load_last(self._folder.checkpoint)

    def artifact(self, name: str) -> Path:
        root = self._folder.artifacts.resolve()
        path = (root / name).resolve()
        if root not in path.parents:
            raise ValueError(f"the artifact name {name!r} leaves the trial's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def figure(self, name: str, figure: Any) -> None:
        figure.savefig(self.artifact(f"{name}.png"), dpi=120, bbox_inches="tight")


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain floats. Raises TypeError naming the first that is no number."""
    plain = {}
    for name, value in metrics.items():
        if hasattr(value, "item"):  # a 0-d array or tensor
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"metric '{name}' must be a number, got {value!r}")
        plain[name] = float(value)
    return plain


def _finish(spec: TrialSpec, context: TrialContext, final: Any) -> TrialEnded:
    if not isinstance(final, Mapping) or spec.metric not in final:
        got = sorted(final) if isinstance(final, Mapping) else repr(final)
        return TrialEnded(spec.id, State.FAILED, f"the task returned no '{spec.metric}', but {got}")
    metrics = plain_metrics(final)
    if not math.isfinite(metrics[spec.metric]):
        reason = f"diverged at step {context.step}: {spec.metric} is {metrics[spec.metric]}"
        return TrialEnded(spec.id, State.FAILED, reason, metrics)
    return TrialEnded(spec.id, State.FINISHED, metrics=metrics)


def _seed_globals(seed: int) -> None:
    """A net for libraries that draw from global generators; a task itself uses ``context.seed``.

    Ray gives the process as many threads as the trial holds CPUs (``OMP_NUM_THREADS``): sums depend on that too.
    """
    random.seed(seed)
    np.random.seed(seed)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send what the trial prints and logs to its own file."""
    with path.open("a", buffering=1, encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root, level = logging.getLogger(), logging.getLogger().level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            sys.stdout.flush()
