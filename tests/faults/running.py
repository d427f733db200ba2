"""``orchestrator`` as a user runs it: a process of its own that a test can watch, kill and follow up."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import load_record, read
from orchestrator.history.record import Record

PATIENCE_SECONDS = 90.0


class Bench:
    """A folder of runs and one study in it."""

    def __init__(self, root: Path, name: str, **raw) -> None:
        self.runs, self.name = Runs(root / "runs"), name
        self.file = root / f"{name}.yaml"
        root.mkdir(parents=True, exist_ok=True)
        self.file.write_text(yaml.safe_dump({"task": "toy", **raw}))
        self.folder = StudyFolder(self.runs.root / name)
        self.environment: dict[str, str] = {}

    def start(self, *words: str) -> subprocess.Popen:
        """``orchestrator WORDS``, or the study's run or resume, whichever it needs."""
        if not words:
            words = ("resume", self.name) if self.folder.journal.exists() else ("run", str(self.file))
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *words],
            env={**os.environ, "ORCHESTRATOR_RUNS": str(self.runs.root), **self.environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, *words: str, expect: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        process = self.start(*words)
        out, err = process.communicate(timeout=4 * PATIENCE_SECONDS)
        assert process.returncode == expect, f"{process.args} ended with {process.returncode}:\n{out}\n{err}"
        return out + err

    @property
    def record(self) -> Record:
        return load_record(self.folder.journal)

    def events(self) -> int:
        """How many the journal holds; 0 while there is none."""
        return sum(1 for _ in read(self.folder.journal)) if self.folder.journal.exists() else 0

    def until(self, condition: Callable[[], object], process: subprocess.Popen) -> bool:
        """Wait for a condition; False if the process ended before it came true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "what was waited for did not happen"
            time.sleep(0.02)
        return True

    def processes(self) -> list[int]:
        """All that runs for it: the command, the trials' workers and those of their maps."""
        mark, found = f"ORCHESTRATOR_RUNS={self.runs.root}\0".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def watched(self, field: str, together: bool = False) -> float:
        """Run to the end; the most megabytes that ``field`` of /proc/PID/status said of one process, or of all."""
        process, most = self.start(), 0.0
        while process.poll() is None:
            held = [megabytes(pid, field) for pid in self.processes()]
            most = max(most, sum(held) if together else max(held, default=0.0))
            time.sleep(0.2)  # looking costs processor time
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return most

    @property
    def tracker(self) -> str:
        return f"sqlite:///{self.runs.tracker}"


def megabytes(pid: int, field: str) -> float:
    """What a process's status says, in units of 10⁶ bytes; 0 when it has gone."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if f"{field}:" in status:
            return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6
    return 0.0


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process alone, as the out-of-memory killer does it."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def outcome(record: Record) -> dict[str, tuple]:
    """All that a study found, without times and numbers of attempts."""
    return {
        t.id: (t.seed, dict(t.params), t.state, dict(t.final), list(t.curve.steps), list(t.curve.values))
        for t in record.trials.values()
    }


def some_events(rng: random.Random, most: int) -> int:
    """How many more events to wait for before the next blow; small ones are as likely as large ones."""
    return int(most ** rng.random())


def left_behind(folder: Path) -> list[str]:
    """Processes that still have files below a folder open, or name it in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                names = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            if str(folder) in command or any(name.startswith(str(folder)) for name in names):
                found.append(command)
    return found
