"""The command as a user meets it: exit codes, messages, JSON; nothing left behind by what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import run_toy

from orchestrator.history.folder import Runs


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "dgos"], "did you mean 'dogs'?"),
        (["run", "dogs", "params.backbon=x"], "did you mean 'backbone'?"),
        (["run", "dogs", "params.backbone=tf_efficientnet_lite9"], "tf_efficientnet_lite"),
        (["run", "dogs", "params.weights=/no/such/file"], "there is no such file"),
        (["run", "dogs", "search.trials=0"], "search.trials"),
        (["run", "dogs", "search.metric=val/top3"], "did you mean"),
        (["run", "dogs", "search.space.lr={uniform: [1, 0.1]}"], "not below the upper bound"),
        (["run", "dogs", "data=/no/such/folder"], "there is no data at"),
        (["run", "dogs", "resources.cpus=4096"], "asks for 4096 CPU(s)"),
        (["run", "./missing.yaml"], "no such study file"),
        (["show", "nothing"], "there is no study"),
        (["logs", "nothing", "t0000"], "there is no study"),
        (["ui"], "nothing has been tracked"),
    ],
)
def test_what_is_wrong_ends_with_2_and_leaves_nothing(command, runs, words, says):
    code, _, err = command(*words)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not runs.root.exists()


def test_a_trial_too_large_is_refused_at_once(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "dogs", "resources.gpus=64"],
        env={**os.environ, "ORCHESTRATOR_RUNS": str(tmp_path / "runs")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "64 GPU(s)" in done.stderr
    assert time.monotonic() - began < 10  # the bar of 3 s is measured in benchmarks/main_job.py


def test_a_cluster_that_does_not_answer_is_named(command, runs, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, _, err = command("run", "dogs")
    assert code == 3
    assert "RAY_ADDRESS=127.0.0.1:9" in err
    assert not list(runs.root.glob("dogs*"))


def test_data_that_cannot_be_used_is_named(command, tmp_path):
    cases = {
        "empty": "holds no photos",
        "one": "1 class with photos",
        "noval": "class 'b' of",
    }
    (tmp_path / "empty").mkdir()
    for path in ("one/a/1.jpg", "one/a/2.jpg", "noval/train/a/1.jpg", "noval/train/b/1.jpg", "noval/val/a/2.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for name, says in cases.items():
        code, _, err = command("run", "dogs", f"data={tmp_path / name}")
        assert code == 2
        assert says in err


def test_lists_are_json_for_programs(command):
    code, out, _ = command("studies", "--json")
    assert code == 0
    assert {"dogs", "dogs-demo", "dogs-finetune"} <= {row["study"] for row in json.loads(out)}
    assert {row["task"] for row in json.loads(command("tasks", "--json")[1])} >= {"dogs"}
    assert json.loads(command("ps", "--json")[1]) == []
    plan = json.loads(command("plan", "dogs", "search.algorithm=random", "search.trials=3", "--json")[1])
    assert [t["id"] for t in plan["trials"]] == ["t0000", "t0001", "t0002"]
    assert plan["estimate"]["hours"] is None


def test_a_study_that_ran_is_shown(command, runs: Runs):
    run_toy(runs, name="shown", search={"trials": 2, "space": {"x": {"uniform": [-1, 1]}}})
    shown = json.loads(command("show", "shown", "--json")[1])
    assert shown["state"] == "FINISHED"
    assert set(shown["trials"][0]) == {"id", "state", "reason", "seed", "node", "params", "metrics", "steps", "run_id"}
    assert len({t["run_id"] for t in shown["trials"]}) == 2
    board = json.loads(command("leaderboard", "shown", "--json")[1])
    assert [row["rank"] for row in board] == [1, 2]
    assert set(board[0]) == {"rank", "trial", "state", "value", "interval", "params"}
    (row,) = json.loads(command("ps", "--json")[1])
    assert (row["study"], row["state"], row["done"], row["trials"]) == ("shown", "FINISHED", 2, 2)
    assert "the toy says hello" in command("logs", "shown", "t0001")[1]
    code, _, err = command("logs", "shown", "t001")
    assert (code, "did you mean 't0001'?" in err) == (2, True)
    assert command("report", "shown")[1].strip().endswith("report.html")
    assert "2 trials are in" in command("track", "shown")[1]
    assert "a trial in its last run" in command("plan", str(runs.root / "shown" / "study.yaml"))[1]


def test_a_task_that_reads_no_data_neither_takes_any_nor_speaks_of_it(command, tmp_path):
    code, _, err = command("plan", "angles", f"data={tmp_path}")
    assert code == 2
    assert "task 'angles' reads no data" in err
    code, out, err = command("run", "angles", "search.space={n: {choice: [3]}}", "params.samples=2000")
    assert code == 0, err
    assert "built-in" not in out
    assert "data=" not in out
