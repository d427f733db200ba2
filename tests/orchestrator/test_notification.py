"""Word that a study is over: sent, bounded in time, and silent about what only the webhook should know."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import sys
import threading

import pytest
from conftest import QuietDisplay
from lab import session, work

from orchestrator import notification
from orchestrator.analysis.standings import notice
from orchestrator.errors import StudyError, UserError
from orchestrator.history.journal import load_record
from orchestrator.machines import cluster
from orchestrator.notification import Notify
from orchestrator.redaction import redacted_words, without_paths
from orchestrator.running import launch, trials
from orchestrator.studies import yamlfile
from orchestrator.studies.plan import Node
from orchestrator.studies.studyfile import build, change_study, load_study

FACTS = {"text": "it is over", "study": "s", "state": "FINISHED"}
TOPIC = "T0/B0/x1y2z3"


class Hook(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard, self.status, self.gate = [], 200, threading.Event()
        self.gate.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{TOPIC}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.gate.wait(30)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def hook():
    with Hook() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.gate.set()
        made.shutdown()


@pytest.fixture
def without_ray(monkeypatch):
    """All of a study but Ray: its trials run in threads of this process."""

    def run_here(driver, on_change):
        live = {}
        driver.kill = lambda trial: live[trial].stop(5)
        work(driver, live, lambda driver: on_change())

    monkeypatch.setattr(cluster, "connect", lambda: contextlib.nullcontext([Node("here", 1, 0)]))
    monkeypatch.setattr(trials, "run_trials", run_here)


class Warned(QuietDisplay):
    def __init__(self):
        self.lines = []

    def warn(self, message, hint):
        self.lines.append((message, hint))


# ---------------------------------------------------------------------------------------------------------- as written


WRONG = ["", " ", 3, ["x"], "ftp://host/x", "https://", "https:///x", "http://h/a b", "http://h/a'b", "say 'x"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_neither_command_nor_webhook_is_refused_with_its_line(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text("task: toy\nsearch: {trials: 1}\n" + yamlfile.dump({"notify": text}))
    with pytest.raises(StudyError, match=r"s\.yaml:3: notify: "):
        load_study(str(path))


def test_a_wrong_webhook_is_not_repeated():
    for text in (f"ftp://host/{TOPIC}", f"https:///{TOPIC}", f"https://host/{TOPIC} x"):
        with pytest.raises(StudyError) as raised:
            build({"task": "toy", "search": {"trials": 1}, "notify": text})
        assert TOPIC not in str(raised.value)


def test_nothing_of_a_webhook_but_its_host_is_written_down():
    secret = f"https://ann:pass@hooks.example.org:8443/{TOPIC}?token=abc"
    study = build({"task": "toy", "search": {"trials": 1}, "notify": secret})
    assert study.to_plain()["notify"] == "https://***@hooks.example.org:8443/***"
    for said in (str(study.to_plain()), repr(study), str(study.notify)):
        assert "hooks.example.org" in said
        assert not any(part in said for part in (TOPIC, "pass", "abc"))
    assert not study.model_copy(update={"notify": Notify(str(study.notify))}).notify.is_whole
    assert redacted_words(["run", "dogs", f"notify={secret}"])[2] == f"notify={study.notify}"
    assert without_paths("see http://h and http://h/ now") == "see http://h and http://h/ now"


@pytest.mark.parametrize("text", ["$HOOK", "notify-send done", "sh -c 'echo \"$X\"'", "http://127.0.0.1:8/"])
def test_what_gives_nothing_away_is_kept(text):
    study = build({"task": "toy", "search": {"trials": 1}, "notify": text})
    assert study.to_plain()["notify"] == text
    assert build(study.to_plain()) == study
    assert "notify" not in build({"task": "toy", "search": {"trials": 1}}).to_plain()


def test_a_resume_may_change_it_and_keeps_it_through_other_overrides(tmp_path):
    session(tmp_path / "s", {"search": {"trials": 1}, "notify": f"https://h.example/{TOPIC}"})
    record = load_record(tmp_path / "s" / "journal.jsonl")
    assert not change_study(record, ()).notify.is_whole
    changed = change_study(record, [f"notify=https://h.example/{TOPIC}", "search.trials=2"])
    assert changed.notify == Notify(f"https://h.example/{TOPIC}")
    assert change_study(record, ["notify=null"]).notify is None


def test_plan_says_who_is_told_and_refuses_what_cannot_work(command, monkeypatch):
    code, out, _ = command("plan", "angles", f"notify=https://h.example/{TOPIC}")
    assert code == 0
    assert "notifies: the webhook https://h.example/***" in out
    assert TOPIC not in out
    assert json.loads(command("plan", "angles", "notify=ls -l", "--json")[1])["notify"] == "ls -l"
    code, _, err = command("plan", "angles", "notify=no-such-program x")
    assert (code, "no program 'no-such-program'" in err, "notify=null" in err) == (2, True, True)
    monkeypatch.delenv("NO_HOOK", raising=False)
    code, _, err = command("plan", "angles", "notify=$NO_HOOK")
    assert (code, "export NO_HOOK=" in err) == (2, True)
    code, _, err = command("plan", "angles", f"notify=ftp://h/{TOPIC}")
    assert (code, TOPIC in err) == (2, False)


# ---------------------------------------------------------------------------------------------------------- sending it


def test_a_webhook_gets_the_facts(hook):
    assert Notify(hook.url).deliver(FACTS) is None
    assert hook.heard == [(f"/{TOPIC}", "application/json", FACTS)]


def test_the_environment_may_hold_it(hook, monkeypatch):
    monkeypatch.setenv("HOOK", hook.url)
    assert Notify("$HOOK").deliver(FACTS) is None
    assert len(hook.heard) == 1
    monkeypatch.setenv("HOOK", f"ftp://h/{TOPIC}")
    assert TOPIC not in Notify("$HOOK").deliver(FACTS)
    monkeypatch.delenv("HOOK")
    assert "the environment has no HOOK" in Notify("$HOOK").deliver(FACTS)


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_webhook_that_refuses_is_said(hook, status):
    hook.status = status
    why = Notify(hook.url).deliver(FACTS)
    assert why.startswith(f"127.0.0.1: it answers {status} ")
    assert TOPIC not in why
    assert len(hook.heard) == 1  # a redirect is not followed


def test_a_webhook_that_is_not_there_is_said():
    why = Notify(f"http://127.0.0.1:9/{TOPIC}").deliver(FACTS)
    assert why == "127.0.0.1: Connection refused"


def test_a_webhook_that_hangs_is_left(hook, monkeypatch):
    monkeypatch.setattr(notification, "SECONDS", 0.1)
    hook.gate.clear()
    assert "no answer" in Notify(hook.url).deliver(FACTS)


def test_a_command_gets_the_facts(tmp_path):
    seen = tmp_path / "seen"
    notify = Notify(f"sh -c 'cat > {seen}; echo \"$ORCHESTRATOR_TEXT/$ORCHESTRATOR_STATE\" >> {seen}'")
    assert notify.deliver(FACTS) is None
    assert seen.read_text() == json.dumps(FACTS) + "it is over/FINISHED\n"


def test_a_command_that_fails_is_said_and_gives_nothing_away():
    why = Notify(f"sh -c 'echo cannot reach https://h.example/{TOPIC} >&2; exit 3'").deliver(FACTS)
    assert why == "the command ended with 3: cannot reach https://h.example/***"
    assert "No such file" in Notify("/no/such/program").deliver(FACTS)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(notification, "SECONDS", 0.3)
    why = Notify(f"sh -c 'sleep 60 & echo $! > {tmp_path / 'pid'}; wait'").deliver(FACTS)
    assert why == "the command had not ended after 0.3 s"
    child = int((tmp_path / "pid").read_text())
    state = [""]
    while os.path.exists(f"/proc/{child}") and state[0] != "Z":  # whoever adopted it may not have looked yet
        with open(f"/proc/{child}/stat") as file:
            state = file.read().rpartition(")")[2].split()


# -------------------------------------------------------------------------------------------------------- from a study


def test_what_is_said_of_a_study(tmp_path):
    session(tmp_path / "s", {"search": {"trials": 2, "space": {"x": {"uniform": [-1, 1]}}}})
    record = load_record(tmp_path / "s" / "journal.jsonl")
    said = notice(record, "s", RuntimeError("the disk of /x is full"))
    assert (said["study"], said["trials"], said["done"]) == ("s", 2, 2)
    assert said["best"] in record.trials
    if not record.state.is_over:
        assert (said["state"], said["reason"]) == ("FAILED", "the disk of /x is full")


def test_the_end_of_a_study_is_told_and_its_webhook_is_in_nothing_that_is_kept(runs, hook, monkeypatch, without_ray):
    monkeypatch.setattr(sys, "argv", ["orchestrator", "run", "x", f"notify={hook.url}"])
    shown = Warned()
    asked = build({"task": "toy", "name": "told", "search": {"trials": 1, "space": {}}, "notify": hook.url})
    launch.run_study(asked, runs, shown)
    ((_, _, said),) = hook.heard
    assert (said["study"], said["state"], said["done"], said["best"]) == ("told", "FINISHED", 1, "t0000")
    assert said["text"].startswith("told FINISHED on ")
    assert shown.lines == []
    written = [path for path in runs.root.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "study.yaml", "environment.json", "report.html", "mlflow.db"} <= {p.name for p in written}
    assert [path for path in written if TOPIC.encode() in path.read_bytes()] == []
    launch.resume_study("told", ["search.trials=1", "budget.hours=1"], runs, shown)
    ((message, hint),) = shown.lines  # of the webhook there is only the host
    assert "does not hold the whole of http://127.0.0.1" in message
    assert "notify=URL" in hint
    assert len(hook.heard) == 1


def test_a_failure_to_notify_changes_nothing_but_is_said_once(runs, without_ray):
    shown = Warned()
    raw = {"task": "toy", "name": "failed", "params": {"mood": "raise"}, "failures": {"retries": 0}}
    asked = build({**raw, "search": {"trials": 1, "space": {}}, "notify": "sh -c 'cat >&2; exit 1'"})
    outcome = launch.run_study(asked, runs, shown)
    assert outcome.record.state == "FAILED"
    ((message, hint),) = shown.lines
    assert message.startswith("nobody was notified by sh -c 'cat >&2; exit 1': the command ended with 1: {")
    assert '"state": "FAILED"' in message
    assert "notify" in hint


def test_a_program_that_is_missing_is_said_before_anything_is_written(runs):
    asked = build({"task": "toy", "search": {"trials": 1}, "notify": "no-such-program"})
    with pytest.raises(UserError, match="no program"):
        launch.run_study(asked, runs, Warned())
    assert not runs.root.exists()
