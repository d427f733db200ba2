"""What a study, a file or a neighbour must not be able to do: leave its folder, run code, or read a secret."""

from __future__ import annotations

import ast
import configparser
import json
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from lab import session
from matplotlib.figure import Figure
from test_architecture import ROOT, modules

from orchestrator import environment, registry, report
from orchestrator.control import Command, Mailbox, order
from orchestrator.errors import EnvironmentProblem, OrchestratorError, StudyError, UnknownName, UserError
from orchestrator.folder import TAKEN, Runs, StudyFolder, TrialFolder, inside
from orchestrator.journal import load_record
from orchestrator.redaction import redacted, redacted_words
from orchestrator.studyfile import load_study
from orchestrator.tracker import tracking
from orchestrator.tracker.server import make_server
from orchestrator.trial import checkpoint
from orchestrator.trial.context import TrialContext, plain_metrics
from orchestrator.trial.jobs import InProcess
from orchestrator.trial.maps import Maps
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt
from orchestrator.yamlfile import load, parse_value
from tasks.api import Goal

OUTSIDE = ["../x", "..", "a/../../x", "/etc/x", "."]

# ------------------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("name", ["../x", "..", "/etc/x", "a/b", "-x", ".x", "", "x\n", "x" * 100, *TAKEN])
def test_a_study_cannot_be_named_out_of_the_runs(command, runs, name):
    code, _, err = command("run", "angles", f"name={json.dumps(name)}", "search.trials=1")
    assert code == 2
    assert "name" in err
    assert not runs.root.exists()


@pytest.mark.parametrize("name", [*OUTSIDE, ""])
@pytest.mark.parametrize("words", [("show",), ("leaderboard",), ("report",), ("track",), ("stop",), ("resume",)])
def test_a_command_names_no_folder_but_a_study_of_the_runs(command, runs, name, words):
    """Even where a journal lies: beside the runs, or in the runs folder itself."""
    session(runs.root / "here", {"name": "here", "search": {"trials": 1}})
    there = (runs.root / "here" / "journal.jsonl").read_bytes()
    for place in (runs.root, runs.root.parent, runs.root.parent / "x"):
        place.mkdir(exist_ok=True)
        (place / "journal.jsonl").write_bytes(there)
    code, _, err = command(*words, name)
    assert code == 2
    assert "there is no study" in err
    with pytest.raises(UnknownName):
        runs.study(name)


@pytest.mark.parametrize("trial", [*OUTSIDE, "../../here/trials/t0000"])
def test_a_command_names_no_trial_but_the_study_s(command, runs, trial):
    session(runs.root / "here", {"name": "here", "search": {"trials": 1}})
    (runs.root / "log.txt").write_text("secret")
    for words in (("logs", "here", trial), ("resume", "here", "--retry", trial)):
        code, out, err = command(*words)
        assert code == 2
        assert "there is no trial" in err
        assert "secret" not in out + err
    with pytest.raises(UnknownName):
        runs.study("here").trial(trial)


def context_of(root: Path) -> TrialContext:
    spec = TrialSpec("t0000", 1, "toy", 0, {}, "loss", Goal.MIN, None, root / "cache", root / "t0000", 0)
    folder = TrialFolder(spec.folder)
    folder.artifacts.mkdir(parents=True)
    return TrialContext(spec, folder, Attempt(spec))


def test_an_artifact_stays_in_its_trial_s_folder(tmp_path):
    context = context_of(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "t0000" / "artifacts" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "t0000" / "artifacts" / "file").symlink_to(tmp_path / "outside" / "file")
    for name in [*OUTSIDE, "", "link/x", "file", "../artifacts-of-another/x"]:
        with pytest.raises(ValueError, match="leaves"):
            context.artifact(name)
    for name in ["../x", "/etc/x", "link/x", "../../t0001/artifacts/x"]:
        with pytest.raises(ValueError, match="leaves"):
            context.figure(name, Figure())
    assert list((tmp_path / "outside").iterdir()) == []
    assert context.artifact("a/b.txt") == (tmp_path / "t0000" / "artifacts" / "a" / "b.txt").resolve()


def test_a_figure_of_the_study_stays_in_its_folder(runs, monkeypatch):
    folder = StudyFolder(runs.root / "drawn")
    session(folder.root, {"name": "drawn", "search": {"trials": 1}})
    record = load_record(folder.journal)
    for name in ("../../evil", "/tmp/evil", ".."):
        monkeypatch.setattr(
            "orchestrator.results.figures", lambda record, name=name: {name: Figure(), "good": Figure()}
        )
        report.write_report(record, folder)
        page = folder.report.read_text()
        assert ("leaves the folder" in page) == (name != "..")  # `...png` is an odd name, and inside
        assert "Leaderboard" in page
    assert [path for path in runs.root.rglob("*.png") if path.parent != folder.figures] == []
    assert not Path("/tmp/evil.png").exists()


@pytest.mark.parametrize("name", ["../x", "..", "/etc/x", "a/b", ".lock", "x\n", "x" * 200])
def test_a_map_s_name_and_its_keys_are_no_paths(tmp_path, name):
    maps = Maps("t0000", tmp_path / "maps", tmp_path / "cache", {}, lambda event: None, InProcess())
    with pytest.raises(ValueError, match="cannot name a map"):
        maps.run(abs, [1], name, None)
    with pytest.raises(ValueError, match="cannot be a key"):
        maps.run(abs, [1], "good", [name])
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", "a/.", "x\n", "", "x" * 251, "<b>"])
def test_a_metric_s_name_is_a_plain_path(name):
    with pytest.raises(ValueError, match="cannot name a metric"):
        plain_metrics({name: 1.0}, set())
    assert plain_metrics({"val/top-1 acc.": 1}, set()) == {"val/top-1 acc.": 1.0}


def test_a_checkpoint_s_step_is_a_number(tmp_path):
    for step in ("../../x", "1", None, 1.5):
        with pytest.raises((ValueError, TypeError)):
            checkpoint.save(tmp_path / "here", step, {"a": 1})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_checkpoint_holds_no_code(tmp_path):
    with pytest.raises(TypeError, match="plain values"):
        checkpoint.save(tmp_path, 1, {"a": Path.cwd})
    with pytest.raises(TypeError, match="plain values"):
        checkpoint.save(tmp_path, 1, {"a": np.array([object()])})


@pytest.mark.parametrize("name", ["../toy", "os", "toy.__class__", "/etc", "five;x", "api", ""])
def test_a_task_is_named_by_what_lies_in_the_folders_of_tasks(name):
    with pytest.raises(OrchestratorError, match="there is no task"):
        registry.task(name)


@pytest.mark.parametrize("ref", ["../studies", "dogs/../../x", "~nobody/x.yaml", "/dev/zero", "x" * 5000 + ".yaml", ""])
def test_a_study_is_a_shipped_one_or_a_file(command, runs, ref):
    code, _, err = command("run", ref)
    assert code == 2
    assert "there is no" in err
    assert not runs.root.exists()


def test_inside_takes_a_link_to_the_folder_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "x") == (tmp_path / "real" / "x").resolve()


def test_requests_that_are_none_are_answered_and_change_nothing(tmp_path):
    folder = StudyFolder(tmp_path)
    mailbox = Mailbox(folder)
    (tmp_path / "other").write_text("kept")
    bad = ["no json", "[]", "{}", '{"command": "rm", "trial": null}', '{"command": "stop", "trial": ["../x"]}',
           '{"command": "stop"}', "[" * 100_000]  # fmt: skip
    for number, text in enumerate(bad):
        (folder.control / f"{number}.request").write_text(text)
    (folder.control / "link.request").symlink_to(tmp_path / "other")
    (folder.control / "bytes.request").write_bytes(b"\xff\xfe")
    assert list(mailbox.take()) == []
    assert not list(folder.control.glob("*.request"))
    answers = [json.loads(path.read_text()) for path in folder.control.glob("*.answer")]
    assert len(answers) == len(bad) + 2
    assert not any(answer["done"] for answer in answers)
    assert (tmp_path / "other").read_text() == "kept"


def test_a_request_about_another_path_is_about_no_trial(tmp_path):
    """Whatever a request names is looked up among the trials: the driver takes no path from it."""
    folder = StudyFolder(tmp_path)
    mailbox, said = Mailbox(folder), []
    asking = threading.Thread(target=lambda: said.append(_refusal(folder)), daemon=True)
    asking.start()
    while not (requests := list(mailbox.take())):
        pass
    assert requests[0].trial == "../../x"
    mailbox.answer(requests[0], False, "../../x is not running yet")
    asking.join(10)
    assert said == ["../../x is not running yet"]


def _refusal(folder: StudyFolder) -> str:
    with pytest.raises(UserError) as refused:
        order(folder, Command.STOP, "../../x")
    return str(refused.value)


# ------------------------------------------------------------------------------------------------------- what is shown


def test_the_page_shows_text_as_text(runs):
    """Whatever a study says, and whatever a journal from elsewhere says, is no HTML of the page's."""
    evil = "<script>alert('x')</script><img src=x onerror=\"alert(1)\">"
    raw = {"name": "page", "question": evil, "params": {"mood": "raise"}, "search": {"trials": 1, "space": {}}}
    session(runs.root / "page", raw)
    record = load_record(runs.study("page").journal)
    trial = record.trials.pop("t0000")
    trial.id = trial.reason = evil
    trial.params = {**trial.params, "x": evil, evil: evil}
    trial.searched = ("x", evil)
    record.trials[evil] = trial
    record.study = {**record.study, "data": evil, "task": "toy", "params": {evil: evil}}
    record.study["search"] = {**record.study["search"], "algorithm": evil}
    record.verdict = {"support": evil, "sentence": evil}
    page = report.render(record, evil, {evil: b""})
    assert "<script" not in page
    assert "<img src=x" not in page
    assert 'onerror="' not in page
    assert "&lt;script&gt;" in page


# -------------------------------------------------------------------------------------------------------------- YAML

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
BAD_YAML = {
    "object": ("task: !!python/object/apply:os.system ['touch hacked']\n", "python/object"),
    "name": ("task: toy\nname: !!python/name:os.system\n", "python/name"),
    "new": ("task: toy\nparams: !!python/object/new:os.system ['touch hacked']\n", "python/object/new"),
    "own": ("task: toy\nparams: !mine {x: 1}\n", "!mine"),
    "key": ("? !!python/object/apply:os.system ['touch hacked']\n: 1\n", "a key is a word"),
    "laughs": (LAUGHS, "more than 100000 values"),
    "itself": ("task: &a [*a]\n", "nested more than 50 deep"),
    "merged": ("task: toy\nparams: &a {<<: *a}\n", "nested more than"),
    "twice": ("task: toy\ntask: dogs\n", "given twice, first on line 1"),
    "twice below": ("task: toy\nsearch:\n  trials: 1\n  trials: 2\n", "given twice, first on line 3"),
    "deep": ("task: " + "[" * 100 + "]" * 100, "nested more than 50 deep"),
    "very deep": ("task: " + "[" * 100_000, "nested more than 50 deep"),
    "deep maps": ("task: " + "{a: " * 5000, "nested more than 50 deep"),
    "date": ("task: toy\nquestion: 2024-01-01\n", "quote it"),
    "no date": ("task: toy\nquestion: 2024-99-99\n", "quote it"),
    "bytes": ("task: toy\nquestion: !!binary aGk=\n", "binary is no plain value"),
    "no number": ("task: toy\nseed: !!int x\n", "not valid YAML"),
    "no bool": ("task: toy\nseed: !!bool x\n", "not valid YAML"),
    "long number": (f"task: toy\nseed: {'9' * 5000}\n", "not valid YAML"),
    "control": ("task: toy\nname: \0\n", "not valid YAML"),
    "two": ("task: toy\n---\ntask: dogs\n", "not valid YAML"),
    "none": ("", "a study is a mapping"),
    "a list": ("[task, toy]", "a study is a mapping"),
    "huge": ("task: toy\nquestion: " + "x" * 2_000_000, "at most 1 MB"),
    "no alias": ("task: *missing\n", "not valid YAML"),
    "no anchor's merge": ("task: toy\n<<: 5\n", "not valid YAML"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_file_is_named_and_nothing_else_happens(command, runs, tmp_path, monkeypatch, case):
    text, says = BAD_YAML[case]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    code, out, err = command("run", str(file))
    assert code == 2
    assert says in err
    assert str(file) in err
    assert "Traceback" not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml"]


def test_a_file_that_is_no_text_is_named(command, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"task: \xff\xfe\n")
    code, _, err = command("plan", str(tmp_path / "bad.yaml"))
    assert code == 2
    assert "cannot be read" in err


@pytest.mark.parametrize(
    "override",
    [
        "params.x=!!python/object/apply:os.system ['touch hacked']",
        "search.space={a: 1, a: 2}",
        "search=" + LAUGHS.replace("\n", ", ").join("{}"),
        "params=" + "[" * 1000,
        "params=" + "[" * 200 + "]" * 200,
        "params={a: &a [*a]}",
        "question=2024-01-01",
        "seed=!!int x",
        f"seed={'9' * 5000}",
        "search=5",
        "search.space=[1, 2]",
        "search.space.x=5",
        "params.x.y=1",
        "data=" + "x" * 5000,
        "data=~nobody/x",
        "name=",
        "=x",
        "..=x",
        "search.space.x={choice: [1], when: {a: &b [*b]}}",
    ],
)  # fmt: skip
def test_a_bad_override_is_refused(command, runs, tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "good.yaml"
    file.write_text("task: toy\nsearch: {trials: 1, space: {x: {uniform: [-1, 1]}}}\n")
    code, out, err = command("run", str(file), override, "params.width=3")
    assert code == 2, err
    assert "Traceback" not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.yaml"]


def test_a_searched_parameter_beside_a_search_that_is_none(tmp_path):
    for bad in ("search: 5", "search: {space: [1]}", "search: {trials: 1, space: 5}"):
        (tmp_path / "s.yaml").write_text(f"task: toy\n{bad}\n")
        with pytest.raises(StudyError):
            load_study(str(tmp_path / "s.yaml"), ["params.x=1"])


def test_aliases_that_save_typing_are_read(tmp_path):
    (tmp_path / "s.yaml").write_text("a: &a {x: 1e-3, y: [1, '2024-01-01']}\nb: {<<: *a, z: *a}\n")
    read, lines = load(tmp_path / "s.yaml")
    plain = {"x": 1e-3, "y": [1, "2024-01-01"]}
    assert read == {"a": plain, "b": {**plain, "z": plain}}
    assert lines[("b", "z")] == 2
    assert parse_value("", "params.x=") is None


# ------------------------------------------------------------------------------------------------------------ secrets


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


# ------------------------------------------------------------------------------------------------------------- server


def test_on_this_machine_the_server_asks_for_nothing_and_serves_nobody_else(runs):
    runs.root.mkdir()
    runs.tracker.touch()
    for host in ("127.0.0.1", "localhost", "::1"):
        server = make_server(runs, host, 5000)
        assert server.command[server.command.index("--host") + 1] == host
        assert "--allowed-hosts" not in server.command  # MLflow's own list: this machine
        assert not runs.login.root.exists()


def test_on_the_network_the_server_asks_for_a_password(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "from elsewhere")
    server = make_server(runs, "127.0.0.2", 5000, ["tracker.example"])
    assert server.command[-2:] == ["--app-name", "basic-auth"]
    password = runs.login.password.read_text().strip()
    assert len(password) >= 32
    told = [*server.command, *server.words, *server.environment.values()]
    assert not any(password in text for text in told)
    assert str(runs.login.password) in " ".join(server.words)
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in server.environment
    assert len(server.environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    assert stat.S_IMODE(runs.login.root.stat().st_mode) == 0o700
    for path in (runs.login.password, runs.login.settings, runs.login.users):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    hosts = server.command[server.command.index("--allowed-hosts") + 1].split(",")
    assert {"tracker.example", "tracker.example:5000", "127.0.0.2", "127.0.0.2:5000"} <= set(hosts)
    assert not any("*" in host for host in hosts)
    origins = server.command[server.command.index("--cors-allowed-origins") + 1].split(",")
    assert {"http://tracker.example:5000", "https://tracker.example", "http://127.0.0.2:5000"} <= set(origins)
    make_server(runs, "0.0.0.0", 5000)  # noqa: S104 - it only says how
    assert runs.login.password.read_text().strip() == password
    assert {path.name for path in runs.login.root.iterdir()} == {"password", "login.ini", "users.db"}


def test_the_settings_of_the_login_say_what_they_should(tmp_path):
    runs = Runs(tmp_path / "100 % odd")
    make_server(runs, "10.0.0.1", 5000)
    settings = configparser.ConfigParser()
    settings.read(runs.login.settings)
    assert settings["mlflow"]["database_uri"] == f"sqlite:///{runs.login.users}"
    assert settings["mlflow"]["admin_password"] == runs.login.password.read_text().strip()


def test_a_folder_that_was_open_to_all_is_closed(runs):
    runs.login.root.mkdir(parents=True, mode=0o755)
    runs.login.settings.write_text("x")
    runs.login.settings.chmod(0o644)
    old = os.umask(0)
    try:
        make_server(runs, "10.0.0.1", 5000)
    finally:
        os.umask(old)
    assert stat.S_IMODE(runs.login.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(runs.login.settings.stat().st_mode) == 0o600


def test_without_a_login_the_server_says_what_that_means(runs):
    server = make_server(runs, "10.0.0.1", 5000, login=False)
    assert "--app-name" not in server.command
    assert "warning" in " ".join(server.words)
    assert "--allowed-hosts" in server.command
    assert not runs.login.root.exists()


def test_a_lost_password_is_not_replaced_behind_the_users_back(runs):
    make_server(runs, "10.0.0.1", 5000)
    runs.login.password.unlink()
    with pytest.raises(EnvironmentProblem, match="is gone") as error:
        make_server(runs, "10.0.0.1", 5000)
    assert str(runs.login.users) in error.value.hint


@pytest.mark.parametrize(
    "words",
    [("--host", "x y"), ("--host", ""), ("--host", "10.0.0.1", "--allowed-host", "*"), ("--host", "--workers"),
     ("--host", "10.0.0.1", "--allowed-host", "a,*"), ("--host", "10.0.0.1", "--allowed-host", "http://a")],
)  # fmt: skip
def test_what_is_no_host_is_refused(command, runs, words):
    code, _, err = command("ui", *words)
    assert code == 2
    assert "is no" in err
    assert not runs.root.exists()


# ------------------------------------------------------------------------------------------------------------- source

# Where what could run code is allowed, and why.
ALLOWED = {
    ("orchestrator.trial.pool", "pickle.loads"): "the trial's own job, from its process through Ray",
    (
        "orchestrator.trial.stored",
        "pickle.loads",
    ): "a study's own scratch, with a checksum; nothing is loaded from elsewhere",
}
CODE = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput",
          "asyncio.create_subprocess_shell", "pty.spawn"}  # fmt: skip
UNPICKLERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "torch.load", "dill.load", "dill.loads",
              "cloudpickle.load", "cloudpickle.loads", "shelve.open", "marshal.loads", "marshal.load"}  # fmt: skip
ARCHIVES = {"extractall", "extract", "unpack_archive"}
PROCESSES = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call",
             "subprocess.check_output"}  # fmt: skip


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def trouble(name: str, call: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in CODE | SHELLS | UNPICKLERS:
        return not (name == "torch.load" and getattr(keywords.get("weights_only"), "value", None) is True)
    if getattr(keywords.get("shell"), "value", None) or (
        name in PROCESSES and isinstance(call.args[0], ast.JoinedStr | ast.Constant | ast.BinOp)
    ):
        return True
    if name == "np.load" and getattr(keywords.get("allow_pickle"), "value", False):
        return True
    if name.split(".")[-1] in ARCHIVES:
        return getattr(keywords.get("filter"), "value", None) != "data"
    if name.startswith("yaml.") and "load" in name:
        return name not in ("yaml.safe_load",)
    return False


@pytest.mark.parametrize("module", modules())
def test_nothing_runs_what_it_reads(module):
    found = {(module, name) for name, call in calls(modules()[module]) if trouble(name, call)}
    assert found <= set(ALLOWED)


def test_what_is_allowed_is_there_still():
    found = {(module, name) for module, path in modules().items() for name, call in calls(path) if trouble(name, call)}
    assert found == set(ALLOWED)


def test_the_walk_finds_what_it_looks_for(tmp_path):
    bad = ["os.system('x')", "subprocess.run('x')", "subprocess.run(['x'], shell=True)", "subprocess.Popen(f'{x}')",
           "eval('1')", "yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "yaml.unsafe_load(x)", "pickle.load(f)",
           "torch.load(f)", "tar.extractall('x')", "shutil.unpack_archive(a)",
           "np.load(f, allow_pickle=True)"]  # fmt: skip
    good = ["subprocess.run(['x'])", "torch.load(f, weights_only=True)", "tar.extractall('x', filter='data')",
            "net.eval()", "re.compile('x')", "yaml.safe_load(x)", "np.load(f)"]  # fmt: skip
    for text in [*bad, *good]:
        (tmp_path / "x.py").write_text(text)
        assert any(trouble(name, call) for name, call in calls(tmp_path / "x.py")) == (text in bad), text


def test_the_yaml_loader_is_a_safe_one():
    import yaml

    from orchestrator import yamlfile

    assert issubclass(yamlfile._Loader, yaml.SafeLoader)
    assert ROOT.joinpath("orchestrator", "yamlfile.py").read_text().count("(yaml.SafeLoader)") == 1
