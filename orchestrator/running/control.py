"""Orders to a running study from another terminal, by files in its folder: no port, and it works on a shared disk.

The one who orders writes a request and waits for the answer beside it; the driver looks into the folder a few times a
second. A request is a file that appears whole (written aside and renamed) and is taken by removing it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import is_written_here, owner

PATIENCE_SECONDS = 15.0


class Command(StrEnum):
    STOP = "stop"
    RETRY = "retry"


@dataclass(frozen=True)
class Request:
    """``trial`` is None when the whole study is meant."""

    id: str
    command: Command
    trial: str | None


class Mailbox:
    """The driver's side."""

    def __init__(self, folder: StudyFolder) -> None:
        """Requests to an earlier driver are dropped: nobody waits for them any more."""
        self._root = folder.control
        self._root.mkdir(parents=True, exist_ok=True)
        for path in self._root.iterdir():
            path.unlink(missing_ok=True)

    def take(self) -> Iterator[Request]:
        """The requests that have come since the last call."""
        with os.scandir(self._root) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".request"))
        for name in names:
            path = self._root / name
            try:
                asked = json.loads(path.read_text(encoding="utf-8"))
                trial = asked["trial"]
                if not isinstance(trial, str | None):
                    raise TypeError(f"no trial's id: {trial!r}")
                request = Request(path.stem, Command(asked["command"]), trial)
            except (ValueError, KeyError, TypeError, RecursionError) as error:  # not from `order`: no reason to end
                _write(self._root / f"{path.stem}.answer", {"done": False, "words": f"no request: {error!r}"})
                continue
            finally:
                path.unlink(missing_ok=True)
            yield request

    def answer(self, request: Request, done: bool, words: str) -> None:
        _write(self._root / f"{request.id}.answer", {"done": done, "words": words})


def order(folder: StudyFolder, command: Command, trial: str | None = None) -> str:
    """Give an order to the driver of a running study and return its answer.

    Raises `UserError` when the driver refuses, and `EnvironmentProblem` when it does not answer in `PATIENCE_SECONDS`;
    the order then still stands, and is obeyed when the driver comes to it.
    """
    if folder.mirror is not None and not is_written_here(folder.journal):
        raise UserError(
            f"'{folder.name}' is run by another machine{owner(folder.journal)}: orders reach it there alone",
            f"log in there, then: orchestrator {command} {folder.name}" + (f" {trial}" if trial else ""),
        )
    id = uuid.uuid4().hex
    folder.control.mkdir(parents=True, exist_ok=True)
    _write(folder.control / f"{id}.request", {"command": command, "trial": trial})
    answer = folder.control / f"{id}.answer"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not answer.exists():
        if time.monotonic() > deadline:
            raise EnvironmentProblem(
                f"the driver of '{folder.name}' has not answered within {PATIENCE_SECONDS:g} s",
                f"it is starting or very busy and will see the order; look again: orchestrator show {folder.name}",
            )
        time.sleep(0.05)
    said = json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink()
    if not said["done"]:
        raise UserError(said["words"])
    return said["words"]


def _write(path: Path, content: dict[str, object]) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(content), encoding="utf-8")
    os.replace(aside, path)
