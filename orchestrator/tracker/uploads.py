"""Which files of a study's folder become artifacts of which run, and when. Is handed a client, knows no tracker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.history.folder import StudyFolder, TrialFolder
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State


def of_study(client: Any, run: str, folder: StudyFolder, sessions: Sequence[int], over: bool) -> None:
    """What each of these sessions began with; when the study is over, its report and figures too."""
    files = [folder.environment_of(session) for session in sessions]
    files += [folder.study] * bool(files) + [folder.report] * over
    if over and folder.figures.is_dir():
        client.log_artifacts(run, str(folder.figures), "figures")
    _upload(client, run, files)


def of_trial(client: Any, run: str, folder: TrialFolder, since: float = 0.0) -> None:
    """The log and artifacts of a trial that is over, unless nothing of them has changed ``since``."""
    for path in (folder.artifacts, folder.log):
        folder.obtain(path)
    files = [path for path in folder.artifacts.rglob("*") if path.is_file()]
    if max((path.stat().st_mtime for path in (*files, folder.log) if path.exists()), default=0.0) < since:
        return
    if files:
        client.log_artifacts(run, str(folder.artifacts))
    _upload(client, run, [folder.log])


def cut_off(record: Record) -> Iterator[TrialRecord]:
    """Trials that the driver ended in this session. A worker hears of that a moment later, and writes until then."""
    for trial in record.trials.values():
        ended = trial.ended is not None and trial.ended >= record.session_began
        if ended and trial.state.is_over and trial.state is not State.FINISHED:
            yield trial


def _upload(client: Any, run: str, files: Iterable[Path]) -> None:
    for path in files:
        if path.exists() and path.stat().st_size:
            client.log_artifact(run, str(path))
