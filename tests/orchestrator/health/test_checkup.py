"""The command on this machine, on Ray's nodes, and over an ssh that stands for other machines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from orchestrator.errors import StudyError
from orchestrator.health import checkup

PROJECT = Path(__file__).resolve().parents[3]
TOKEN = "a-secret-token-of-the-cluster"  # noqa: S105 - of no real one
# Stands for machines: runs the command here, in the environment of the host that was asked for. What it is asked and
# what it does are as with ssh itself: a host without an environment cannot be reached.
SSH = """#!/bin/sh
echo "$*" >> "$FAKE_HOSTS/words.txt"
while [ "$1" != "--" ]; do host=$1; shift; done
env="$FAKE_HOSTS/${host#*@}.env"
if [ ! -f "$env" ]; then echo "ssh: connect to host ${host#*@} port 22: No route to host" >&2; exit 255; fi
. "$env"
cd "$HOME"
exec sh -c "$2"
"""
CLUSTER = """
cluster_name: three
provider: {{type: local, head_ip: 10.0.0.1, worker_ips: {workers}}}
auth: {{ssh_user: ann}}
metadata: {{orchestrator: {{runs: "{runs}", python: {python}, environment: {{MLFLOW_TRACKING_URI: "{tracker}"}}}}}}
"""


class Machines:
    """Hosts behind the ssh above, each with a home of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.workers = root, ["10.0.0.2"]
        for name in ("10.0.0.1", "10.0.0.2"):
            self.add(name)

    def add(self, host: str, token: str | None = TOKEN, **environment: str) -> Path:
        home = self.root / host
        (home / ".ray").mkdir(parents=True, exist_ok=True)
        file = home / ".ray" / "auth_token"
        file.unlink(missing_ok=True)
        if token is not None:
            file.write_text(token)
            file.chmod(0o600)
        lines = [f"export {name}='{value}'" for name, value in {"HOME": home, **environment}.items()]
        (self.root / f"{host}.env").write_text("\n".join(lines))
        return home

    def file(self, runs: Path | str, tracker: str = "", python: str = sys.executable) -> str:
        path = self.root / "cluster.yaml"
        path.write_text(CLUSTER.format(workers=json.dumps(self.workers), runs=runs, tracker=tracker, python=python))
        return str(path)


@pytest.fixture
def machines(tmp_path, monkeypatch) -> Machines:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_HOSTS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setattr(checkup, "HEAD_PORTS", {})  # what this machine's own ports hold is no matter of these tests
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return Machines(tmp_path)


def judged(out: str) -> dict[str, list[dict]]:
    """The findings that are not fine, by host."""
    found: dict[str, list[dict]] = {}
    for finding in json.loads(out)["findings"]:
        if finding["level"] != "fine":
            found.setdefault(finding["host"], []).append(finding)
    return found


# -------------------------------------------------------------------------------------------------- this machine alone


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A home without a token, and the shipped folder of runs."""
    monkeypatch.setenv("HOME", str(tmp_path))


def test_this_machine_can_run_studies(command, runs, alone):
    code, out, err = command("doctor")
    assert code == 0
    assert "breaks" not in out
    assert "fine" in out
    assert err == ""
    assert not runs.root.exists()


def test_what_would_break_a_run_ends_with_3(command, runs, alone, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    code, out, err = command("doctor", "dogs", "data=/no/such/folder")
    assert code == 3
    assert "2 things would break a run" in err
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if "the tracker http://127.0.0.1:9 is of no use" in line)
    assert lines[at].startswith("breaks  this machine")
    assert lines[at + 1].strip().startswith("→ mlflow server --host 127.0.0.1 --port 9")
    assert any("there is no data at /no/such/folder" in line for line in lines)
    assert "secret" not in out + err


def test_json_is_for_programs(command, alone):
    code, out, _ = command("doctor", "dogs", "data=/no/such/folder", "--json")
    assert code == 3
    plain = json.loads(out)
    assert plain["breaks"] == 1
    assert [host["host"] for host in plain["hosts"]] == ["this machine"]
    assert set(plain["findings"][0]) == {"level", "host", "what", "why", "fix"}
    assert judged(out)["this machine"][0]["what"] == "there is no data at /no/such/folder"


@pytest.mark.parametrize(
    ("words", "says"), [(["dgos"], "did you mean 'dogs'?"), (["dogs", "search.trials=0"], "trials")]
)
def test_a_wrong_study_is_what_was_typed(command, words, says):
    code, _, err = command("doctor", *words)
    assert code == 2
    assert says in err


def test_a_cluster_that_does_not_answer_is_a_finding(command, alone, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, out, _ = command("doctor", "--json")
    assert code == 3
    found = [finding for finding in judged(out)["127.0.0.1:9"] if finding["level"] == "breaks"]
    assert "cannot be reached" in found[0]["what"]
    assert found[0]["fix"] == "ray status --address 127.0.0.1:9"


def test_a_study_may_name_data_that_is_not_here():
    assert checkup.Asked.of("dogs", ["data=/no/such/folder"]).data == "/no/such/folder"
    assert checkup.Asked.of("dogs-demo", []).data is None
    with pytest.raises(StudyError):
        checkup.Asked.of("dogs", ["data=/no/such/folder", "resources.cpus=-1"])
    assert checkup._places("s3://bucket/data", {}, at_home=False) == ()
    assert checkup._places("dogs", {"ORCHESTRATOR_DATA": "/data"}, at_home=False) == ("dogs", "/data/dogs")


# ---------------------------------------------------------------------------------------------------------- Ray's nodes


def test_every_node_of_a_cluster_is_asked(command, runs, monkeypatch):
    runs.root.mkdir()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        _, out, err = command("doctor", "--json")
    finally:
        ray.shutdown()
        made.shutdown()
    hosts = json.loads(out)["hosts"]
    assert [host["host"].partition("#")[2] for host in hosts] == ["", "1", "2"], err
    assert all(host["facts"]["failed"] == {} for host in hosts)
    assert hosts[1]["facts"]["code"] == hosts[0]["facts"]["code"]
    assert all(
        {"gcs_server", "raylet"} <= {server["name"] for server in host["facts"]["ray"]["servers"]} for host in hosts
    )
    assert [host["facts"]["runs"]["marked"] for host in hosts] == [True, True, True]
    assert not [f for found in judged(out).values() for f in found if "folder" in f["what"] or "clock" in f["what"]]
    assert list(runs.root.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- other machines


def test_hosts_that_are_alike_have_nothing_that_breaks(command, machines, tmp_path):
    (tmp_path / "shared").mkdir()
    code, out, err = command("doctor", "--cluster", machines.file(tmp_path / "shared"), "--json")
    assert code == 0, out + err
    hosts = json.loads(out)["hosts"]
    assert [host["host"] for host in hosts] == ["10.0.0.1", "10.0.0.2"]
    assert TOKEN not in out
    assert hosts[0]["facts"]["token"]["fingerprint"] == hosts[1]["facts"]["token"]["fingerprint"] is not None
    assert hosts[1]["facts"]["runs"]["marked"]
    assert list((tmp_path / "shared").iterdir()) == []


def test_hosts_that_differ_are_found_each_with_its_fix(command, machines, tmp_path):
    """Each has runs of its own, the second another token, the third another Ray; the fourth has gone."""
    machines.workers += ["10.0.0.3", "10.0.0.4"]
    machines.add("10.0.0.2", token="another")  # noqa: S106
    shadow = tmp_path / "shadow" / "ray-2.0.0.dist-info"
    shadow.mkdir(parents=True)
    (shadow / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.0.0\n")
    machines.add("10.0.0.3", PYTHONPATH=f"{tmp_path / 'shadow'}:{PROJECT}")
    file = machines.file("~", tracker="http://ann:secret@127.0.0.1:9")
    code, out, _ = command("doctor", "--cluster", file, "--json")
    assert code == 3
    found = {host: {finding["what"]: finding["fix"] for finding in of} for host, of in judged(out).items()}
    up = f"orchestrator cluster up {file}"
    assert found["10.0.0.2"]["Ray's token differs from that of 10.0.0.1"] == up
    assert any(what.startswith("has ray 2.0.0, 10.0.0.1 has") and fix == up for what, fix in found["10.0.0.3"].items())
    for host in ("10.0.0.2", "10.0.0.3"):
        assert f"{tmp_path / host} is not the folder that 10.0.0.1 sees" in found[host]
    assert any("the tracker http://127.0.0.1:9 is of no use" in what for what in found["10.0.0.1"])
    gone = "cannot be reached: ssh: connect to host 10.0.0.4 port 22: No route to host"
    assert found["10.0.0.4"] == {gone: "ssh ann@10.0.0.4 hostname"}
    assert {path.name for path in (tmp_path / "10.0.0.1").iterdir()} == {".ray"}  # what was left to be seen is gone
    assert "secret" not in out + (tmp_path / "words.txt").read_text()  # it travels on the standard input


def test_a_host_without_the_project_needs_cluster_up(command, machines, tmp_path):
    (tmp_path / "bare" / "orchestrator").mkdir(parents=True)  # hides the project's packages: nothing is in it
    (tmp_path / "bare" / "orchestrator" / "__init__.py").touch()
    machines.add("10.0.0.2", PYTHONPATH=str(tmp_path / "bare"))
    file = machines.file(tmp_path)
    code, out, _ = command("doctor", "--cluster", file)
    assert code == 3
    assert "10.0.0.2  cannot run this project:" in out
    assert "No module named orchestrator.remote" in out
    assert f"→ orchestrator cluster up {file}" in out
    code, out, _ = command("doctor", "--cluster", machines.file(tmp_path, python="/no/python"))
    assert code == 3
    assert out.count("cannot run this project: there is no /no/python") == 2


def test_hosts_that_come_and_go_are_asked_from_their_head(command, machines, tmp_path):
    path = Path(machines.file(tmp_path))
    path.write_text(path.read_text().replace("type: local", "type: aws"))
    code, _, err = command("doctor", "--cluster", str(path))
    assert code == 2
    assert f"ray exec {path} 'RAY_ADDRESS=auto orchestrator doctor'" in err
