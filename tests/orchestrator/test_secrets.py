"""Passwords and tokens are in nothing that is written or said."""

from __future__ import annotations

import json
import sys

import pytest
from lab import session

from orchestrator.errors import EnvironmentProblem
from orchestrator.history import environment
from orchestrator.history.folder import Runs
from orchestrator.history.journal import load_record
from orchestrator.redaction import redacted, redacted_words
from orchestrator.studies.studyfile import load_study
from orchestrator.tracker import tracking

OUTSIDE = ["../x", "..", "a/../../x", "/etc/x", "."]


def test_a_password_is_taken_out_of_what_is_said(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "tiger+lily")
    monkeypatch.setenv("SOME_TOKEN", "abc%40def")
    for said in ("http://ann:hunter2@h/x failed", "postgresql://ann:hunter2@h:5/x", "a=http://ann:hunter2@h",
                 "(http://ann:hun@ter2@h/)", "http://h/?a=1&password=hunter2", "http://h/?access_key=hunter2#x",
                 "it was tiger+lily", "abc@def", "abc%40def"):  # fmt: skip
        error = EnvironmentProblem(said, said)
        for text in (redacted(said), str(error), error.hint or ""):
            assert not any(secret in text for secret in ("hunter2", "ter2", "tiger", "abc"))
    for harmless in ("http://h:5000/a@b", "mail ann@example.org", "sqlite:////x/y@z", "s3://bucket/a@b", "a token=1"):
        assert redacted(harmless) == harmless
    assert redacted_words(["hub.token=x1", "params.max_tokens=5", "AWS_SECRET_ACCESS_KEY=q", "uri=http://a:b@c"]) == [
        "hub.token=***", "params.max_tokens=5", "AWS_SECRET_ACCESS_KEY=***", "uri=http://***@c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "uri",
    ["http://ann:hunter2@h", "https://hunter2@h", "postgresql://ann:hunter2@h/x", "http://h/?token=hunter2"],
)
def test_a_study_holds_no_password(command, runs, tmp_path, uri):
    (tmp_path / "s.yaml").write_text(f"task: toy\nsearch: {{trials: 1}}\ntracking: {{uri: '{uri}'}}\n")
    (tmp_path / "good.yaml").write_text("task: toy\nsearch: {trials: 1}\n")
    for words in ([str(tmp_path / "s.yaml")], [str(tmp_path / "good.yaml"), f"tracking.uri={uri}"]):
        for name in ("run", "plan"):
            code, out, err = command(name, *words)
            assert code == 2
            assert "MLFLOW_TRACKING_PASSWORD" in err
            assert "hunter2" not in out + err
    assert not runs.root.exists()


def test_a_resumed_study_takes_no_password_either(command, runs):
    session(runs.root / "here", {"name": "here", "search": {"trials": 1}})
    code, out, err = command("resume", "here", "tracking.uri=http://ann:hunter2@h")
    assert code == 2
    assert "hunter2" not in out + err
    assert b"hunter2" not in runs.study("here").journal.read_bytes()


def test_a_database_s_user_is_no_secret(tmp_path):
    (tmp_path / "s.yaml").write_text("task: toy\nsearch: {trials: 1}\ntracking: {uri: 'postgresql://ann@h/x'}\n")
    assert load_study(str(tmp_path / "s.yaml")).tracking.uri == "postgresql://ann@h/x"


def test_the_tracker_s_password_in_the_environment_is_used_and_not_shown(command, runs, monkeypatch):
    session(runs.root / "here", {"name": "here", "search": {"trials": 1}})
    uri = "http://ann:hunter2@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking.tracker_uri(runs, runs_study(runs)) == uri
    code, out, err = command("track", "here")
    assert code == 3
    assert "hunter2" not in out + err


def runs_study(runs: Runs) -> dict:
    return dict(load_record(runs.study("here").journal).study)


def test_what_a_study_ran_with_is_written_without_secrets(monkeypatch, tmp_path):
    words = ["orchestrator", "run", "toy", "hub.token=hunter2", "x=http://ann:hunter2@h"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    monkeypatch.setattr(environment, "SOURCE", tmp_path)
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    files = [".env", "deep/.env.local", "deep/my_secrets.json", "id_rsa", "x.PEM", "code.py", "deep/more.py"]
    environment._run(*git, "init")
    for content in ("before", "hunter2 swordfish"):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("changed\n" if name.endswith(".py") and content != "before" else content)
        if content == "before":
            environment._run(*git, "add", "-A", "--force")
            environment._run(*git, "commit", "-m", "x")
    (tmp_path / "deep" / "more.py").write_text("key = 'swordfish'\n")
    described = environment.describe_environment()
    assert described["command"] == ["orchestrator", "run", "toy", "hub.token=***", "x=http://***@h"]
    assert "hunter2" not in json.dumps(described)
    assert "swordfish" not in json.dumps(described)
    assert "+changed" in described["git"]["diff"]
    assert "deep/more.py" in described["git"]["diff"]


def test_an_error_of_a_trial_is_written_without_secrets(runs, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "the toy broke")  # what the toy says
    raw = {"name": "broken", "params": {"mood": "raise"}, "search": {"trials": 1, "space": {}}}
    session(runs.root / "broken", {**raw, "failures": {"retries": 0}})
    record = load_record(runs.study("broken").journal)
    assert record.trials["t0000"].reason == "RuntimeError: ***"
    assert runs.study("broken").trial("t0000").log.exists()
    written = [path for path in runs.root.rglob("*") if path.is_file() and b"the toy broke" in path.read_bytes()]
    assert written == []
