"""Processes are killed at seeded random moments; afterwards nothing is lost and nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import invariants
import pytest
from running import Bench, kill, left_behind, outcome, some_events

from orchestrator.history.states import State

pytestmark = pytest.mark.faults

STUDY = {
    "search": {"algorithm": "random", "trials": 8, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 12, "saves": True, "noise": 0.1, "pace": 0.03},
    "failures": {"retries": 50},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), "s", **STUDY)
    bench.finish()
    return outcome(bench.record)


def check(bench: Bench, undisturbed) -> None:
    record = bench.record
    assert record.state is State.FINISHED
    assert outcome(record) == undisturbed
    invariants.check(record, bench.folder.journal, bench.tracker)


@pytest.mark.parametrize("seed", range(5))
def test_the_driver(seed, undisturbed, tmp_path):
    """Five studies, each driver SIGKILLed five times: early in its start, in the middle of trials, near the end."""
    rng, bench = random.Random(seed), Bench(tmp_path, "s", **STUDY)
    for _ in range(5):
        process, before = bench.start(), bench.events()
        target = before + some_events(rng, 40)
        if not bench.until(lambda: bench.events() >= target, process):  # noqa: B023 - called at once
            break
        kill(process)
    if bench.record.state is not State.FINISHED:
        bench.finish()
    check(bench, undisturbed)
    assert left_behind(bench.runs.root) == []


def test_workers(undisturbed, tmp_path):
    """The worker of a running trial is SIGKILLed, again and again."""
    rng, bench, killed = random.Random(1), Bench(tmp_path, "s", **STUDY), 0
    process = bench.start()
    while killed < 24:
        target = bench.events() + some_events(rng, 15)
        if not bench.until(lambda: bench.events() >= target, process):  # noqa: B023 - called at once
            break
        running = [t for t in bench.record.trials.values() if t.state is State.RUNNING and t.pid]
        if running:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(running).pid, signal.SIGKILL)
                killed += 1
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert killed >= 20
    check(bench, undisturbed)
    failures = [t for t in bench.record.trials.values() if t.failures]
    assert failures
    assert all(t.traceback and t.node for t in failures)


def test_the_whole_machine(undisturbed, tmp_path):
    """The driver and all that it started die at the same moment."""
    rng, bench = random.Random(2), Bench(tmp_path, "s", **STUDY)
    for _ in range(3):
        process = bench.start()
        target = bench.events() + some_events(rng, 60)
        if not bench.until(lambda: bench.events() >= target, process):  # noqa: B023 - called at once
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    bench.finish()
    check(bench, undisturbed)
