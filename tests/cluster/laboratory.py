"""A lab of hosts with the cluster.yaml that ships, filled in, and ``orchestrator`` as one types it on a laptop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hosts
import invariants

from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import load_record
from orchestrator.history.record import Record

RAY = r"raylet|gcs_server|ray::|ray/_private|ray/dashboard|ray/autoscaler|ray\.util"
PATIENCE_SECONDS = 180.0
VENV = Path(sys.executable).parents[1]
SHIPPED = ("orchestrator", "tasks", "requirements.lock", "pyproject.toml", "Makefile", "README.md", "LICENSE")


class Laboratory:
    """A cluster of the hosts of a lab, the first its head; runs lie in a folder that all of them see."""

    def __init__(self, lab: hosts.Lab) -> None:
        self.lab, self.runs = lab, Runs(lab.root / "runs")
        self.project = lab.root / "project"
        self.project.mkdir()
        for name in SHIPPED:
            source, target = hosts.CHECKOUT / name, self.project / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        for host in lab.hosts:
            self.equip(host)
        self.file = self.project / "cluster.yaml"
        self.fill_in(lab.hosts[0], lab.hosts[1:])

    def fill_in(self, head: hosts.Host, workers: list[hosts.Host]) -> None:
        """The lines of cluster.yaml that a user changes, and no other."""
        text = (hosts.CHECKOUT / "cluster.yaml").read_text()
        for shipped, own in {
            "head_ip: 192.168.1.10 ": f"head_ip: {head.address} ",
            "[192.168.1.11, 192.168.1.12]": f"[{', '.join(host.address for host in workers)}]",
            "ssh_user: ubuntu": "ssh_user: root",
            "~/.ssh/id_ed25519": str(self.lab.key),
            "runs: /shared/runs": f"runs: {self.runs.root}",
        }.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, own)
        self.file.write_text(text)

    def equip(self, host: hosts.Host) -> None:
        """What a host has before set-up: here also the installed packages, which would take minutes to install."""
        environment = host.home / "orchestrator" / ".venv"
        environment.mkdir(parents=True)
        for part in ("bin", "lib", "pyvenv.cfg"):
            (environment / part).symlink_to(VENV / part)
        (environment / ".installed").touch()
        os.utime(environment / ".installed", (2**32, 2**32))  # newer than the lock, whenever that was written
        (host.home / ".ray" / "flags").write_text("--num-cpus=1 --object-store-memory=80000000\n")

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """``orchestrator WORDS`` on the laptop."""
        return subprocess.Popen(
            [VENV / "bin" / "python", "-m", "orchestrator.cli", *words], cwd=self.project, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**self.lab.environment, "ORCHESTRATOR_CLUSTER": str(self.file),
                 "ORCHESTRATOR_TASKS": str(hosts.CHECKOUT / "tests" / "toy_tasks"), **environment},
        )  # fmt: skip

    def call(self, *words: str, expect: int = 0, **environment: str) -> str:
        """Run it to its end; returns what it printed."""
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=2 * PATIENCE_SECONDS)
        assert process.returncode == expect, f"{words} ended with {process.returncode}:\n{out}\n{err}"
        return out + err

    def study(self, name: str, **raw) -> str:
        """The file of a study of the toy task, of slow trials that save."""
        params = {"steps": 10, "saves": True, "noise": 0.1, "pace": 0.3, **raw.pop("params", {})}
        search = {"algorithm": "random", "trials": 6, "space": {"x": {"uniform": [-1, 1]}}, **raw.pop("search", {})}
        path = self.project / f"{name}.yaml"
        path.write_text(json.dumps({"task": "toy", "params": params, "search": search, **raw}))
        return str(path)

    def folder(self, name: str) -> StudyFolder:
        return StudyFolder(self.runs.root / name)

    def record(self, name: str) -> Record:
        """As the laptop can say it without asking: on another host a journal's lock is not seen from here."""
        return load_record(self.folder(name).journal)

    def until(self, condition: Callable[[], object], patience: float = PATIENCE_SECONDS) -> float:
        """Wait for a condition; returns how many seconds that took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < patience, "what was waited for did not happen"
            time.sleep(0.1)
        return time.monotonic() - began

    def steps(self, name: str) -> int:
        """How many steps all trials of a study have come to."""
        if not self.folder(name).journal.exists():
            return 0
        return sum(trial.steps for trial in self.record(name).trials.values())

    def check(self, name: str) -> Record:
        """What must hold of a study, whatever happened to its cluster. Returns its record."""
        record = self.record(name)
        invariants.check(record, self.folder(name).journal, f"sqlite:///{self.runs.tracker}")
        return record

    def join(self, host: hosts.Host) -> None:
        """Start Ray on a host that the cluster's file does not name."""
        done = host.run(
            "bash", "-c", "~/orchestrator/.venv/bin/ray start --disable-usage-stats --address=$0 $(cat ~/.ray/flags)",
            f"{self.lab.head.address}:6379", RAY_AUTH_MODE="token",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def driver(host: hosts.Host) -> list[int]:
    """The processes of a driver that runs as a job on a head."""
    return [pid for pid, line in host.processes(r"python -m orchestrator\.remote").items() if "/bin/sh" not in line]


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
