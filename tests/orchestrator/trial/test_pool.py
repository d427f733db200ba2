"""`context.map` on Ray remote tasks: the same bits as in this process, whatever dies; what they hold and say."""

from __future__ import annotations

import os
import time

import pytest
import ray
from conftest import run_toy
from lab import session
from running import Bench, left_behind
from tasks.many import endless, process_of  # where workers find them too

from orchestrator.history.events import ItemsDone
from orchestrator.history.folder import Runs
from orchestrator.history.journal import load_record, read
from orchestrator.history.states import State
from orchestrator.machines.cluster import connect
from orchestrator.trial.jobs import Computed, Failed, Job
from orchestrator.trial.pool import Pool
from tasks.api import Resources

STUDY = {"task": "many", "search": {"algorithm": "random", "trials": 2, "concurrent": 1}}


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    """What the study finds without Ray."""
    root = tmp_path_factory.mktemp("lab") / "many"
    session(root, STUDY)
    return finals(load_record(root / "journal.jsonl"))


def finals(record) -> dict[str, dict[str, float]]:
    assert {t.state for t in record.trials.values()} == {State.FINISHED}
    return {id: dict(t.final) for id, t in record.trials.items()}


@pytest.mark.parametrize("mood", ["well", "kill"])
def test_the_same_bits_on_remote_tasks(tmp_path, in_process, mood):
    """With ``kill``, the worker of piece 5 is killed once; the trial does not even notice."""
    outcome = run_toy(Runs(tmp_path / "runs"), **STUDY, params={"mood": mood})
    assert finals(outcome.record) == in_process
    assert {t.attempt for t in outcome.record.trials.values()} == {1}
    log = outcome.folder.trial("t0000").log.read_text()
    assert all(f"piece {index}\n" in log for index in range(12)), "items print in other processes"
    assert left_behind(outcome.folder.root) == []


def test_what_goes_wrong_with_an_item_is_the_trials_failure(tmp_path):
    search = {"algorithm": "grid", "space": {"mood": {"choice": ["raise", "input", "die"]}}}
    outcome = run_toy(Runs(tmp_path / "runs"), task="many", search=search, failures={"retries": 1})
    trials = {t.params["mood"]: t for t in outcome.record.trials.values()}
    assert {t.state for t in trials.values()} == {State.FAILED}
    assert trials["raise"].reason.endswith("failed: RuntimeError: the piece broke (after 2 attempts)")
    assert "go_wrong" in trials["raise"].traceback
    assert trials["input"].reason == "piece 5 is no piece"
    assert trials["die"].reason.startswith("item 5 of map 'draw': its worker died: ")
    done = {i for e, _ in read(outcome.folder.journal) if isinstance(e, ItemsDone) and e.trial == trials["die"].id
            for i in range(e.start, e.stop)}  # fmt: skip
    assert done <= set(range(12)) - {5}


def test_ctrl_c_in_a_map_and_a_resume(tmp_path, in_process):
    bench = Bench(tmp_path, "many", **STUDY, params={"pace": 0.2})
    process = bench.start()
    assert bench.until(lambda: bench.events() and drawn(bench) >= 4, process)
    began = time.monotonic()
    process.send_signal(2)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert left_behind(bench.runs.root) == []
    before = drawn(bench)
    bench.finish()
    assert finals(bench.record) == in_process
    computed = [i for e, _ in read(bench.folder.journal) if isinstance(e, ItemsDone) and e.map == "draw"
                and e.trial == "t0000" for i in range(e.start, e.stop)]  # fmt: skip
    assert sorted(computed) == list(range(12)), "what was done before was not done again"
    assert before >= 4


def drawn(bench: Bench) -> int:
    return sum(maps["draw"].done for t in bench.record.trials.values() if (maps := t.maps))


# ----------------------------------------------------------------------------------------------------- the pool alone


@pytest.fixture(scope="module")
def cluster():
    with connect() as nodes:
        yield nodes


def wait(pool: Pool, jobs: int) -> list:
    ended: list = []
    deadline = time.monotonic() + 60
    while len(ended) < jobs:
        ended += pool.done(0.2)
        assert time.monotonic() < deadline
    return ended


def test_jobs_run_side_by_side_elsewhere(cluster, tmp_path):
    pool = Pool(Resources(cpus=1), tmp_path / "log.txt")
    assert pool.slots == sum(int(node.cpus) for node in cluster)
    jobs = [Job(process_of, [i], i, tmp_path / str(i), "") for i in range(6)]
    for job in jobs:
        pool.submit(job)
    ended = wait(pool, 6)
    assert {job.start for job, _ in ended} == set(range(6))
    assert all(isinstance(outcome, Computed) for _, outcome in ended)
    from orchestrator.trial import stored

    found = [stored.read(job.path)[0] for job in jobs]
    assert [x for x, _, _ in found] == list(range(6))
    assert os.getpid() not in {pid for _, pid, _ in found}
    assert {threads for _, _, threads in found} == {"1"}


def test_a_failure_comes_back_as_one(cluster, tmp_path):
    pool = Pool(Resources(), tmp_path / "log.txt")
    pool.submit(Job(int, ["x"], 3, tmp_path / "x", ""))
    (_, outcome), *_ = wait(pool, 1)
    assert isinstance(outcome, Failed)
    assert (outcome.index, outcome.item) == (3, "'x'")
    assert outcome.error.startswith("ValueError: invalid literal")


def test_what_is_closed_ends(cluster, tmp_path):
    pool = Pool(Resources(), tmp_path / "log.txt")
    for i in range(4):
        pool.submit(Job(endless, [i], i, tmp_path / str(i), ""))
    pool.close()
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
