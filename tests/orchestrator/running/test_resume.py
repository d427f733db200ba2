"""Resume and control as a user types them, on studies whose process died (made without Ray)."""

from __future__ import annotations

import json

import mlflow
import pytest
from lab import Killed, session

from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import Journal, load_record
from orchestrator.history.states import State
from orchestrator.running.launch import close_dead

RAW = {
    "search": {"algorithm": "random", "trials": 4, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 5, "saves": True},
}


@pytest.fixture
def dead(runs: Runs) -> StudyFolder:
    """A study whose process died in its second trial."""
    with pytest.raises(Killed):
        session(runs.root / "toy", RAW, dies_after=18)
    return runs.study("toy")


@pytest.fixture
def whole(runs: Runs) -> StudyFolder:
    session(runs.root / "toy", RAW)
    return runs.study("toy")


def test_a_dead_study_is_closed_where_it_was_last_heard_of(dead):
    last = load_record(dead.journal).at
    assert close_dead(dead)
    record = load_record(dead.journal)
    assert (record.state, record.ended) == (State.STOPPED, last)
    assert {t.id: t.state for t in record.trials.values()} == {"t0000": State.FINISHED, "t0001": State.STOPPED}
    assert record.trials["t0001"].is_open
    assert not close_dead(dead)


def test_a_study_that_runs_or_has_ended_is_not_closed(whole):
    with Journal(whole.journal):
        assert not close_dead(whole)
    assert close_dead(whole)
    assert not close_dead(whole)


def test_ps_shows_the_dead_as_stopped_here_and_in_mlflow(dead, runs, command):
    listed = json.loads(command("ps", "--json")[1])
    assert [(s["study"], s["state"], s["done"], s["trials"]) for s in listed] == [("toy", "STOPPED", 1, 4)]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")
    found = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert sorted(run.info.status for run in found) == ["FINISHED", "KILLED", "KILLED"]


def test_run_asks_for_a_resume(dead, command, tmp_path):
    (tmp_path / "toy.yaml").write_text("task: toy\nsearch: {trials: 4}\n")
    code, _, err = command("run", str(tmp_path / "toy.yaml"))
    assert code == 2
    assert "'toy' is unfinished: 1 of 4 trials are over" in err
    assert "orchestrator resume toy" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["search.goal=max"], "search.goal"),
        (["params.steps=9"], "params.steps"),
        (["search.trials=1"], "search.trials"),
        (["search.trails=9"], "did you mean 'trials'?"),
        (["--retry", "t0009"], "there is no trial 't0009'"),
        (["--retry", "t0000"], "t0000 has finished"),
    ],
)
def test_what_cannot_be_resumed_is_refused_with_the_reason(dead, command, words, says):
    before = dead.journal.read_bytes()
    code, _, err = command("resume", "toy", *words)
    assert code == 2
    assert says in err
    assert dead.journal.read_bytes() == before


def test_a_complete_study_says_how_to_extend_it(whole, command):
    code, _, err = command("resume", "toy")
    assert code == 2
    assert "'toy' is complete: 4 of 4 trials are over" in err
    assert "orchestrator resume toy search.trials=8" in err


@pytest.mark.parametrize("words", [("stop", "toy"), ("stop", "toy", "t0000"), ("retry", "toy", "t0000")])
def test_orders_to_a_study_that_does_not_run_are_refused(whole, command, words):
    code, _, err = command(*words)
    assert code == 2
    assert "'toy' is not running" in err


def test_a_running_study_is_named_with_its_process(whole, command):
    with Journal(whole.journal):
        code, _, err = command("resume", "toy", "search.trials=8")
        assert code == 2
        assert "is being written by another process (pid" in err
        code, _, err = command("track", "toy")
        assert code == 2
        assert "is running" in err


def test_logs_that_are_followed_end_with_the_trial(whole, command):
    code, out, _ = command("logs", "toy", "t0000", "-f")
    assert code == 0
    assert out == "the toy says hello\n"


def test_the_disk_that_checkpoints_take_is_planned(whole, command, tmp_path):
    (tmp_path / "toy.yaml").write_text("task: toy\nsearch: {trials: 4}\n")
    estimate = json.loads(command("plan", str(tmp_path / "toy.yaml"), "--json")[1])["estimate"]
    size = max(path.stat().st_size for path in whole.root.rglob("*.safetensors"))
    assert estimate["checkpoint_bytes"] == size
    assert estimate["disk_bytes"] == 2 * 4 * size
    assert len(list(whole.trial("t0000").checkpoint.iterdir())) == 2
