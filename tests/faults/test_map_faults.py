"""Maps whose driver, workers and nodes are killed at random moments: the same bits, and nothing journaled twice."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import invariants
import pytest
from running import Bench, kill, left_behind, some_events
from test_cluster import cluster

from orchestrator.history.events import ItemsDone, MapStarted
from orchestrator.history.journal import read
from orchestrator.history.states import State

pytestmark = pytest.mark.faults

STUDY = {
    "task": "many",
    "search": {"algorithm": "random", "trials": 2, "concurrent": 1},
    "params": {"items": 24, "pace": 0.15, "parts": 4},
    "failures": {"retries": 50},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the study finds on one core, and that another finds on two."""
    one, two = (Bench(tmp_path_factory.mktemp(name), "s", **STUDY) for name in ("one", "two"))
    with cluster(head_cpus=1) as nodes:
        one.environment["RAY_ADDRESS"] = nodes.address
        one.finish()
    two.finish()
    found = finals(one)
    assert finals(two) == found
    return found


def finals(bench: Bench) -> dict[str, float]:
    assert {t.state for t in bench.record.trials.values()} == {State.FINISHED}
    return {t.id: t.final["total"] for t in bench.record.trials.values()}


def check(bench: Bench, undisturbed) -> None:
    assert finals(bench) == undisturbed
    invariants.check(bench.record, bench.folder.journal, bench.tracker)
    assert left_behind(bench.runs.root) == []
    computed: Counter = Counter()
    for event, _ in read(bench.folder.journal):
        if isinstance(event, MapStarted):  # what was stored was lost or damaged: only a death may not do that
            assert not any(key[:2] == (event.trial, event.map) for key in computed)
        if isinstance(event, ItemsDone):
            computed.update((event.trial, event.map, index) for index in range(event.start, event.stop))
    assert set(computed.values()) == {1}
    assert len(computed) == 2 * (24 + 4)


@pytest.mark.parametrize("seed", range(3))
def test_the_driver(seed, undisturbed, tmp_path):
    rng, bench = random.Random(seed), Bench(tmp_path, "s", **STUDY)
    for _ in range(4):
        process, target = bench.start(), bench.events() + some_events(rng, 25)
        if not bench.until(lambda: bench.events() >= target, process):  # noqa: B023 - called at once
            break
        kill(process)
    if bench.record.state is not State.FINISHED:
        bench.finish()
    check(bench, undisturbed)


def test_workers_in_the_middle_of_their_items(undisturbed, tmp_path):
    """Those that draw, those that add up what was drawn, and the trial's own: whoever wrote last."""
    rng, bench, killed = random.Random(1), Bench(tmp_path, "s", **STUDY), 0
    process = bench.start()
    while killed < 12:
        target = bench.events() + 1 + some_events(rng, 5)
        if not bench.until(lambda: bench.events() >= target, process):  # noqa: B023 - called at once
            break
        pids = [int(line.split()[1]) for path in bench.folder.root.glob("trials/*/artifacts/drawn.txt")
                for line in path.read_text().splitlines()[-2:]]  # fmt: skip
        pids += [t.pid for t in bench.record.trials.values() if t.state is State.RUNNING and t.pid]
        pids = [pid for pid in pids if is_worker(pid)]
        if pids:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)
                killed += 1
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert killed >= 5
    check(bench, undisturbed)


def is_worker(pid: int) -> bool:
    """Whether it lives and is still what it was."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::")
    except OSError:
        return False


def test_two_nodes_one_of_which_is_lost(undisturbed, tmp_path):
    rng, lost = random.Random(3), 0
    with cluster(head_cpus=1) as nodes:
        bench = Bench(tmp_path, "s", **STUDY)
        bench.environment["RAY_ADDRESS"] = nodes.address
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        process = bench.start()
        while lost < 2:
            target = bench.events() + 8 + rng.randrange(6)
            assert bench.until(lambda: bench.events() >= target, process)  # noqa: B023 - called at once
            os.kill(second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            nodes.remove_node(second, allow_graceful=False)
            lost += 1
            second = nodes.add_node(num_cpus=1)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    check(bench, undisturbed)


def test_two_nodes_work_side_by_side(undisturbed, tmp_path):
    with cluster(head_cpus=1) as nodes:
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        bench = Bench(tmp_path, "s", **{**STUDY, "params": {**STUDY["params"], "pace": 0.4}})
        bench.environment["RAY_ADDRESS"] = nodes.address
        bench.finish()
    check(bench, undisturbed)
    maps = [trial.maps["draw"] for trial in bench.record.trials.values()]
    # Each node has one core: what took longer than the clock was done by both.
    assert all(drawn.seconds > 1.05 * (drawn.ended - drawn.started) for drawn in maps)
