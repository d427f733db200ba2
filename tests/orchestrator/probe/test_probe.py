"""The facts of this machine: all there, quick to import, plain, and without a secret."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.probe import gpus, probe
from orchestrator.probe.probe import Mark, Question

SECRET = "0123456789abcdef-a-token"  # noqa: S105 - of no real cluster


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder with a token that only its owner may read."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return tmp_path


def ask(**more) -> probe.Facts:
    """Facts as they arrive: after the way through JSON, there and back."""
    question = Question(**{"asked_at": time.time(), "salt": "s", **more})
    there = Question.from_plain(json.loads(json.dumps(question.to_plain())))
    assert there == question
    return json.loads(json.dumps(probe.probe(there)))


def test_every_section_is_there(home, tmp_path):
    facts = ask(
        runs=str(tmp_path / "runs"), data=(str(tmp_path),), ports=(1,), head="127.0.0.1:1", tracker="http://[::1]:1"
    )
    assert facts["failed"] == {}
    sections = {
        "host",
        "python",
        "versions",
        "code",
        "token",
        "ray",
        "disks",
        "memory",
        "limits",
        "runs",
        "data",
        "gpus",
    }
    assert set(facts) == sections | {"tracker", "clock", "failed"}
    assert all(facts[section] is not None for section in sections)
    assert facts["versions"]["ray"] is not None
    assert facts["disks"]["runs"]["total"] >= facts["disks"]["runs"]["free"] > 0
    assert facts["clock"]["asked_at"] <= facts["clock"]["began"] <= facts["clock"]["ended"]
    assert facts["ray"]["head"] == "refused"


def test_importing_it_imports_nothing_that_may_be_broken():
    imported = "import sys, orchestrator.probe.probe, orchestrator.remote"
    code = f"{imported}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"ray", "torch", "mlflow", "numpy", "pydantic", "yaml", "typer", "rich", "optuna", "tasks"}
    assert not set(done.stdout.split()) & heavy


def test_a_token_is_compared_and_never_shown(home, monkeypatch):
    facts = ask()
    assert facts["token"]["mode"] == "0600"
    assert facts["token"]["place"] == str(home / ".ray" / "auth_token")
    assert SECRET not in json.dumps(facts)
    assert len(facts["token"]["fingerprint"]) == 12
    assert ask(salt="another")["token"]["fingerprint"] != facts["token"]["fingerprint"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    other = ask()
    assert other["token"]["place"] == "RAY_AUTH_TOKEN"
    assert other["token"]["fingerprint"] == facts["token"]["fingerprint"]
    assert SECRET not in json.dumps(other)


def test_a_token_that_is_missing_or_empty_has_no_fingerprint(home):
    path = home / ".ray" / "auth_token"
    path.write_text("\n")
    assert ask()["token"]["fingerprint"] is None
    path.unlink()
    assert ask()["token"] == {
        "auth_mode": None, "mode": None, "fingerprint": None, "trouble": None, "place": str(path),
    }  # fmt: skip


def test_who_holds_a_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        holder = ask(ports=(port,))["ray"]["ports"][str(port)]
        reached = ask(head=f"127.0.0.1:{port}")["ray"]["head"]
    assert holder["addresses"] == ["127.0.0.1"]
    assert holder["command"].startswith("python")
    assert holder["pid"] is not None
    assert not holder["is_ray"]
    assert reached == "open"
    assert ask(ports=(port,))["ray"]["ports"] == {}


def test_one_machine_finds_what_another_left_in_the_folder_of_runs(tmp_path):
    left = ask(runs=str(tmp_path), mark=Mark.LEAVE, marker=".mark")["runs"]
    assert left["marked"]
    assert ask(runs=str(tmp_path), mark=Mark.FIND, marker=".mark")["runs"]["marked"]
    (tmp_path / "elsewhere").mkdir()
    assert ask(runs=str(tmp_path / "elsewhere"), mark=Mark.FIND, marker=".mark")["runs"]["marked"] is False
    assert ask(mark=Mark.REMOVE, marker=left["marker"]) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_folder_of_runs_that_does_not_exist_is_made_by_the_first_study(tmp_path):
    found = ask(runs=str(tmp_path / "not" / "yet"))["runs"]
    assert found["there"] == str(tmp_path)
    assert found["trouble"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_says_why():
    assert ask(runs="/proc/runs")["runs"]["trouble"]


def test_data_is_compared_by_names_and_sizes(tmp_path):
    for copy in ("a", "b"):
        (tmp_path / copy / "breed").mkdir(parents=True)
        (tmp_path / copy / "breed" / "1.jpg").write_bytes(b"12345")
        (tmp_path / copy / "labels.csv").write_bytes(b"1,2")
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    one, two = (ask(data=(place,))["data"] for place in places)
    assert one["fingerprint"] == two["fingerprint"]
    assert one["entries"] == 2
    (tmp_path / "b" / "breed" / "2.jpg").write_bytes(b"12345")
    assert ask(data=(places[1],))["data"]["fingerprint"] != one["fingerprint"]
    missing = ask(data=(str(tmp_path / "c"), str(tmp_path / "d")))["data"]
    assert (missing["path"], missing["exists"]) == (str(tmp_path / "c"), False)
    assert ask(data=(str(tmp_path / "c"), places[0]))["data"] == one


def test_a_section_that_fails_hides_no_other(monkeypatch):
    monkeypatch.setitem(probe._SECTIONS, "memory", lambda question: 1 / 0)
    facts = ask()
    assert facts["memory"] is None
    assert facts["failed"] == {"memory": "ZeroDivisionError: division by zero"}
    assert facts["versions"]


SMI = """#!/bin/sh
case "$1" in
  --query-gpu*) echo "NVIDIA A100-SXM4-40GB, 550.54.15, 40960 MiB" ;;
  --query-compute-apps*) echo "4242, 1024 MiB"; echo "4243, [N/A]" ;;
  *) echo "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |" ;;
esac
"""


def test_what_nvidia_smi_says_is_read(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = gpus.describe()
    assert found["names"] == ["NVIDIA A100-SXM4-40GB, 40960 MiB"]
    assert (found["driver"], found["driver_cuda"], found["trouble"]) == ("550.54.15", "12.4", None)
    assert found["busy"] == [{"pid": 4242, "mib": 1024}]
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n"
    )
    assert gpus.describe()["trouble"] == "Failed to initialize NVML: Driver/library version mismatch"


def test_the_cuda_of_torch_is_read_without_importing_it():
    import torch

    assert gpus.describe()["torch_cuda"] == torch.version.cuda
