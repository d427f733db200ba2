"""Trials that hang, eat, die, lie or talk too much: each ends as it should, says why, and holds up no other."""

from __future__ import annotations

import math
import re
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import invariants
import pytest
from running import Bench, left_behind, outcome

from orchestrator.history.events import Cause, Reported, StudyEnded, TrialInterrupted, TrialPlaced
from orchestrator.history.journal import read
from orchestrator.history.states import State

pytestmark = pytest.mark.faults

GB = 1e9


def grid(**choices) -> dict:
    return {"algorithm": "grid", "space": {name: {"choice": values} for name, values in choices.items()}}


def check(bench: Bench) -> None:
    assert bench.record.state.is_over
    invariants.check(bench.record, bench.folder.journal, bench.tracker)
    assert left_behind(bench.runs.root) == []


def by(record, name: str) -> dict:
    """The trials by the value of a parameter."""
    return {trial.params[name]: trial for trial in record.trials.values()}


def found(record) -> dict[str, tuple]:
    """The outcome without what went wrong on the way to it."""
    less = ("mood", "once", "wait_for")
    return {
        id: (seed, {name: value for name, value in params.items() if name not in less}, *rest)
        for id, (seed, params, *rest) in outcome(record).items()
    }


# ------------------------------------------------------------------------------------------------------------ hanging


def test_one_that_hangs_is_tried_again(tmp_path):
    """Every trial hangs in its first attempt and goes on in its second as if nothing had been."""
    study = {"search": grid(x=[-0.5, 0.25]), "params": {"steps": 5, "noise": 0.1}}
    whole = Bench(tmp_path / "whole", "s", **study)
    whole.finish()
    study["params"] |= {"mood": "hang", "once": True}
    bench = Bench(tmp_path / "hangs", "s", **study, failures={"stall_minutes": 0.05, "retries": 1})
    bench.finish()
    assert found(bench.record) == found(whole.record)
    assert all(trial.state is State.FINISHED and trial.attempt == 2 for trial in bench.record.trials.values())
    stalled = [e for e, _ in read(bench.folder.journal) if isinstance(e, TrialInterrupted)]
    assert {(e.trial, e.cause) for e in stalled} == {(trial, Cause.STALLED) for trial in bench.record.trials}
    assert len(stalled) == 2
    assert all(e.reason == "it reported nothing for 0.05 minutes after step 1" for e in stalled)
    check(bench)


def test_one_that_hangs_for_ever_is_stopped_by_order(tmp_path):
    """From another process, answered within five seconds; the study goes on to its end."""
    bench = Bench(tmp_path, "s", search=grid(mood=["hang", "well"], x=[-0.5, 0.0, 0.25]), params={"steps": 3})
    process = bench.start()
    stopped: list[str] = []
    for _ in range(3):
        stuck = lambda: next((t.id for t in running(bench) if t.id not in stopped), None)  # noqa: E731
        assert bench.until(stuck, process)
        stopped.append(stuck())
        began = time.monotonic()
        said = bench.finish("stop", "s", stopped[-1])
        assert time.monotonic() - began < 5
        assert f"{stopped[-1]} is stopped at step 1" in said
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    for trial in bench.record.trials.values():
        if trial.params["mood"] == "hang":
            assert (trial.state, trial.reason, trial.steps) == (State.STOPPED, "stopped by order", 1)
        else:
            assert trial.state is State.FINISHED
    assert bench.record.state is State.FINISHED
    check(bench)


def running(bench: Bench) -> list:
    """Trials that have come to where they hang."""
    if not bench.folder.journal.exists():
        return []
    trials = bench.record.trials.values()
    return [t for t in trials if t.state is State.RUNNING and t.params["mood"] == "hang" and t.steps == 1]


# ------------------------------------------------------------------------------------------------------------- memory


def test_one_that_eats_memory(tmp_path):
    """Ray's memory monitor kills it before the machine suffers; it fails with what it held, and the others finish."""
    total, used = memory()
    if total - used < 5 * GB:
        pytest.skip("needs 5 GB of free memory")
    bench = Bench(
        tmp_path,
        "s",
        search=grid(mood=["well", "eat"], x=[-0.5, 0.25]) | {"concurrent": 1},
        params={"steps": 4},
        failures={"retries": 0},
    )
    bench.environment = {
        "RAY_memory_usage_threshold": f"{(used + 4 * GB) / total:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    process = bench.start()
    held: dict[str, float] = {}
    while process.poll() is None:
        for event, _ in read(bench.folder.journal) if bench.folder.journal.exists() else ():
            if isinstance(event, TrialPlaced):
                held[event.trial] = max(held.get(event.trial, 0.0), resident(event.pid))
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    for trial in bench.record.trials.values():
        print(trial.id, trial.params["mood"], trial.state, trial.reason, f"seen: {held[trial.id] / GB:.2f} GB")
        print(trial.traceback)
        if trial.params["mood"] == "well":
            assert trial.state is State.FINISHED
            continue
        assert trial.state is State.FAILED
        assert trial.reason.startswith("out of memory on the host: ")
        said = float(re.search(r"the worker's peak was ([\d.]+) GB", trial.reason)[1])
        assert held[trial.id] > 0.5 * GB
        assert said == pytest.approx(held[trial.id] / GB, abs=0.5)
    assert bench.record.state is State.FINISHED
    check(bench)


def memory() -> tuple[int, int]:
    """The machine's memory and how much of it is in use, in bytes."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    values = {name.rstrip(":"): int(value) * 1024 for name, value, *_ in lines}
    return values["MemTotal"], values["MemTotal"] - values["MemAvailable"]


def resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 if "VmRSS:" in status else 0


# ------------------------------------------------------------------------------------------- deaths and bad results


def test_one_whose_worker_dies_every_time(tmp_path):
    """It fails after its retries, says where it was, and the others finish."""
    bench = Bench(
        tmp_path,
        "s",
        search=grid(mood=["die", "well"], x=[-0.5, 0.0, 0.25]),
        params={"steps": 3},
        failures={"retries": 2},
    )
    bench.finish()
    for trial in bench.record.trials.values():
        if trial.params["mood"] == "die":
            assert trial.state is State.FAILED
            assert trial.attempt == trial.failures == 3
            assert trial.reason.startswith("its worker died: ") or "its worker was killed" in trial.reason
            assert trial.reason.endswith("(after 3 attempts)")
            assert trial.node == socket.gethostname()
            assert trial.traceback
        else:
            assert (trial.state, trial.attempt) == (State.FINISHED, 1)
    check(bench)


def test_ones_that_return_nonsense(tmp_path):
    """NaN, words, nothing, an infinity: each fails in a line that says what; trying again is for what may change."""
    moods = ["nan", "string", "forgetful", "inf_final", "raise", "save_first", "well"]
    bench = Bench(tmp_path, "s", search=grid(mood=moods), params={"x": 0.25, "steps": 3}, failures={"retries": 1})
    bench.finish()
    trials = by(bench.record, "mood")
    twice = " (after 2 attempts)"
    expected = {
        "nan": (1, "diverged at step 2: loss is nan"),
        "string": (2, "TypeError: metric 'loss' must be a number, got 'low'" + twice),
        "forgetful": (1, "the task returned no 'loss', but []"),
        "inf_final": (1, "diverged at step 3: loss is inf"),
        "raise": (2, "RuntimeError: the toy broke" + twice),
        "save_first": (2, "ValueError: step 1 was saved before it was reported"),
    }
    for mood, (attempts, reason) in expected.items():
        assert trials[mood].state is State.FAILED, mood
        assert trials[mood].attempt == attempts, mood
        assert trials[mood].reason.startswith(reason), mood
    assert math.isnan(trials["nan"].curve.values[-1])
    assert (trials["well"].state, trials["well"].attempt) == (State.FINISHED, 1)
    assert bench.record.state is State.FINISHED
    check(bench)


# ----------------------------------------------------------------------------------------------------- too much talk


def test_one_that_reports_a_hundred_thousand_metrics_at_once(tmp_path):
    bench = Bench(tmp_path, "s", search=grid(x=[0.25]), params={"mood": "wide", "steps": 3})
    began = time.monotonic()
    said = bench.finish()
    print(f"\n100,000 metrics in one report: the whole study took {time.monotonic() - began:.1f} s")
    assert "not everything is tracked" not in said
    trial = bench.record.trials["t0000"]
    assert trial.state is State.FINISHED
    rows = tracked(bench, "t0000")
    many = [row for row in rows if row[0].startswith("many/")]
    assert len(many) == 100_000
    assert {(key, 2, float(key[5:])) for key, _, _ in many} == set(many)
    assert len({(key, step) for key, step, _ in rows}) == len(rows)
    # What is left of `check`, which would ask for each of the metrics in turn.
    expected = invariants.expected_metrics(bench.folder.journal)["t0000"]
    assert {(key, step): value for key, step, value in rows} == expected
    assert left_behind(bench.runs.root) == []


def test_one_that_reports_as_fast_as_it_can(tmp_path):
    bench = Bench(tmp_path, "s", search=grid(x=[0.25]), params={"steps": 10_000})
    said = bench.finish()
    assert "not everything is tracked" not in said
    events = [event for event, _ in read(bench.folder.journal)]
    reports = [event for event in events if isinstance(event, Reported)]
    assert [event.step for event in reports] == list(range(1, 10_001))
    assert bench.record.trials["t0000"].state is State.FINISHED
    taken = reports[-1].at - reports[0].at
    ended = next(event.at for event in events if isinstance(event, StudyEnded)) - reports[0].at
    print(
        f"\n{len(reports) / taken:.0f} reports/s from the task's side; all was journaled {ended:.2f} s after the first"
    )
    rows = [(key, step) for key, step, _ in tracked(bench, "t0000")]
    assert len(set(rows)) == len(rows)
    assert {step for key, step in rows if key == "loss"} == set(range(1, 10_001)) | {10_001}  # the final one differs
    assert {step for key, step in rows if key == "seed"} == set(range(1, 10_001))
    check(bench)


def tracked(bench: Bench, trial: str) -> list[tuple[str, int, float]]:
    """Every metric that the embedded tracker has of a trial, as it has it: key, step, value."""
    with closing(sqlite3.connect(bench.runs.tracker)) as store:
        return store.execute(
            "SELECT m.key, m.step, m.value FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid"
            " WHERE t.key = 'orchestrator.trial' AND t.value = ?",
            (trial,),
        ).fetchall()
