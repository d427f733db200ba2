"""Shares of a card: a process that holds a fraction of a GPU is limited to it, and no other is."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import ray
from lab import session
from ray.cluster_utils import Cluster
from running import Bench
from tasks.many import parent_of  # where workers find it too

from orchestrator.history.events import TrialEnded, TrialPlaced
from orchestrator.history.folder import TrialFolder
from orchestrator.history.journal import read
from orchestrator.trial import gpu, stored
from orchestrator.trial.jobs import Computed, Job
from orchestrator.trial.pool import Pool, _compute
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt, run_task
from tasks.api import Goal, Resources


@pytest.fixture
def limits(monkeypatch):
    """What torch was told of this process's share, on a machine that has a card."""
    told: list[float] = []
    fake = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: False, set_per_process_memory_fraction=told.append
    )
    monkeypatch.setattr("torch.cuda", fake)
    monkeypatch.setattr(gpu, "_limit", 1.0)
    return told


def test_each_attempt_in_a_reused_process_gets_its_own_share(limits, tmp_path):
    def attempt(gpus):
        spec = TrialSpec("t0000", 1, "toy", 1, {}, "loss", Goal.MIN, None, tmp_path, tmp_path / "t0000", gpus)
        end = run_task(spec, Attempt(spec))
        assert end.state == "FINISHED", end.reason
        return list(limits)

    assert attempt(0.5) == [0.5]
    assert attempt(0.5) == [0.5], "it is limited already"
    assert attempt(0.25) == [0.5, 0.25]
    assert attempt(1) == [0.5, 0.25, 1.0], "who holds the whole card is not limited any more"
    assert attempt(0) == [0.5, 0.25, 1.0]


def test_whole_cards_and_none_are_never_limited(limits):
    for gpus in (0, 1, 4):
        gpu.keep_to_share(gpus)
    assert limits == []


def test_without_a_card_nothing_is_limited(limits, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpu.keep_to_share(0.5)
    assert limits == []


def test_the_items_of_a_map_hold_the_share_and_the_trial_itself_none(limits, tmp_path):
    job = Job(abs, [-1], 0, tmp_path / "result", "")
    assert isinstance(_compute(pickle.dumps(job), tmp_path / "log.txt", 0.25), Computed)
    assert limits == [0.25]
    limits.clear()
    session(tmp_path / "many", {"task": "many", "search": {"trials": 1}, "resources": {"gpus": 0.5}}, gpus=1)
    assert limits == [1.0]


@pytest.fixture
def mixed():
    """A cluster of a node with two processors, and one with two and a GPU; the GPU is declared only."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.with_gpu = made.add_node(num_cpus=2, num_gpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def where(pool, folder, items=16, seconds=0.2):
    """On which node, by its raylet's process, each item is computed."""
    for i in range(items):
        pool.submit(Job(parent_of, [seconds], i, folder / str(i), ""))
    ended: list = []
    deadline = time.monotonic() + 60
    while len(ended) < items:
        assert time.monotonic() < deadline
        ended += pool.done(0.2)
    assert all(isinstance(outcome, Computed) for _, outcome in ended)
    return Counter(stored.read(job.path)[0] for job, _ in ended)


def test_items_keep_off_gpu_nodes_while_somebody_waits_for_a_gpu(mixed, tmp_path):
    raylet = mixed.with_gpu.all_processes["raylet"][0].process.pid
    pool = Pool(Resources(cpus=1), tmp_path / "log.txt")
    ray.util.placement_group([{"CPU": 1, "GPU": 1}])
    two = ray.util.placement_group([{"CPU": 1, "GPU": 1}])  # waits: there is one GPU
    kept_off = where(pool, tmp_path / "kept_off")
    assert pool.slots == 2
    assert raylet not in kept_off
    assert kept_off.total() == 16
    pool.close()
    ray.util.remove_placement_group(two)
    again = Pool(Resources(cpus=1), tmp_path / "log.txt")
    anywhere = where(again, tmp_path / "anywhere")
    assert again.slots == 4
    assert anywhere[raylet] > 0
    assert len(anywhere) == 2
    again.close()


def test_items_that_need_a_gpu_go_where_there_is_one(mixed, tmp_path):
    raylet = mixed.with_gpu.all_processes["raylet"][0].process.pid
    pool = Pool(Resources(cpus=1, gpus=0.5), tmp_path / "log.txt")
    assert set(where(pool, tmp_path / "items", items=4)) == {raylet}
    pool.close()


def test_two_trials_share_a_card_and_a_third_waits(tmp_path, two_on_a_card):
    """By Ray's accounting: the node declares one GPU, and has room for four trials otherwise."""
    search = {"algorithm": "random", "trials": 5, "space": {"x": {"uniform": [-1, 1]}}}
    gate = tmp_path / "gate"
    bench = Bench(tmp_path, "s", search=search, params={"wait_for": str(gate)}, resources={"cpus": 1, "gpus": 0.5})
    bench.environment["RAY_ADDRESS"] = two_on_a_card.address
    process = bench.start()
    both = lambda: bench.events() and sum(t.steps >= 1 for t in bench.record.trials.values()) == 2  # noqa: E731
    assert bench.until(both, process)
    assert two_on_a_card.free("GPU") == 0
    assert two_on_a_card.free("CPU") == 2
    gate.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    running = most = 0
    for event, _ in read(bench.folder.journal):
        running += isinstance(event, TrialPlaced) - isinstance(event, TrialEnded)
        most = max(most, running)
    assert most == 2
    for id in bench.record.trials:
        seen = (TrialFolder(bench.folder.trial(id).root).artifacts / "cards.txt").read_text()
        assert seen == "0", "each sees exactly the one card"


@pytest.fixture
def two_on_a_card():
    head = {"num_cpus": 4, "num_gpus": 1, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield SimpleNamespace(address=made.address, free=lambda name: ray.available_resources().get(name, 0))
    finally:
        ray.shutdown()
        made.shutdown()
