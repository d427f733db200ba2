"""What a user writes leads out of no folder: names, trials, artifacts, requests."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from lab import session
from matplotlib.figure import Figure

from orchestrator.errors import OrchestratorError, UnknownName, UserError
from orchestrator.history import checkpoint
from orchestrator.history.folder import TAKEN, StudyFolder, TrialFolder, inside
from orchestrator.history.journal import load_record
from orchestrator.report.page import write_report
from orchestrator.running.control import Command, Mailbox, order
from orchestrator.studies import registry
from orchestrator.trial.context import TrialContext, plain_metrics
from orchestrator.trial.jobs import InProcess
from orchestrator.trial.maps import Maps
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt
from tasks.api import Goal

OUTSIDE = ["../x", "..", "a/../../x", "/etc/x", "."]


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
            "orchestrator.analysis.standings.figures", lambda record, name=name: {name: Figure(), "good": Figure()}
        )
        write_report(record, folder)
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
