"""`Context.map`: one function over many items, whoever computes them. Knows nothing of Ray.

Items are computed in batches, of about a quarter of a second where items are small. A batch's results become one file
of the trial (with keys: one file an item, in the shared cache) and one line of the journal. A map that is run again,
after whatever death, takes from these files what the journal says is done and computes the rest.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import failures
from orchestrator.errors import StorageProblem
from orchestrator.history.events import Event, ItemsDone, MapStarted
from orchestrator.history.record import MapRecord
from orchestrator.objectstore.data import DataUrl
from orchestrator.objectstore.locks import locked
from orchestrator.objectstore.storage import Mirror
from orchestrator.trial import stored
from orchestrator.trial.jobs import Computed, Died, Executor, Failed, Job, digest_of
from orchestrator.trial.stored import Place, StoredResults
from tasks.api import InputError

_BATCH_SECONDS = 0.25
_MOST_ITEMS = 1000  # in a batch: what a death costs at most, and what a worker holds
_GROWTH = 8  # times as large as the largest batch so far may the next be
_AHEAD = 2  # jobs in flight for each slot: a worker that is done finds the next
_TRIES = 4  # of an item whose workers die, before its trial fails
_PATIENCE_SECONDS = 0.2  # between two moments in which the trial can be stopped
_NAME = re.compile(r"[\w\-][\w.\-]{0,99}")


class MapFailed(RuntimeError):
    """An item of a map failed, or its workers died every time."""


class _Elsewhere(Exception):
    """The traceback of where an item failed, as the cause of what is raised here."""


class Maps:
    """The maps of one attempt at a trial, whose stored results are below ``folder`` and, with keys, ``cache``.

    ``journaled`` is what the journal knew of them when the attempt began; ``put`` takes the events for it.
    """

    def __init__(
        self,
        trial: str,
        folder: Path,
        cache: Path,
        journaled: Mapping[str, MapRecord],
        put: Callable[[Event], None],
        executor: Executor,
        mirror: Mirror | None = None,
        data: Path | DataUrl | None = None,
    ) -> None:
        self._mirror, self._data = mirror, data if isinstance(data, DataUrl) else None
        self._trial, self._folder, self._cache, self._journaled = trial, folder, cache, journaled
        self._put, self._executor = put, executor
        self._names: set[str] = set()

    def run(
        self, function: Callable[[Any], Any], items: Iterable[Any], name: str | None, keys: Sequence[str] | None
    ) -> StoredResults:
        """See `tasks.api.Context.map`. Raises `MapFailed`, or what an item raised for bad data or a full disk."""
        name = name or str(getattr(function, "__name__", ""))
        self._check_name(name)
        one = _Map(self._trial, name, function, list(items), keys, self._place_of(name, keys), self._mirror, self._data)
        # Another trial that computes for the same part of the cache is waited for: what it stores is found there then.
        with locked(self._cache / "maps" / name / ".lock") if keys is not None else contextlib.nullcontext():
            return StoredResults(one.run(self._journaled.get(name), self._put, self._executor))

    def _place_of(self, name: str, keys: Sequence[str] | None) -> Callable[[int, int], Path]:
        if keys is None:
            return lambda start, stop: self._folder / name / f"{start:09d}-{stop:09d}"
        return lambda start, stop: self._cache / "maps" / name / keys[start]

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a map: letters, digits, '_', '-' and '.' can; give name=")
        if name in self._names:
            raise ValueError(f"this trial has a map '{name}' already: give this one another name=")
        self._names.add(name)


@dataclass(frozen=True)
class _Map:
    trial: str
    name: str
    function: Callable[[Any], Any]
    items: list[Any]
    keys: Sequence[str] | None
    path_of: Callable[[int, int], Path]
    mirror: Mirror | None
    data: DataUrl | None

    def __post_init__(self) -> None:
        if self.keys is None:
            return
        if len(self.keys) != len(self.items) or len(set(self.keys)) != len(self.keys):
            raise ValueError(f"map '{self.name}' has {len(self.items)} items and {len(set(self.keys))} different keys")
        for key in self.keys:
            if not _NAME.fullmatch(key):
                raise ValueError(f"{key!r} cannot be a key of map '{self.name}': letters, digits, '_', '-', '.' can")

    def run(self, journaled: MapRecord | None, put: Callable[[Event], None], executor: Executor) -> list[Place]:
        """Compute what is not there yet; the places of all results."""
        places = self._kept(journaled, put)
        batches = _Batches(_rest(places, len(self.items)), 1 if self.keys else _MOST_ITEMS)
        tries: Counter[int] = Counter()
        flying = 0
        try:
            while True:
                while flying < _AHEAD * executor.slots and (batch := batches.next(executor.slots)):
                    executor.submit(self._job(batch))
                    flying += 1
                if not flying:
                    return places
                for job, outcome in executor.done(_PATIENCE_SECONDS):
                    flying -= 1
                    if isinstance(outcome, Computed):
                        places.append(Place(job.start, job.stop, job.path, outcome.crc, self.mirror))
                        batches.learn(len(job.items), outcome.seconds)
                        put(self._done(job.start, job.stop, outcome.seconds, outcome.node))
                    else:
                        self._failed(job, outcome, tries)
                        batches.again(range(job.start, job.stop))
        finally:
            executor.close()

    def _kept(self, journaled: MapRecord | None, put: Callable[[Event], None]) -> list[Place]:
        """What an earlier attempt, or with keys an earlier trial, has left; what the journal lacks of it is said."""
        said = set(journaled.batches) if journaled is not None and journaled.items == len(self.items) else None
        there = said or () if self.keys is None else [(index, index + 1) for index in range(len(self.items))]
        places = []
        for start, stop in sorted(there):
            path = self.path_of(start, stop)
            crc = self._checksum(path, self._digest(start, stop))
            if crc is not None:
                places.append(Place(start, stop, self._portable(path), crc, self.mirror))
        found = {(place.start, place.stop) for place in places}
        if said is None or said - found:  # lost or damaged, or of other items
            said = set()
            put(MapStarted(self.trial, self.name, len(self.items)))
        for start, stop in sorted(found - said):
            put(self._done(start, stop, 0.0, None))
        return places

    def _job(self, batch: range) -> Job:
        start, stop = batch.start, batch.stop
        path, digest = self._portable(self.path_of(start, stop)), self._digest(start, stop)
        return Job(self.function, self.items[start:stop], start, path, digest, self.mirror, self.data)

    def _portable(self, path: Path) -> Path:
        return path if self.mirror is None else self.mirror.relative(path)

    def _checksum(self, path: Path, digest: str) -> int | None:
        """Of a stored file, here or, after it has been brought here, there."""
        crc = stored.checksum_of(path, digest)
        if crc is None and self.mirror is not None:
            self.mirror.obtain(path, exact=True)
            crc = stored.checksum_of(path, digest)
        return crc

    def _digest(self, start: int, stop: int) -> str:
        return self.keys[start] if self.keys is not None else digest_of(self.function, self.items[start:stop])

    def _done(self, start: int, stop: int, seconds: float, node: str | None) -> ItemsDone:
        return ItemsDone(self.trial, self.name, start, stop, seconds, node)

    def _failed(self, job: Job, outcome: Failed | Died, tries: Counter[int]) -> None:
        """Raises unless the job is worth another try."""
        if isinstance(outcome, Died):
            tries.update(range(job.start, job.stop))
            if tries[job.start] < _TRIES:
                return
            raise MapFailed(f"{_which(job)} of map '{self.name}': {outcome.reason} (after {_TRIES} tries)")
        if outcome.is_storage:
            raise StorageProblem(outcome.error)
        if outcome.is_input:
            raise InputError(outcome.error)
        cause = _Elsewhere(f"\n{outcome.traceback}")
        message = f"item {outcome.index} of map '{self.name}' ({outcome.item}) failed: {outcome.error}"
        if outcome.errno is not None and failures.is_full_disk(OSError(outcome.errno, "")):
            raise OSError(outcome.errno, message) from cause
        raise MapFailed(message) from cause


class _Batches:
    """Cuts what is left of a map into batches, larger ones where items turn out to be small."""

    def __init__(self, left: list[range], most: int) -> None:
        self._left, self._most = left[::-1], most
        self._items = sum(len(part) for part in left)
        self._done, self._seconds, self._largest = 0, 0.0, 0

    def next(self, slots: int) -> range | None:
        if not self._left:
            return None
        part = self._left.pop()
        size = min(self._size(slots), len(part))
        if size < len(part):
            self._left.append(range(part.start + size, part.stop))
        self._items -= size
        return range(part.start, part.start + size)

    def _size(self, slots: int) -> int:
        if not self._done:
            return 1
        fair = -(-self._items // (_AHEAD * slots))  # lest one worker end long after the others
        wanted = self._most if not self._seconds else int(_BATCH_SECONDS * self._done / self._seconds)
        return max(1, min(wanted, fair, self._most, _GROWTH * self._largest))

    def learn(self, items: int, seconds: float) -> None:
        self._done, self._seconds = self._done + items, self._seconds + seconds
        self._largest = max(self._largest, items)

    def again(self, batch: range) -> None:
        """Its worker died: one item at a time shows which it was."""
        self._left += [range(index, index + 1) for index in reversed(batch)]
        self._items += len(batch)


def _rest(places: Sequence[Place], items: int) -> list[range]:
    """What is between the places, in order."""
    starts = [0, *(place.stop for place in sorted(places, key=lambda place: place.start))]
    stops = [*sorted(place.start for place in places), items]
    return [range(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def _which(job: Job) -> str:
    return f"item {job.start}" if len(job.items) == 1 else f"items {job.start} to {job.stop - 1}"
