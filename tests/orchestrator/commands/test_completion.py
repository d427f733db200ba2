"""What the Tab key offers, in which shells, and that it does not wait for anything heavy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab import session

from orchestrator.studies import registry

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def offered(command, monkeypatch):
    """``offered("run do")``: what bash is given for the last word."""

    def call(line: str) -> list[str]:
        words = ["orchestrator", *line.split(" ")]
        monkeypatch.setenv("_ORCHESTRATOR_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        code, out, err = command()
        assert (code, err) == (0, "")
        return out.split()

    return call


def test_commands_and_options(offered):
    assert offered("re") == ["resume", "retry", "report"]
    assert offered("data ") == ["list", "get"]
    assert offered("run --d") == ["--detach"]


def test_studies_that_ship_and_files_that_are_here(offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dogs-mine.yaml").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.yml").touch()
    shipped = [name for name in registry.study_names() if name.startswith("dogs")]
    for name in ("run", "plan", "doctor"):
        assert offered(f"{name} dogs") == [*shipped, "dogs-mine.yaml"]
    assert offered("run sub/") == ["sub/other.yml"]


def test_studies_that_ran_and_their_trials(offered, runs):
    for name in ("first", "second"):
        session(runs.root / name, {"name": name, "search": {"trials": 2}})
    (runs.root / "cache").mkdir()
    for name in ("show", "logs", "resume", "stop", "leaderboard", "report", "track"):
        assert offered(f"{name} ") == ["first", "second"]
    assert offered("logs second t") == ["t0000", "t0001"]
    assert offered("retry first t0001") == ["t0001"]
    assert offered("compare first s") == ["second"]
    assert offered("compare first/t0000 second/") == ["second/t0000", "second/t0001"]


def test_keys_with_what_they_are_now(offered, runs):
    assert "params.backbone=tf_efficientnet_lite2" in offered("plan dogs params.b")
    assert offered("run dogs search.tr") == ["search.trials=24"]
    assert offered("run dogs search.trials=8 budget.h") == ["budget.hours="]
    session(runs.root / "mine", {"name": "mine", "search": {"trials": 7}})
    (runs.root / "mine" / "study.yaml").write_text("task: toy\nsearch: {trials: 7}\n")
    assert offered("resume mine search.tr") == ["search.trials=7"]


def test_data_sets(offered):
    assert offered("data get o") == ["oxford-pets"]


def test_nothing_is_offered_and_nothing_is_said_where_something_is_wrong(offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("task: [")
    assert offered("run bad.yaml params.") == []
    assert offered("logs nothing t") == []
    assert offered("run nothing search.") == []


@pytest.fixture
def environment(tmp_path):
    """With the command on its path, as it is installed."""
    program = tmp_path / "bin" / "orchestrator"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom orchestrator.cli import main\nmain()\n")
    program.chmod(0o755)
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }


SHELLS = {
    "bash": 'eval "$(orchestrator --show-completion bash)"; COMP_WORDS=(orchestrator run dogs-fi); COMP_CWORD=2; '
    '_orchestrator_completion orchestrator; echo "${COMPREPLY[@]}"',
    # zsh's own completion needs a terminal: what it would be given stands in for `_arguments`
    "zsh": 'compdef() { :; }; _arguments() { echo "$@"; }; eval "$(orchestrator --show-completion zsh)"; '
    "words=(orchestrator run dogs-fi); CURRENT=3; _orchestrator_completion",
    "fish": 'orchestrator --show-completion fish | source; complete -C "orchestrator run dogs-fi"',
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_is_given_it(environment, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-c", SHELLS[shell]], env=environment, capture_output=True, text=True, check=False)
    assert "dogs-finetune" in done.stdout, done.stderr
    assert "dogs-lite0" not in done.stdout


def test_it_waits_for_nothing_heavy(environment):
    code = (
        "import sys; sys.argv = ['orchestrator']\nfrom orchestrator import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('ray', 'mlflow', 'torch', 'optuna', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    asked = {
        "_ORCHESTRATOR_COMPLETE": "complete_bash",
        "COMP_WORDS": "orchestrator run dogs params.b",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **asked}, capture_output=True, text=True, check=True
    )
    assert "params.backbone=" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
