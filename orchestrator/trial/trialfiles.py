"""What an attempt does so that its trial can go on where these files are not; see `publisher` for what that holds.

Without a URL all of this does next to nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.errors import StorageProblem
from orchestrator.history.events import Reported
from orchestrator.history.folder import TrialFolder

_LAG_SECONDS, _LAG_REPORTS = 30.0, 5000  # how far the journal at a URL may be behind the one of the driver
_LOG_SECONDS = 10.0  # between two looks whether the log at the URL is behind
_MOMENT_SECONDS = 1.0


class Lag:
    """The reports that the driver has, and that may not be at the URL yet."""

    def __init__(self, folder: TrialFolder) -> None:
        self._waits = folder.mirror is not None
        self._reports: deque[tuple[float, Reported]] = deque()

    def __iter__(self) -> Iterator[Reported]:
        return (report for _, report in self._reports)

    def passed(self, reports: Iterable[Reported]) -> Iterator[int]:
        """The driver has these. Gives the steps of those that count as certain now."""
        now = time.monotonic()
        self._reports.extend((now, report) for report in reports)
        while self._reports and (
            not self._waits or now - self._reports[0][0] > _LAG_SECONDS or len(self._reports) > _LAG_REPORTS
        ):
            yield self._reports.popleft()[1].step


def identity(seed: int, params: Mapping[str, Any]) -> str:
    """Of what a checkpoint is."""
    return hashlib.sha256(json.dumps([seed, dict(params)], sort_keys=True).encode()).hexdigest()[:16]


def fetch(folder: TrialFolder) -> None:
    """Bring what an attempt on another machine wrote here, but for checkpoints."""
    folder.artifacts.mkdir(parents=True, exist_ok=True)
    for path in (folder.log, folder.artifacts):
        folder.obtain(path)


def publish(folder: TrialFolder) -> None:
    """Bring what the trial wrote to its URL, but for checkpoints."""
    for path in (folder.artifacts, folder.log):
        folder.publish(path)


def publish_saved(folder: TrialFolder) -> None:
    """A checkpoint comes after what the task wrote before it: a resume behind it does not write that again."""
    publish(folder)
    folder.publish(folder.checkpoint, exact=True)


def lost_before(note: Mapping[str, Any], trial: str, reported: int, of: str) -> str | None:
    """What the journal lacks to go on from a checkpoint with this first note; None when all is there."""
    if note["trial"] != trial:
        return None  # adopted: the journal knew of that before
    if note["after"] > reported:  # its machine lost its power: checkpoints are synced to disk, reports are not
        return "reports that come before"
    if note.get("of", of) != of:  # the search, which knew more then, had chosen other parameters
        return "the trial that saved"
    return None


def publish_in_a_moment(folder: TrialFolder) -> None:
    """The same for an attempt that was stopped: if the store does not answer, the log here says so."""
    if folder.mirror is None:
        return
    try:
        publish(TrialFolder(folder.root, replace(folder.mirror, patience=_MOMENT_SECONDS)))
    except StorageProblem as error:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(f"the end of this is not at its URL: {error}\n")


@contextlib.contextmanager
def log_followed(folder: TrialFolder) -> Iterator[None]:
    """The log comes to its URL while the task works. What fails fails again, and counts, at a save or at the end."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(_LOG_SECONDS):
            with contextlib.suppress(StorageProblem, OSError):
                folder.publish(folder.log)

    if folder.mirror is not None:
        threading.Thread(target=follow, name="log", daemon=True).start()
    try:
        yield
    finally:
        over.set()
