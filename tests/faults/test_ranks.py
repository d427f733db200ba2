"""Trials of several processes: they work together, fail together, and leave nothing behind."""

from __future__ import annotations

import os

import pytest
import ray
from conftest import run_toy
from ray.cluster_utils import Cluster
from running import Bench, left_behind

from orchestrator.history.folder import Runs
from orchestrator.history.states import State

pytestmark = pytest.mark.faults

SEARCH = {"algorithm": "grid", "space": {"x": {"choice": [0.5]}}}


@pytest.fixture(scope="module")
def four_cpus():
    """A cluster of two nodes with two processors each, as Ray counts them."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2)
    try:
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(autouse=True)
def on_the_cluster(four_cpus, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", four_cpus)


def ring(root, processes=2, placement="strict_pack", **more):
    resources = {"cpus": 1, "processes": processes, "placement": placement}
    return run_toy(Runs(root / "runs"), task="ring", search=SEARCH, resources=resources, **more)


@pytest.mark.parametrize(("processes", "placement"), [(2, "strict_pack"), (3, "pack")])
def test_processes_add_up_their_parts(tmp_path, processes, placement):
    outcome = ring(tmp_path, processes, placement)
    (trial,) = outcome.record.trials.values()
    assert (trial.state, trial.reason) == (State.FINISHED, None)
    total = sum(0.5 + rank for rank in range(processes))
    assert trial.final == {"total": 3 * total}
    assert list(trial.curve.values) == [total, 2 * total, 3 * total], "rank 0 reports"
    folder = outcome.folder.trial("t0000")
    assert (folder.artifacts / "rank.txt").read_text().split()[0] == "0", "only its artifacts are the trial's"
    log = folder.log.read_text()
    assert all(f"rank {rank} of {processes}\n" in log for rank in range(processes))


@pytest.mark.parametrize(
    ("mood", "reason"), [("raise", "rank 1: RuntimeError: the ring broke"), ("die", "rank 1: its worker died: ")]
)
def test_when_a_process_fails_the_attempt_does_and_goes_on_from_its_checkpoint(tmp_path, mood, reason):
    outcome = ring(tmp_path, params={"mood": mood}, failures={"retries": 1})
    (trial,) = outcome.record.trials.values()
    assert (trial.state, trial.attempt, trial.failures) == (State.FINISHED, 2, 1)
    assert trial.final == {"total": 6.0}
    assert list(trial.curve.steps) == [1, 2, 3]
    if mood == "raise":
        assert "go_wrong" in trial.traceback
        assert "rank 1: RuntimeError: the ring broke\n" in outcome.folder.trial("t0000").log.read_text()
    again = ring(tmp_path / "again", params={"mood": mood}, failures={"retries": 0})
    assert again.record.trials["t0000"].reason.startswith(reason)


def test_a_trial_has_finished_once_all_its_processes_have(tmp_path):
    outcome = ring(tmp_path, params={"mood": "late"}, failures={"retries": 0})
    trial = outcome.record.trials["t0000"]
    assert (trial.state, trial.reason) == (State.FAILED, "rank 1: ValueError: after the last step")


@pytest.mark.parametrize("killed", ["nobody", "rank 0"])
def test_no_process_outlives_a_stop_or_the_first(tmp_path, killed):
    params = {"pace": 0.2, "steps": 1000 if killed == "nobody" else 20}
    bench = Bench(tmp_path, "s", task="ring", search=SEARCH, params=params,
                  resources={"processes": 2}, failures={"retries": 1})  # fmt: skip
    process = bench.start()
    assert bench.until(lambda: bench.events() and any(t.steps >= 2 for t in bench.record.trials.values()), process)
    if killed == "nobody":
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert bench.record.trials["t0000"].state is State.STOPPED
    else:
        os.kill(bench.record.trials["t0000"].pid, 9)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert bench.record.trials["t0000"].attempt == 2
        assert bench.record.trials["t0000"].final == {"total": 20 * 2.0}
    assert left_behind(bench.runs.root) == []
