"""SIGINT and SIGTERM in every phase of a run: it ends in order within ten seconds and can be resumed."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress

import invariants
import pytest
from running import Bench, left_behind, outcome
from servers import Proxy, mlflow_server

from orchestrator.history.states import State

pytestmark = pytest.mark.faults

STUDY = {
    "search": {"algorithm": "random", "trials": 6, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 12, "saves": True, "noise": 0.1, "pace": 0.05},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), "s", **STUDY)
    began = time.monotonic()
    bench.finish()
    return outcome(bench.record), time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", range(8))
def test_a_signal_at_any_moment(number, phase, undisturbed, tmp_path):
    """The run is cut into eight phases, from the imports to the last lines; the moment in each is random."""
    found, seconds = undisturbed
    rng, bench = random.Random(f"{number}{phase}"), Bench(tmp_path, "s", **STUDY)
    process = bench.start()
    moment = time.monotonic() + seconds * (phase + rng.random()) / 8
    bench.until(lambda: time.monotonic() >= moment, process)
    began = time.monotonic()
    # A terminal sends Ctrl-C to all that runs in it; `kill` and a batch system mean the process alone.
    with suppress(ProcessLookupError):  # it was faster than the undisturbed one
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10, err
    assert process.returncode in (0, 130, -number), out + err
    assert "Traceback" not in err
    assert left_behind(bench.runs.root) == []
    if process.returncode == 0:  # it had just ended
        assert bench.record.state is State.FINISHED
    else:
        if bench.events() and bench.record.state is not State.FINISHED:
            assert bench.record.state is State.STOPPED
            assert "orchestrator resume s" in err
        if not bench.events() or bench.record.state is not State.FINISHED:
            bench.finish()
    assert outcome(bench.record) == found
    bench.finish("track", "s")
    invariants.check(bench.record, bench.folder.journal, bench.tracker)


@pytest.mark.parametrize("seed", range(5))
def test_a_second_signal_ends_it_at_once(seed, undisturbed, tmp_path):
    rng, bench = random.Random(seed), Bench(tmp_path, "s", **STUDY)
    process = bench.start()
    target = 2 + rng.randrange(60)
    assert bench.until(lambda: bench.events() >= target, process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.35 + rng.random() / 10)  # the second comes at any moment of the first's work
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    assert time.monotonic() - began < 3
    assert process.returncode == 130
    process.communicate()
    bench.finish()
    assert outcome(bench.record) == undisturbed[0]
    invariants.check(bench.record, bench.folder.journal, bench.tracker)


@pytest.mark.parametrize("moment", ["in its trials", "at its end"])
def test_a_tracker_that_never_answers_does_not_hold_up_an_interrupt(moment, undisturbed, tmp_path):
    with mlflow_server(tmp_path / "server") as server, Proxy(server.uri) as proxy:
        bench = Bench(tmp_path, "s", **STUDY, tracking={"uri": proxy.uri})
        proxy.behave("hang")
        process = bench.start()
        reached = (lambda: bench.events() > 30) if moment == "in its trials" else lambda: is_complete(bench)
        assert bench.until(reached, process)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
        assert process.returncode == (130 if moment == "in its trials" else 0), out + err
        assert "orchestrator track s" in (out + err).replace("\n", " ")
        proxy.behave("pass")
        if moment == "in its trials":
            bench.finish()
        bench.finish("track", "s")
        assert outcome(bench.record) == undisturbed[0]
        invariants.check(bench.record, bench.folder.journal, server.uri)


def is_complete(bench):
    return bench.events() and bench.record.ended is not None
