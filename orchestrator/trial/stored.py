"""Results on disk: a batch of them in a file, written aside and renamed, whose arrays are mapped and not read.

A file holds the buffers of all arrays, each at a multiple of 64 bytes, then one pickle that refers to them (protocol 5,
PEP 574), then a line of JSON that says where everything is, and its length. These files are a study's own scratch: like
every pickle, one from somebody else may run code when it is loaded.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import uuid
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

from orchestrator.objectstore.storage import Mirror

_ALIGN = 64
_LENGTH = 8  # bytes of the last line's length, at the very end
_MAPPED_BYTES = 1_000_000  # smaller files are read: a process may hold some 65,000 mappings


@dataclass(frozen=True)
class StoredResult:
    """One result of a map as `tasks.api.Handle`: where it is and the checksum of the file that holds it.

    With a ``mirror`` the path is relative to its root, and the file is brought to whichever machine loads it.
    """

    path: Path
    index: int
    crc: int
    mirror: Mirror | None = None

    def load(self) -> Any:
        return _recent(self.path, self.crc, self.mirror)[self.index]


def write(path: Path, results: Sequence[Any], digest: str) -> int:
    """Store results, replacing what was there. Returns the checksum of them and of where they are.

    ``digest`` is of what they were computed from. Raises OSError, and whatever pickle says of what it cannot take.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(list(results), protocol=5, buffer_callback=buffers.append)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")  # two workers may compute the same after a death
    places, crc = [], 0
    try:
        with aside.open("wb") as file:
            for piece in (*(buffer.raw() for buffer in buffers), memoryview(body)):
                padding = bytes(-file.tell() % _ALIGN)
                places.append((file.tell() + len(padding), piece.nbytes))
                for part in (padding, piece):
                    crc = zlib.crc32(part, crc)
                    file.write(part)
            crc = zlib.crc32(json.dumps(places).encode(), crc)
            last = json.dumps({"digest": digest, "crc": crc, "places": places}).encode()
            file.write(last + len(last).to_bytes(_LENGTH, "big"))
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return crc


def checksum_of(path: Path, digest: str) -> int | None:
    """The checksum of a stored file if it is whole and was computed from what has this digest, else None."""
    try:
        data = path.read_bytes() if path.stat().st_size < _MAPPED_BYTES else _mapped(path)
        last, end = _last_line(data)
        crc = zlib.crc32(json.dumps(last["places"]).encode(), zlib.crc32(memoryview(data)[:end]))
        whole = last["digest"] == digest and crc == last["crc"] and json.dumps(last).encode() == data[end:-_LENGTH]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(last["crc"]) if whole else None


def read(path: Path) -> list[Any]:
    """The results in a file; their arrays are read-only and, in a large file, mapped."""
    data = path.read_bytes() if path.stat().st_size < _MAPPED_BYTES else _mapped(path)
    last, _ = _last_line(data)
    *buffers, body = [memoryview(data)[start : start + length] for start, length in last["places"]]
    results: list[Any] = pickle.loads(body, buffers=buffers)  # noqa: S301 - our own, see above
    return results


@lru_cache(maxsize=1)
def _recent(path: Path, crc: int, mirror: Mirror | None) -> list[Any]:
    """Handles are loaded in order more often than not: those of small results share a file."""
    return read(_brought(path, crc, mirror))


def _brought(path: Path, crc: int, mirror: Mirror | None) -> Path:
    """The path of a file here, after it has been obtained if another or none is here."""
    if mirror is None:
        return path
    path = mirror.root / path
    if not path.exists() or _read_crc(path) != crc:
        mirror.obtain(path, exact=True)
    return path


def _read_crc(path: Path) -> int | None:
    try:
        last, _ = _last_line(path.read_bytes() if path.stat().st_size < _MAPPED_BYTES else _mapped(path))
        return int(last["crc"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _last_line(data: bytes | mmap.mmap) -> tuple[dict[str, Any], int]:
    end = len(data) - _LENGTH - int.from_bytes(data[-_LENGTH:], "big")
    if end < 0:
        raise ValueError("the file is cut short")
    last: dict[str, Any] = json.loads(data[end:-_LENGTH])
    return last, end


@dataclass(frozen=True)
class Place:
    """Where the results of the items from ``start`` to ``stop`` are."""

    start: int
    stop: int
    path: Path
    crc: int
    mirror: Mirror | None = None


class StoredResults(Sequence[Any]):
    """The results of a map, read from their files when they are asked for."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = sorted(places, key=lambda place: place.start)
        self._starts = [place.start for place in self._places]

    def __len__(self) -> int:
        return self._places[-1].stop if self._places else 0

    def __iter__(self) -> Iterator[Any]:
        for place in self._places:
            yield from read(_brought(place.path, place.crc, place.mirror))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        handles = self.handles[index]
        return [handle.load() for handle in handles] if isinstance(handles, Sequence) else handles.load()

    @property
    def handles(self) -> Sequence[StoredResult]:
        return _Handles(self._places, self._starts)


class _Handles(Sequence[StoredResult]):
    def __init__(self, places: Sequence[Place], starts: Sequence[int]) -> None:
        self._places, self._starts = places, starts

    def __len__(self) -> int:
        return self._places[-1].stop if self._places else 0

    @overload
    def __getitem__(self, index: int) -> StoredResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StoredResult]: ...
    def __getitem__(self, index: int | slice) -> StoredResult | Sequence[StoredResult]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # IndexError beyond the ends
        place = self._places[bisect_right(self._starts, index) - 1]
        return StoredResult(place.path, index - place.start, place.crc, place.mirror)
