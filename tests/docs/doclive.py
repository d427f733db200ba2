"""Studies in the conditions that some commands are for: at work, with trials that have failed, or killed half-way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import lab

from orchestrator.errors import OrchestratorError
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import load_record
from orchestrator.history.states import State
from orchestrator.running.control import Command, order


def _toy(name: str, endless: bool) -> dict:
    """Eight trials, half of which break."""
    space = {"mood": {"choice": ["well", "raise"]}, "width": {"choice": [1, 2, 3, 4]}}
    params = {"steps": 10**6 if endless else 100, "pace": 0.01, "saves": True}
    return {"name": name, "params": params, "search": {"algorithm": "grid", "space": space}, "failures": {"retries": 0}}


def _is_so(folder: StudyFolder) -> bool:
    """Whether all trials have begun and half of them have failed."""
    trials = load_record(folder.journal).trials.values() if folder.journal.exists() else ()
    failed = sum(trial.state is State.FAILED for trial in trials)
    return failed == 4 and sum(trial.steps > 0 for trial in trials) == 8


@contextlib.contextmanager
def running(folder: StudyFolder, endless: bool) -> Iterator[Callable]:
    """All its trials have begun and half have failed; another thread drives it."""
    thread = threading.Thread(
        target=lab.session, args=(folder.root, _toy(folder.name, endless)), kwargs={"cpus": 8}, daemon=True
    )
    thread.start()

    deadline = time.monotonic() + 60
    while not _is_so(folder):
        assert time.monotonic() < deadline, "the live study did not come to its condition"
        time.sleep(0.02)
    yield lambda: load_record(folder.journal)
    if thread.is_alive() and endless:
        with contextlib.suppress(OrchestratorError):  # the command itself may have stopped it
            order(folder, Command.STOP)
    thread.join(30)


@contextlib.contextmanager
def killed(folder: StudyFolder, endless: bool) -> Iterator[Callable]:
    """Its driver died when half had failed and the others were at work."""

    def die(driver) -> None:
        if _is_so(folder):
            raise lab.Killed

    with contextlib.suppress(lab.Killed):
        lab.session(folder.root, _toy(folder.name, endless=False), cpus=8, between=die)
    yield lambda: load_record(folder.journal)
