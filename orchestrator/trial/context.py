"""What a task is given: its `tasks.api.Context`, made of one attempt at a trial. Knows nothing of Ray."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.history import checkpoint
from orchestrator.history.events import Reported, Saved
from orchestrator.history.folder import TrialFolder, inside
from orchestrator.studies import registry
from orchestrator.trial import fence, gpu, trialfiles
from orchestrator.trial.maps import Maps
from orchestrator.trial.spec import TrialSpec
from tasks.api import Goal, Input

if TYPE_CHECKING:
    from orchestrator.trial.worker import Attempt

_METRIC_NAME = re.compile(r"[\w.\-/ :]{1,250}")  # what trackers accept


class Diverged(Exception):
    """The study's metric became NaN or infinite."""


class Stopped(BaseException):
    """Raised in the task's thread when its attempt is to end; no error of the task's."""


class Paused(Stopped):
    """The trial has come to where it waits for others."""


class Drained(Stopped):
    """The trial's node is about to be taken away, and all that it has done is on disk."""


class TrialContext:
    """The `tasks.api.Context` of an attempt."""

    def __init__(self, spec: TrialSpec, folder: TrialFolder, attempt: Attempt) -> None:
        self.seed, self.cache = spec.seed, spec.cache
        self.data: Path | None = None  # until it is here
        self.inputs: Sequence[Input] = ()  # until they are
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
