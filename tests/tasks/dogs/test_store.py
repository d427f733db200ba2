"""Several processes fill one array: each row once, none lost when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np

from tasks.dogs.store import fill

ROWS, SHARD = 57, 5


def rows_of(rows: range) -> np.ndarray:
    return np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] * np.ones(3, np.float32)


def worker(folder: Path, log: Path, die_after: int) -> None:
    done = 0

    def compute(rows):
        nonlocal done
        with log.open("a") as file:
            file.write(f"{rows.start} {os.getpid()}\n")
        if done == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return rows_of(rows), {rows.start: "bad"} if rows.start % 10 == 0 else {}

    fill(folder, ROWS, SHARD, compute)


def start(tmp_path, *die_after):
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=worker, args=(tmp_path / "a", tmp_path / "log", n)) for n in die_after]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return processes


def check(folder: Path) -> None:
    array, problems = fill(folder, ROWS, SHARD, lambda rows: 1 / 0)  # complete: nothing is computed again
    assert np.array_equal(array, rows_of(range(ROWS)))
    assert problems == dict.fromkeys(range(0, ROWS, 10), "bad")


def test_processes_share_the_work_and_none_is_done_twice(tmp_path):
    start(tmp_path, 10**9, 10**9, 10**9)
    starts = [int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(starts) == list(range(0, ROWS, SHARD))
    check(tmp_path / "a")


def test_a_killed_process_loses_at_most_its_shard(tmp_path):
    killed, well = start(tmp_path, 2, 10**9)
    assert killed.exitcode == -signal.SIGKILL
    assert well.exitcode == 0
    starts = [int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(starts) == len(range(0, ROWS, SHARD)) + 1
    check(tmp_path / "a")


def test_all_killed_the_next_one_goes_on(tmp_path):
    start(tmp_path, 3)
    start(tmp_path, 10**9)
    check(tmp_path / "a")
