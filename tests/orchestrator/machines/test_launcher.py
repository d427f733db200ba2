"""A cluster's hosts as the launcher tells them, with an ``ssh`` and a ``ray`` that are scripts of this machine."""

from __future__ import annotations

import json
import os
import sys

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.machines import launcher, ssh
from orchestrator.machines.clusterfile import ClusterFile
from orchestrator.machines.launcher import Presence

NODE = {"address": "127.0.0.1", "alive": True, "reason": "", "head": True, "resources": {"CPU": 4}, "used": {"CPU": 1}}
FAKE_SSH = """#!{python}
import json, pathlib, sys
here = pathlib.Path(sys.argv[0]).parent
if (here / "down").exists() and (here / "down").read_text() in " ".join(sys.argv):
    sys.exit(print("ssh: No route to host", file=sys.stderr) or 255)
request = json.loads(sys.stdin.readline())
print((here / "nodes").read_text() if "nodes" in request.get("words", []) else json.dumps("it has no token"))
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cluster whose head is given by a name and whose second worker is nowhere, and the folder of its programs."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in {
        "ssh": FAKE_SSH.format(python=sys.executable),
        "ray": "#!/bin/sh\nexit ${RAY_FAILS:-0}\n",
    }.items():
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(launcher, "_ray_command", lambda: str(bin / "ray"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (bin / "nodes").write_text(json.dumps([NODE]))
    login = ssh.Host("", "ann", tmp_path / "key")
    head, worker = ssh.Host("localhost", "ann", login.key), ssh.Host("10.9.9.9", "ann", login.key)
    file = tmp_path / "cluster.yaml"
    return ClusterFile(file, "lab", "local", head, (worker,), login, "/runs", {}, sys.executable), bin


def test_a_host_that_the_file_names_is_the_node_that_ray_numbers(lab):
    states = {state.address: state for state in launcher.status(lab[0])}
    assert list(states) == ["localhost", "10.9.9.9"]
    assert (states["localhost"].presence, states["localhost"].cpus) == (Presence.JOINED, 4)
    assert states["10.9.9.9"].presence is Presence.MISSING
    assert states["10.9.9.9"].reason == "it has no token"


def test_a_host_that_cannot_be_reached_says_why_it_may_still_run(lab, monkeypatch):
    cluster, bin = lab
    (bin / "down").write_text("10.9.9.9")
    (bin / "nodes").write_text("null")
    monkeypatch.setenv("RAY_FAILS", "1")  # as the launcher's own tool does then
    said = launcher.down(cluster)
    assert "No route to host" in said["10.9.9.9"]


def test_what_the_launcher_says_counts_where_no_host_complains(lab, monkeypatch):
    cluster, bin = lab
    ssh_text = (bin / "ssh").read_text().replace('json.dumps("it has no token")', '"null"')
    (bin / "ssh").write_text(ssh_text)
    assert launcher.down(cluster) == {"localhost": None, "10.9.9.9": None}
    monkeypatch.setenv("RAY_FAILS", "1")
    with pytest.raises(EnvironmentProblem):
        launcher.down(cluster)


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    launcher.make_token()
    path = tmp_path / ".ray" / "auth_token"
    first = path.read_text()
    path.chmod(0o644)  # as Ray leaves one that it makes
    launcher.make_token()
    assert (path.read_text(), path.stat().st_mode & 0o777, len(first)) == (first, 0o600, 64)
