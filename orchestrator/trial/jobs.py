"""A batch of a map's items, and who computes it: `Executor` is the seam, `InProcess` the one without a cluster."""

from __future__ import annotations

import pickle
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import joblib

from orchestrator.errors import DataProblem, StorageProblem
from orchestrator.objectstore.data import DataUrl, localized
from orchestrator.objectstore.storage import Mirror
from orchestrator.trial import stored
from tasks.api import InputError


@dataclass(frozen=True)
class Job:
    """A batch: ``items`` are those from number ``start`` on. ``digest`` is of the function and the items.

    With a ``mirror`` the path is relative to its root, and the results go to its URL. ``data`` is what the trial reads:
    it is brought to the machine of the job, too.
    """

    function: Callable[[Any], Any]
    items: Sequence[Any]
    start: int
    path: Path
    digest: str
    mirror: Mirror | None = None
    data: DataUrl | None = None

    @property
    def stop(self) -> int:
        return self.start + len(self.items)


def digest_of(function: Callable[[Any], Any], items: Sequence[Any]) -> str:
    """What tells whether stored results are of these items. Raises TypeError for what cannot go to a worker."""
    try:
        return str(joblib.hash((function, items)))  # a pickle's own bytes depend on identities and the order of sets
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(f"a map's function must be defined at a module's top, its items be data: {error}") from error


@dataclass(frozen=True)
class Computed:
    """``crc`` is the checksum of the file that holds the results; ``seconds`` is what computing them took."""

    crc: int
    seconds: float
    node: str


@dataclass(frozen=True)
class Failed:
    """What an item raised."""

    index: int
    item: str
    error: str
    traceback: str
    errno: int | None
    is_input: bool
    is_storage: bool = False


@dataclass(frozen=True)
class Died:
    """The worker died, or could not take the job."""

    reason: str


class Executor(Protocol):
    """Who computes the jobs of a map. ``done`` gives what has ended since it was called last, in any order."""

    @property
    def slots(self) -> int: ...
    def submit(self, job: Job) -> None: ...
    def done(self, patience: float) -> list[tuple[Job, Computed | Failed | Died]]: ...
    def close(self) -> None: ...


class InProcess:
    """Computes jobs here, one at a time."""

    slots = 1

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def done(self, patience: float) -> list[tuple[Job, Computed | Failed | Died]]:
        job = self._jobs.popleft()
        return [(job, compute(job))]  # the trial's log is open here already

    def close(self) -> None:
        self._jobs.clear()


def compute(job: Job) -> Computed | Failed:
    """The job, wherever that is; its results are stored when this returns."""
    try:
        localized(job.data)
    except Exception as error:  # it has changed, or does not fit
        return _failed(job.start, job.items[0], error)
    began, results = time.perf_counter(), []
    for index, item in enumerate(job.items, job.start):
        try:
            results.append(job.function(item))
        except Exception as error:  # the trial raises it again, where a person sees it
            return _failed(index, item, error)
    try:
        path = job.path if job.mirror is None else job.mirror.root / job.path
        crc = stored.write(path, results, job.digest)
        if job.mirror is not None:
            job.mirror.publish(path)
    except Exception as error:  # a full disk, or a result that cannot be pickled
        return _failed(job.start, job.items[0], error)
    return Computed(crc, time.perf_counter() - began, socket.gethostname())


def _failed(index: int, item: Any, error: Exception) -> Failed:
    is_input = isinstance(error, InputError | DataProblem)
    said = (
        str(error)
        if is_input or isinstance(error, StorageProblem)
        else traceback.format_exception_only(error)[-1].strip()
    )
    number = error.errno if isinstance(error, OSError) else None
    shown = repr(item)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}…"
    return Failed(index, shown, said, traceback.format_exc(), number, is_input, isinstance(error, StorageProblem))
