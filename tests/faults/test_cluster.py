"""Clusters of several nodes on this machine: a node is lost, and two studies share what there is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import invariants
import pytest
import ray
from ray.cluster_utils import Cluster
from running import Bench, outcome, some_events

from orchestrator.history.events import Cause, TrialContinued, TrialEnded, TrialInterrupted, TrialPlaced, TrialStarted
from orchestrator.history.journal import read
from orchestrator.history.states import State

pytestmark = pytest.mark.faults

STUDY = {
    "search": {"algorithm": "random", "trials": 8, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 12, "saves": True, "noise": 0.1, "pace": 0.05},
    "failures": {"retries": 50},
}


@contextmanager
def cluster(head_cpus: int):
    """A Ray cluster of its own, whose nodes are processes of this machine."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_node_is_lost(tmp_path):
    """The raylet of the second node is SIGKILLed five times; its trials go on elsewhere, and on the node that comes."""
    undisturbed = Bench(tmp_path / "undisturbed", "s", **STUDY)
    undisturbed.finish()
    rng, lost = random.Random(3), 0
    with cluster(head_cpus=1) as nodes:
        bench = Bench(tmp_path, "s", **{**STUDY, "params": {**STUDY["params"], "pace": 0.4}})
        bench.environment["RAY_ADDRESS"] = nodes.address
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        process = bench.start()
        while lost < 5:
            target = bench.events() + 3 + some_events(rng, 10)
            there = lambda: bench.events() >= target and works_on(bench, second)  # noqa: B023, E731 - called at once
            assert bench.until(there, process)
            raylet = second.all_processes["raylet"][0].process
            os.kill(raylet.pid, signal.SIGKILL)
            nodes.remove_node(second, allow_graceful=False)
            lost += 1
            second = nodes.add_node(num_cpus=1)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    seeds_and_values = {id: (seed, state, final) for id, (seed, _, state, final, *_) in outcome(bench.record).items()}
    assert seeds_and_values == {
        id: (seed, state, final) for id, (seed, _, state, final, *_) in outcome(undisturbed.record).items()
    }
    invariants.check(bench.record, bench.folder.journal, bench.tracker)
    assert any(trial.failures for trial in bench.record.trials.values())


def works_on(bench: Bench, node) -> bool:
    trials = bench.record.trials.values()
    return any(t.state is State.RUNNING and t.node_id == node.node_id for t in trials)


def test_a_failing_trial_is_tried_again_on_another_node(tmp_path):
    with cluster(head_cpus=1) as nodes:
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        search = {"algorithm": "random", "trials": 4, "concurrent": 1, "space": {"x": {"uniform": [-1, 1]}}}
        params = {"mood": "raise", "once": True, "saves": True}
        bench = Bench(tmp_path, "s", search=search, params=params, failures={"retries": 1})
        bench.environment["RAY_ADDRESS"] = nodes.address
        bench.finish()
    placed: dict[str, list[str]] = {}
    for event, _ in read(bench.folder.journal):
        if isinstance(event, TrialPlaced):
            placed.setdefault(event.trial, []).append(event.node_id)
    assert len(placed) == 4
    for nodes_of_trial in placed.values():
        first, second = nodes_of_trial
        assert first != second
    assert {t.state for t in bench.record.trials.values()} == {State.FINISHED}


@pytest.mark.parametrize("slots", [1, 2])
def test_two_studies_share_a_cluster(tmp_path, slots):
    """Neither starves: while both have something to do, neither starts more than a few trials in a row."""
    search = {"algorithm": "random", "trials": 12, "space": {"x": {"uniform": [-1, 1]}}}
    with cluster(head_cpus=slots) as nodes:
        benches = [Bench(tmp_path, name, search=search, params={"steps": 5, "pace": 0.2}) for name in ("one", "two")]
        for bench in benches:
            bench.environment["RAY_ADDRESS"] = nodes.address
        processes = [bench.start() for bench in benches]
        for process in processes:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, out + err
    starts = []
    for bench in benches:
        events = [event for event, _ in read(bench.folder.journal)]
        placed = [(e.at, bench.name) for e in events if isinstance(e, TrialPlaced)]
        assert sum(isinstance(e, TrialStarted) for e in events) == 12
        starts.append(placed)
        invariants.check(bench.record, bench.folder.journal, bench.tracker)
    begun, over = max(s[0][0] for s in starts), min(s[-1][0] for s in starts)
    order = [name for at, name in sorted(starts[0] + starts[1]) if begun <= at <= over]
    longest = max(
        len(run) for run in "".join(name[0] for name in order).replace("ot", "o t").replace("to", "t o").split()
    )
    print("order of starts while both had work:", " ".join(order))
    assert len(order) >= 8
    assert longest <= 5


def test_a_node_that_joins_is_used(tmp_path):
    """A study that began on one place takes the new node's while its first trial still runs, up to ``concurrent``."""
    search = {"algorithm": "random", "trials": 8, "concurrent": 3, "space": {"x": {"uniform": [-1, 1]}}}
    gate = tmp_path / "gate"
    with cluster(head_cpus=1) as nodes:
        bench = Bench(tmp_path, "s", search=search, params={"steps": 4, "saves": True, "wait_for": str(gate)})
        bench.environment["RAY_ADDRESS"] = nodes.address
        process = bench.start()
        assert bench.until(lambda: any(t.steps for t in trials_of(bench)), process)
        joined, second = time.time(), nodes.add_node(num_cpus=4)
        assert bench.until(lambda: len(placed_on(bench, second)) == 2, process)
        seconds = [round(e.at - joined, 1) for e in placed_on(bench, second)]
        print("seconds from its start until a trial ran on it:", seconds)
        assert max(seconds) < 30
        assert bench.record.trials["t0000"].state is State.RUNNING
        gate.touch()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    assert bench.record.count(State.FINISHED) == 8
    assert most_at_once(bench) == 3
    invariants.check(bench.record, bench.folder.journal, bench.tracker)


def trials_of(bench: Bench):
    return list(bench.record.trials.values()) if bench.events() else []


def placed_on(bench: Bench, node) -> list[TrialPlaced]:
    events = [event for event, _ in read(bench.folder.journal)]
    return [e for e in events if isinstance(e, TrialPlaced) and e.node_id == node.node_id]


def most_at_once(bench: Bench) -> int:
    """The most attempts that had begun and not ended, as the journal has it."""
    running: set[str] = set()
    most = 0
    for event, _ in read(bench.folder.journal):
        if isinstance(event, TrialStarted | TrialContinued):
            running.add(event.trial)
        elif isinstance(event, TrialEnded | TrialInterrupted):
            running.discard(event.trial)
        most = max(most, len(running))
    return most


def test_a_node_is_drained(tmp_path):
    """Before a spot machine is taken away: its trials leave it at a checkpoint, no step is lost and nothing failed."""
    search = {"algorithm": "random", "trials": 5, "space": {"x": {"uniform": [-1, 1]}}}
    gate = tmp_path / "gate"  # step 2 waits for it: the trials are there however long the others take to start
    params = {"steps": 60, "saves": True, "noise": 0.1, "pace": 0.2, "wait_for": str(gate)}
    with cluster(head_cpus=1) as nodes:
        second = nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes()
        bench = Bench(tmp_path, "s", search=search, params=params, failures={"retries": 0})
        bench.environment["RAY_ADDRESS"] = nodes.address
        process = bench.start()
        there = lambda: [t for t in trials_of(bench) if t.state is State.RUNNING and t.node_id == second.node_id]  # noqa: E731
        assert bench.until(lambda: sum(t.saved for t in there()) == 2, process)
        third = nodes.add_node(num_cpus=1)
        drain(nodes, second)
        gate.touch()
        left = lambda: [e for e in interruptions(bench) if e.cause is Cause.DRAINED]  # noqa: E731
        assert bench.until(lambda: len(left()) == 2, process)
        told = time.time()
        moved = {e.trial for e in left()}
        assert bench.until(lambda: moved & {e.trial for e in placed_on(bench, third)}, process)
        print("seconds from leaving until placed elsewhere:", round(time.time() - told, 1))
        if second.all_processes["raylet"][0].process.poll() is None:  # Ray ends it itself once nothing runs there
            nodes.remove_node(second, allow_graceful=False)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    assert bench.record.count(State.FINISHED) == 5
    assert {e.reason for e in left()} == {"its node is being drained"}
    assert {e.cause for e in interruptions(bench)} <= {Cause.DRAINED, Cause.LOST}, (
        "one may have been about to start there"
    )
    assert not any(trial.failures for trial in bench.record.trials.values())
    assert max(e.at for e in placed_on(bench, second)) < min(e.at for e in left()), "nothing more was started there"
    for trial in bench.record.trials:
        executed = (bench.folder.trial(trial).artifacts / "executed.txt").read_text().split()
        assert executed == [str(step) for step in range(1, 61)]
    invariants.check(bench.record, bench.folder.journal, bench.tracker)


def drain(nodes: Cluster, node) -> None:
    """What a cloud's notice comes to: Ray is told that the node will be taken away."""
    words = ["drain-node", "--address", nodes.address, "--node-id", node.node_id, "--deadline-remaining-seconds", "60"]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the machine is taken away"]
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words, *why], check=True, capture_output=True)


def interruptions(bench: Bench) -> list[TrialInterrupted]:
    return [event for event, _ in read(bench.folder.journal) if isinstance(event, TrialInterrupted)]


def attempts(bench: Bench) -> list[tuple[float, float]]:
    """From when to when each attempt worked."""
    began, ended = {}, []
    for event, _ in read(bench.folder.journal):
        if isinstance(event, TrialPlaced):
            began[event.trial] = event.at
        elif isinstance(event, TrialEnded):
            ended.append((began[event.trial], event.at))
    return ended


def test_shares_are_equal_whatever_the_size_of_trials(tmp_path):
    """Trials of one and of two CPUs on four: each study works with as many CPUs, while both have work."""
    search = {"algorithm": "random", "space": {"x": {"uniform": [-1, 1]}}}
    with cluster(head_cpus=4) as nodes:
        benches = [
            Bench(tmp_path, f"of-{cpus}", search={**search, "trials": trials}, resources={"cpus": cpus},
                  params={"steps": 10, "pace": 0.2})
            for cpus, trials in ((1, 30), (2, 15))
        ]  # fmt: skip
        processes = []
        for bench in benches:
            bench.environment["RAY_ADDRESS"] = nodes.address
            processes.append(bench.start())
        for process in processes:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, out + err
    worked = [attempts(bench) for bench in benches]
    begun = max(min(at for at, _ in spans) for spans in worked)
    over = min(max(at for at, _ in spans) for spans in worked)
    held = [
        cpus * sum(max(0.0, min(end, over) - max(at, begun)) for at, end in spans)
        for cpus, spans in zip((1, 2), worked, strict=True)
    ]
    print(f"CPU-seconds while both had work, {over - begun:.0f} s: {held[0]:.0f} and {held[1]:.0f}")
    assert over - begun > 10
    assert abs(held[0] - held[1]) < 0.25 * max(held)


def test_the_study_of_higher_priority_has_every_place_that_becomes_free(tmp_path):
    search = {"algorithm": "random", "space": {"x": {"uniform": [-1, 1]}}}
    with cluster(head_cpus=2) as nodes:
        low = Bench(tmp_path, "low", search={**search, "trials": 40}, params={"steps": 10, "pace": 0.2})
        high = Bench(tmp_path, "high", search={**search, "trials": 6}, params={"steps": 10, "pace": 0.2}, priority=1)
        for bench in (low, high):
            bench.environment["RAY_ADDRESS"] = nodes.address
        first = low.start()
        assert low.until(lambda: low.events() > 5, first)
        second = high.start()
        for process in (second, first):
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, out + err
    spans = attempts(high)
    begun, last_begun = min(at for at, _ in spans), max(at for at, _ in spans)
    between = [at for at, _ in attempts(low) if begun < at < last_begun]
    print("starts of the lower one while the higher had more to start:", between)
    assert between == []
    assert max(at for at, _ in attempts(low)) > last_begun, "it goes on afterwards"
    invariants.check(low.record, low.folder.journal, low.tracker)
