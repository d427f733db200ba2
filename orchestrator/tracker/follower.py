"""Keeps a tracker in step with a journal: `Follower` while a study runs, `track` for one that has ended.

The tracker itself remembers how far it is. A follower that starts goes on from there; after an error it starts anew.
The journal is read in pieces, so that its length costs time and not memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem
from orchestrator.history.events import Event, StudyResumed, StudyStarted, decode
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import read
from orchestrator.tracker import tracking
from orchestrator.tracker.tracking import Projection

FLUSH_SECONDS = 1.0
PATIENCE_SECONDS = 120.0  # at the end of a study, for what the tracker lacks
HURRIED_SECONDS = 5.0
_FIRST_SECONDS = 3.0  # workers start meanwhile
_REST = 3.0  # times as long as it works it rests: trials may need the same cores
_MARK_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_PIECE_EVENTS, _PIECE_BYTES = 5000, 8_000_000


def warm_up(runs: Runs, study: Mapping[str, Any]) -> None:
    """Import MLflow and meet the tracker in the background: it takes seconds, which a cluster needs to start anyway."""
    threading.Thread(target=tracking.warm_up, args=(runs, study), name="mlflow", daemon=True).start()


class Follower:
    """Follows a journal from its own thread and keeps a tracker up to date. Trials and the search never wait for it.

    It may be started before the journal exists. Of a study that is resumed, its line in the journal comes first.
    """

    def __init__(self, folder: StudyFolder, runs: Runs) -> None:
        self._folder, self._runs = folder, runs
        self._projection: Projection | None = None
        self._offset = self._marked = 0
        self._mark_at = 0.0
        self._troubled = False
        self._error: EnvironmentProblem | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tracker", daemon=True)
        self._thread.start()

    @property
    def error(self) -> EnvironmentProblem | None:
        """Why the tracker is behind, or None while it keeps up."""
        return self._error

    def finish(
        self, patience: float = PATIENCE_SECONDS, hurry: threading.Event | None = None
    ) -> EnvironmentProblem | None:
        """Send what is left. Returns why when that fails or takes longer than ``patience`` seconds.

        Once ``hurry`` is set, it may take `HURRIED_SECONDS`: who interrupts a study does not wait for a slow tracker.
        """
        self._done.set()
        began = time.monotonic()
        while self._thread.is_alive():
            if hurry is not None and hurry.is_set():
                patience = min(patience, HURRIED_SECONDS)
            if time.monotonic() - began > patience:
                why = f" ({self._error})" if self._error else ""
                return EnvironmentProblem(f"the tracker had not taken everything after {patience:g} s{why}")
            self._thread.join(_LOOK_SECONDS)
        return self._error

    def _follow(self) -> None:
        wait = _FIRST_SECONDS
        while not self._done.wait(wait):
            began = time.monotonic()
            well = self._attempt(last=False)
            rest = max(FLUSH_SECONDS, _REST * (time.monotonic() - began))
            wait = rest if well else min(_LONGEST_WAIT_SECONDS, 2 * max(wait, FLUSH_SECONDS))
        was_behind = self._error is not None
        if not self._attempt(last=True) and not was_behind:
            self._attempt(last=True)  # an idle connection may have died unseen

    def _attempt(self, last: bool) -> bool:
        """Send what there is. Whatever goes wrong is for the caller to show; the next attempt starts afresh."""
        try:
            tracking.load()
            self._catch_up(last)
        except Exception as error:
            self._error = _problem(error)
            self._projection, self._troubled = None, True
            return False
        self._error = self._model_problem() if last else None
        return True

    def _model_problem(self) -> EnvironmentProblem | None:
        """Why the best model was not logged. All else is there then: it is no reason to send anything again."""
        try:
            if self._projection is not None:
                self._projection.log_model()
        except Exception as error:
            return _problem(error)
        return None

    def _catch_up(self, last: bool) -> None:
        if self._projection is None:
            beginning = _beginning(self._folder.journal)
            if beginning is None:
                return
            self._projection, self._offset = _go_on(self._folder, self._runs, *beginning)
            self._marked = self._offset
        for events, offset, more in _pieces(self._folder.journal, self._offset):
            self._projection.send(events, more)
            self._offset = offset
            if time.monotonic() >= self._mark_at:
                self._mark()
        if last:
            if self._troubled:
                self._projection.tidy()
                self._troubled = False
            self._mark()

    def _mark(self) -> None:
        if self._projection is not None and self._projection.is_settled and self._offset != self._marked:
            self._projection.mark(self._offset)
            self._marked, self._mark_at = self._offset, time.monotonic() + _MARK_SECONDS


def track(folder: StudyFolder, runs: Runs) -> None:
    """Send a study's whole journal to its tracker: runs that are missing come back, complete ones do not change.

    Raises `EnvironmentProblem` when the tracker refuses or does not answer. Not for a study that runs: it has a
    follower, and two at once would make two runs of a trial.
    """
    beginning = _beginning(folder.journal)
    if beginning is None:
        raise EnvironmentProblem(f"{folder.journal} has no study in it")
    folder.obtain_pages()
    projection = Projection(folder, runs)
    projection.connect(*beginning)
    for events, offset, more in _pieces(folder.journal, 0):
        projection.send(events, more)
        if not more:
            projection.mark(offset)
    projection.log_model()


def _problem(error: Exception) -> EnvironmentProblem:
    return error if isinstance(error, EnvironmentProblem) else EnvironmentProblem(f"tracking broke: {error!r}")


def _go_on(folder: StudyFolder, runs: Runs, start: StudyStarted, study: Mapping[str, Any]) -> tuple[Projection, int]:
    """A connected projection and the offset to go on from: where the tracker is, if that fits the journal."""
    projection = Projection(folder, runs)
    cursor = projection.connect(start, study)
    if not cursor:
        return projection, 0
    end = 0
    for event, end in read(folder.journal):
        projection.skip(event)
        if end >= cursor:
            break
    if end == cursor and projection.is_complete:
        return projection, cursor
    # The journal lost its end with the machine's power, or a run was deleted.
    projection = Projection(folder, runs)
    projection.connect(start, study)
    return projection, 0


def _beginning(journal: Path) -> tuple[StudyStarted, Mapping[str, Any]] | None:
    """How the study started, and what it is since it was last resumed; None when the journal is still empty.

    Looks at the first bytes of each line alone, for what is needed before the rest can be read.
    """
    start: StudyStarted | None = None
    study: Mapping[str, Any] = {}
    try:
        with journal.open("rb") as lines:
            for line in lines:
                if not line.startswith(b'{"kind":"study_') or not line.endswith(b"\n"):
                    continue
                try:
                    event = decode(line)
                except ValueError:
                    continue  # `read`, which follows, says where the journal is damaged
                if isinstance(event, StudyStarted):
                    start = event
                if isinstance(event, StudyStarted | StudyResumed):
                    study = event.study
    except FileNotFoundError:
        return None
    return None if start is None else (start, study)


def _pieces(journal: Path, offset: int) -> Iterator[tuple[list[Event], int, bool]]:
    """The events from an offset on, in pieces: each with the offset behind it and whether others follow."""
    lines = read(journal, offset)
    piece, end = _piece(lines, offset)
    while piece:
        following, behind = _piece(lines, end)
        yield piece, end, bool(following)
        piece, end = following, behind


def _piece(lines: Iterator[tuple[Event, int]], offset: int) -> tuple[list[Event], int]:
    events, end = [], offset
    for event, end in lines:
        events.append(event)
        if len(events) == _PIECE_EVENTS or end - offset > _PIECE_BYTES:
            break
    return events, end
