"""`orchestrator new`: what it writes passes its own test, plans and runs; and it never writes over anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.studies import scaffold

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_TASKS")
    return tmp_path


def ran(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_says_what_to_type_and_all_of_that_works(command, here):
    code, out, err = command("new", "two_words")
    assert code == 0, err
    files = ["my_tasks/two_words.py", "tests/test_two_words.py", "two_words.yaml"]
    assert [line.split()[1] for line in out.splitlines()[:3]] == files
    assert f"export ORCHESTRATOR_TASKS={here}/my_tasks" in out
    assert "-m pytest tests/test_two_words.py" in out
    assert out.rstrip().endswith("orchestrator run two_words.yaml")
    assert "4 passed" in ran("pytest", "-q", "-p", "no:cacheprovider", "tests/test_two_words.py")
    ran("ruff", "check", "--config", str(ROOT / "pyproject.toml"), *files[:2])
    ran("ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), *files[:2])
    own = {"ORCHESTRATOR_TASKS": str(here / "my_tasks"), "ORCHESTRATOR_RUNS": str(here / "runs")}
    plan = json.loads(ran("orchestrator.cli", "plan", "two_words.yaml", "--json", **own))
    assert (plan["task"], len(plan["trials"]), plan["finalist_runs"]) == ("two_words", 8, 9)
    ended = ran("orchestrator.cli", "run", "two_words.yaml", "search.trials=2", "finalists=null", **own)
    assert "verdict:" in ended
    assert (here / "runs" / "two_words" / "report.html").exists()


def test_a_folder_of_tasks_that_there_is_is_used(command, here, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_TASKS", f"{here}/lab/mine{os.pathsep}{here}/others")
    code, out, _ = command("new", "wave")
    assert code == 0
    assert (here / "lab" / "mine" / "wave.py").exists()
    assert '"mine" / "wave.py"' in (here / "lab" / "tests" / "test_wave.py").read_text()
    assert "export" not in out
    assert "orchestrator plan lab/wave.yaml" in out


@pytest.mark.parametrize(
    "name", ["my-task", "Wave", "2fast", "", "class", "a" * 41, "../x", "x.py", "dogs", "api", "toy"]
)
def test_what_cannot_be_a_name_is_refused(command, here, name):
    code, _, err = command("new", name)
    assert code == 2
    assert "→" in err
    assert list(here.iterdir()) == []


def test_a_near_name_is_proposed():
    with pytest.raises(UserError) as raised:
        scaffold.create("My-Task")
    assert raised.value.hint == "for example: orchestrator new my_task"


@pytest.mark.parametrize("taken", ["my_tasks/wave.py", "tests/test_wave.py", "wave.yaml"])
def test_nothing_is_written_over(here, taken):
    path = here / taken
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        scaffold.create("wave")
    assert [p.read_text() for p in here.rglob("*") if p.is_file()] == ["mine"]
