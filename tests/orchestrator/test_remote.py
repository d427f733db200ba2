"""A cluster's head as a laptop uses it, with an ``ssh`` that runs the command on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.history.events import StudyStarted, TrialStarted
from orchestrator.history.folder import Runs
from orchestrator.history.journal import Journal
from orchestrator.machines import headnode, ssh
from orchestrator.machines.clusterfile import ClusterFile
from orchestrator.machines.headnode import HeadNode
from orchestrator.studies.studyfile import build

FAKE_SSH = """#!/bin/sh
# The last word is the command; everything before it is for ssh.
for word; do :; done
printf '%s\\n' "$@" > "$0.words"
[ -e "$0.down" ] && { echo "ssh: connect to host port 22: No route to host" >&2; exit 255; }
exec sh -c "$word"
"""


@pytest.fixture
def fake_ssh(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "bin" / "ssh"
    path.parent.mkdir()
    path.write_text(FAKE_SSH)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.fixture
def head(tmp_path, fake_ssh) -> HeadNode:
    login = ssh.Host("", "ann", tmp_path / "key")
    host = ssh.Host("10.0.0.1", "ann", tmp_path / "key")
    cluster = ClusterFile(
        tmp_path / "cluster.yaml", "lab", "local", host, (), login, str(tmp_path / "runs"), {}, sys.executable
    )
    return HeadNode(cluster, host)


def test_a_command_runs_there(head, capfd):
    assert head.command(["version"]) == 0
    assert capfd.readouterr().out.strip()
    assert head.command(["show", "nothing"]) == 2
    assert "there is no study 'nothing'" in capfd.readouterr().err


def test_what_a_user_wrote_is_no_word_of_a_shell(head, fake_ssh, tmp_path, capfd):
    nasty = f"x'; touch {tmp_path / 'broken'}; $(touch {tmp_path / 'broken'}) #"
    assert head.command(["show", nasty]) == 2
    assert not (tmp_path / "broken").exists()
    assert nasty not in Path(f"{fake_ssh}.words").read_text()
    assert nasty in capfd.readouterr().err


def test_a_port_there_becomes_a_port_here(head, fake_ssh):
    assert head.command(["version"], forward=5001) == 0
    assert "127.0.0.1:5001:127.0.0.1:5001" in Path(f"{fake_ssh}.words").read_text().splitlines()


def test_it_can_be_asked(head):
    assert head.ask(["ps", "--json"]) == []


def test_a_head_that_cannot_be_reached_is_named(head, fake_ssh):
    Path(f"{fake_ssh}.down").touch()
    with pytest.raises(
        EnvironmentProblem, match=r"10\.0\.0\.1, the head of lab, cannot be reached: .*No route to host"
    ):
        head.ask(["ps", "--json"])
    with pytest.raises(EnvironmentProblem, match="is lost"):
        head.command(["ps"])


def test_a_project_that_does_not_work_there_says_how(head):
    with pytest.raises(EnvironmentProblem, match="there is no study 'nothing'"):
        head.ask(["show", "nothing", "--json"])


def test_data_is_sent_once(head, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    (folder / "beagle").mkdir(parents=True)
    (folder / "beagle" / "1.jpg").write_bytes(b"one")
    place = Path(head.send_data(folder))
    assert (place / "beagle" / "1.jpg").read_bytes() == b"one"
    assert place.parent == tmp_path / "runs" / "shipped"
    monkeypatch.setattr(headnode.shipping, "pack_data", None)  # it is there: nothing is packed
    assert head.send_data(folder) == str(place)


def test_data_goes_where_runs_are(head, tmp_path, monkeypatch):
    """To the URL, where every host finds it: the head's own copy is seen by the head alone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"one")
    cluster = replace(head._cluster, runs=f"file://{tmp_path}/store")
    monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / "mirror"))
    url = HeadNode(cluster, cluster.head).send_data(folder)
    assert url.startswith(f"file://{tmp_path}/store/shipped/photos-")
    assert (Path(url.removeprefix("file://")) / "1.jpg").read_bytes() == b"one"


def test_only_a_folder_is_sent(head, tmp_path):
    with pytest.raises(UserError, match="ships a folder"):
        head.send_data(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b"])
def test_sent_data_stays_in_its_place(tmp_path, name):
    line = {"do": "take_data", "name": name, "bytes": 0, "environment": {"ORCHESTRATOR_RUNS": str(tmp_path)}}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.remote"],
        input=json.dumps(line) + "\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "is no name of data" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_ends_with_its_asker(tmp_path, fake_ssh):
    """`logs -f` of a laptop that has gone would follow on the head for as long as the trial runs."""
    runs = Runs(tmp_path / "runs")
    folder = runs.new_study("s")
    study = build({"task": "toy", "search": {"algorithm": "random", "trials": 1}})
    with Journal(folder.journal) as journal:
        journal.append(StudyStarted("uid", study.to_plain(), 1), TrialStarted("t0000", 1, {}, (), None))
        process = ssh.attach(ssh.Host("10.0.0.1"), f"{sys.executable} -m orchestrator.remote")
        line = {"do": "command", "words": ["logs", "s", "t0000", "-f"], "attached": True}
        environment = {"ORCHESTRATOR_RUNS": str(runs.root)}
        process.stdin.write(json.dumps({**line, "environment": environment}).encode() + b"\n")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.stdin.close()
        assert process.wait(timeout=60) == 130
