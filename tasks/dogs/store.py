"""Large arrays on disk that several trials, processes or machines fill together and then share, memory-mapped.

An array is cut into shards. Each process takes the first shard that nobody is working on (an advisory file lock says
so, and vanishes with its process), so two trials that need the same features share the work instead of doing it twice,
and a killed one loses at most a shard. When all are there, one process joins them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Problems = dict[int, str]
Compute = Callable[[range], tuple[np.ndarray, Problems]]


def fill(folder: Path, count: int, shard: int, compute: Compute) -> tuple[np.ndarray, Problems]:
    """The array of ``count`` rows in ``folder``, memory-mapped read-only, and what was wrong with which row.

    ``compute(rows)`` returns the rows of a range and the problems among them, by row number. It is called for the
    shards that no other process has done or is doing; then the others are waited for.
    """
    joined = folder / "array.npy"
    if not joined.exists():
        parts = folder / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        ranges = [range(start, min(start + shard, count)) for start in range(0, count, shard)]
        _fill_parts(parts, joined, ranges, compute)
        with locked(folder / "join.lock"):
            if not joined.exists():
                _join(folder, parts, len(ranges), count)
    problems = {int(row): text for row, text in json.loads((folder / "problems.json").read_text()).items()}
    return np.load(joined, mmap_mode="r"), problems


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on a file. Yields False, at once, when ``wait`` is off and another holds it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _fill_parts(parts: Path, joined: Path, ranges: list[range], compute: Compute) -> None:
    missing = list(enumerate(ranges))
    while missing and not joined.exists():
        before = len(missing)
        for index, rows in list(missing):
            with locked(parts / f"{index:05d}.lock", wait=False) as mine:
                if mine:
                    _fill_part(parts / f"{index:05d}", rows, compute)
                    missing.remove((index, rows))
        if len(missing) == before:  # others hold all that is left: wait for the first of them
            with locked(parts / f"{missing[0][0]:05d}.lock"):
                pass


def _fill_part(part: Path, rows: range, compute: Compute) -> None:
    done = part.with_suffix(".npy")
    if done.exists():
        return
    array, problems = compute(rows)
    part.with_suffix(".json").write_text(json.dumps(problems))
    with part.with_suffix(".tmp").open("wb") as file:
        np.save(file, array)
    os.replace(part.with_suffix(".tmp"), done)


def _join(folder: Path, parts: Path, pieces: int, count: int) -> None:
    first = np.load(parts / "00000.npy", mmap_mode="r")
    aside = folder / "array.tmp"
    whole = np.lib.format.open_memmap(aside, "w+", first.dtype, (count, *first.shape[1:]))
    problems: dict[str, str] = {}
    row = 0
    for index in range(pieces):
        piece = np.load(parts / f"{index:05d}.npy", mmap_mode="r")
        whole[row : row + len(piece)] = piece
        problems |= json.loads((parts / f"{index:05d}.json").read_text())
        row += len(piece)
    whole.flush()
    (folder / "problems.json").write_text(json.dumps(problems))
    os.replace(aside, folder / "array.npy")
    shutil.rmtree(parts)
