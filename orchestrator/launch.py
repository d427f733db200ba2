"""One study from start to verdict: cluster, plan, journal, trials, report, tracker, in that order."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator import results, tracking, yamlfile
from orchestrator.environment import describe_environment
from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.folder import Runs, StudyFolder
from orchestrator.journal import Journal, Record, StudyEnded, StudyStarted, TrialEnded
from orchestrator.plan import Node, Plan, check_fits, make_plan
from orchestrator.states import State
from orchestrator.study import Study

_LEAST_FREE_BYTES = 200_000_000
_BROKEN_PATIENCE_SECONDS = 5.0


class Display(Protocol):
    """What shows a study while it runs."""

    def start(self, plan: Plan, folder: StudyFolder, record: Record) -> None: ...
    def update(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    folder: StudyFolder
    record: Record
    untracked: EnvironmentProblem | None  # why the tracker lacks something, if it does


def local_node() -> Node:
    """This machine, without starting a cluster on it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        len(list(Path("/dev").glob("nvidia[0-9]*"))) if visible is None else len([v for v in visible.split(",") if v])
    )
    return Node("this machine", os.cpu_count() or 1, gpus)


def run_study(study: Study, runs: Runs, display: Display) -> Outcome:
    """Run a study to its end and return how it went.

    Raises `UserError` before anything is written when it cannot run as asked. Ctrl-C and SIGTERM end it in order: what
    has finished is kept, what was running is STOPPED.
    """
    _check_nothing_hides_the_packages()
    if not os.environ.get("RAY_ADDRESS"):
        check_fits(study.resources, [local_node()])
    folder = runs.new_study(study.name)
    _check_disk(runs.root)
    with stop_on_signals() as stop:
        from orchestrator import trials  # Ray takes seconds to import: not before the checks above

        with trials.cluster() as nodes:
            plan = make_plan(study, nodes)
            with Journal(folder.journal) as journal:
                record, follower = _begin(plan, folder, runs, journal)
                display.start(plan, folder, record)
                try:
                    with folder.driver_log.open("a", buffering=1) as chatter, redirect_stderr(chatter):
                        trials.run_trials(plan, folder, runs.cache, journal, record, stop, display.update)
                except BaseException as error:
                    _end_open_trials(record, journal, f"the study broke: {error!r}")
                    _conclude(record, folder, journal, State.FAILED, f"it broke: {error!r}")
                    follower.finish(patience=_BROKEN_PATIENCE_SECONDS)
                    raise
                finally:
                    display.stop()
                if stop.is_set():
                    _end_open_trials(record, journal, "the study was interrupted")
                    _conclude(record, folder, journal, State.STOPPED, "interrupted")
                else:
                    _conclude(record, folder, journal, results.end_state(record))
        return Outcome(folder, record, follower.finish())


def _begin(plan: Plan, folder: StudyFolder, runs: Runs, journal: Journal) -> tuple[Record, tracking.Follower]:
    folder.study.write_text(yamlfile.dump(plan.study.to_plain()), encoding="utf-8")
    folder.environment.write_text(json.dumps(describe_environment(), indent=2), encoding="utf-8")
    record = Record()
    started = StudyStarted(uuid.uuid4().hex, plan.study.to_plain(), len(plan.trials))
    journal.append(started)
    record.apply(started)
    return record, tracking.Follower(folder, runs)


def _end_open_trials(record: Record, journal: Journal, reason: str) -> None:
    for trial in list(record.trials.values()):
        if not trial.state.is_over:
            ended = TrialEnded(trial.id, State.STOPPED, reason)
            journal.append(ended)
            record.apply(ended)


def _conclude(record: Record, folder: StudyFolder, journal: Journal, state: State, reason: str | None = None) -> None:
    """Write the end: the verdict, the report, the last line of the journal."""
    from orchestrator.report import write_report  # matplotlib: not before a study is known to be right

    concluded = results.verdict(record)
    verdict = {"support": concluded.support.value, "sentence": concluded.sentence}
    ended = StudyEnded(state, verdict, reason)
    record.apply(ended)
    write_report(record, folder)
    journal.append(ended)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second ends the process at once."""
    event = threading.Event()

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_nothing_hides_the_packages() -> None:
    """Ray puts the current folder first on its workers' path: a package of our name there would be imported instead."""
    installed = Path(__file__).resolve().parents[1]
    for name in ("orchestrator", "tasks"):
        here = Path.cwd() / name / "__init__.py"
        if here.exists() and here.resolve().parents[1] != installed:
            raise UserError(
                f"the folder {here.parent} would hide the installed package '{name}' from the trials",
                "run from another folder, or rename it",
            )


def _check_disk(root: Path) -> None:
    there = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < _LEAST_FREE_BYTES:
        raise EnvironmentProblem(
            f"{root} has {free / 1e6:.0f} MB left; a study needs at least {_LEAST_FREE_BYTES / 1e6:.0f} MB",
            "make room, or set ORCHESTRATOR_RUNS to a folder on another disk",
        )
