"""One study from start to verdict: cluster, plan, journal, trials, report, tracker, in that order."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from orchestrator import __version__, failures
from orchestrator.analysis import standings
from orchestrator.errors import EnvironmentProblem, FolderBusy, UnknownName, UserError
from orchestrator.history.environment import describe_environment
from orchestrator.history.events import Cause, StudyEnded, StudyResumed, StudyStarted, TrialInterrupted
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import DIED, Journal, is_written, lease_of, load_record
from orchestrator.history.record import Record
from orchestrator.history.states import State
from orchestrator.objectstore import lease
from orchestrator.objectstore.data import digest_of
from orchestrator.running import visibility
from orchestrator.running.driver import Driver
from orchestrator.running.publisher import open_journal
from orchestrator.running.signals import Stop, stop_on_signals
from orchestrator.studies import chain, yamlfile
from orchestrator.studies.plan import Node, Plan, check_fits, finalists, make_plan
from orchestrator.studies.study import BUILTIN, Study
from orchestrator.studies.studyfile import change_study
from orchestrator.tracker.follower import HURRIED_SECONDS, Follower, warm_up
from orchestrator.tuning.schedulers import make_scheduler

_LEAST_FREE_BYTES = 200_000_000


class Display(Protocol):
    """What shows a study while it runs."""

    def start(self, plan: Plan, folder: StudyFolder, record: Record) -> None: ...
    def update(self, stopping: bool = False) -> None: ...
    def stop(self) -> None: ...
    def warn(self, message: str, hint: str) -> None: ...


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
    has finished is kept, what was running is STOPPED and can be resumed, as after a death of this process.
    """
    study = chain.pinned(study, runs)
    _check_can_start(study, runs)
    _check_not_unfinished(study.name, runs)
    folder = runs.new_study(study.name)
    with stop_on_signals() as stop:
        from orchestrator.machines import cluster  # Ray takes seconds to import: not before the checks above

        warm_up(runs, study.to_plain())
        stop.orderly = True  # an exception in the middle of its start can crash Ray
        with cluster.connect() as nodes:
            stop.listen_again()
            plan = make_plan(study, nodes)
            if len(nodes) > 1:
                visibility.check(runs, study.data, cluster.on_every_node)
            with open_journal(folder) as journal:
                if journal.record.uid:
                    raise FolderBusy(f"another run of '{folder.name}' has begun meanwhile", "run it again")
                start = StudyStarted(uuid.uuid4().hex, study.to_plain(), len(plan.trials), data_digest=_digest(study))
                return _Session(plan, folder, runs, journal, stop).run(start, display)


def resume_study(
    name: str, overrides: Sequence[str], runs: Runs, display: Display, retry: Sequence[str] = ()
) -> Outcome:
    """Go on with a study that was interrupted, whose process died, or that is given more trials.

    Finished trials stay; the others go on from their last checkpoints, those of ``retry`` too. Raises `UserError` when
    nothing is left to do, when another process is at it, or when an override would make what has finished incomparable.
    """
    folder = runs.study(name)
    with stop_on_signals() as stop, open_journal(folder) as journal:
        study = change_study(journal.record, overrides)
        _check_can_start(study, runs)
        _check_retries(retry, journal.record, name)
        if not retry:
            _check_something_is_left(study, journal.record, name)
        from orchestrator.machines import cluster

        warm_up(runs, study.to_plain())
        stop.orderly = True  # an exception in the middle of its start can crash Ray
        with cluster.connect() as nodes:
            stop.listen_again()
            plan = make_plan(study, nodes)
            if len(nodes) > 1:
                visibility.check(runs, study.data, cluster.on_every_node)
            start = StudyResumed(study.to_plain(), len(plan.trials), data_digest=_digest(study))
            return _Session(plan, folder, runs, journal, stop, retry).run(start, display)


def close_dead(folder: StudyFolder) -> bool:
    """Write the end of a study whose process died, so that its runs do not say RUNNING; returns whether it was one."""
    record = load_record(folder.journal)
    if record.reason != DIED or record.ended is not None:
        return False
    held = lease.last_seen(lease_of(folder.journal))
    if held is not None and not held.is_here:
        return False  # that machine may have lost its way to the store for a while: who resumes the study decides
    try:
        with open_journal(folder) as journal:
            if journal.record.state is not State.RUNNING:
                return False
            at = journal.record.at  # it ended when it was last heard of, not now
            opened = [t for t in journal.record.trials.values() if not t.state.is_over]
            journal.append(
                *(TrialInterrupted(t.id, Cause.STOPPED, "the study's process died", at=at) for t in opened),
                StudyEnded(State.STOPPED, None, DIED, at=at),
            )
    except FolderBusy:  # somebody has just resumed it
        return False
    return True


class _Session:
    """One driver's work on a study, from its first line in the journal to its last."""

    def __init__(
        self,
        plan: Plan,
        folder: StudyFolder,
        runs: Runs,
        journal: Journal,
        stop: Stop,
        retry: Sequence[str] = (),
    ) -> None:
        self._plan, self._folder, self._runs, self._retry = plan, folder, runs, retry
        self._journal, self._record, self._stop = journal, journal.record, stop

    def run(self, start: StudyStarted | StudyResumed, display: Display) -> Outcome:
        notify, name = self._plan.study.notify, self._folder.name
        if notify is not None and not notify.is_whole:
            display.warn(
                f"nobody will be notified: the journal does not hold the whole of {notify}",
                f"give it again: orchestrator resume {name} notify=URL, or notify='$NAME' of the environment",
            )
            notify = None
        trouble: BaseException | None = None
        try:
            return self._work(start, display)
        except BaseException as error:
            trouble = error
            raise
        finally:
            if notify is not None and (why := notify.deliver(standings.notice(self._record, name, trouble))):
                display.warn(f"nobody was notified by {notify}: {why}", "correct notify in the study for the next time")

    def _work(self, start: StudyStarted | StudyResumed, display: Display) -> Outcome:
        try:
            self._journal.append(start)
            self._journal.settle()  # where nothing can be kept, nothing should be computed
            self._write_provenance()
            follower = Follower(self._folder, self._runs)
            driver = self._drive(display, follower)
            self._conclude(driver)
        except OSError as error:
            if not failures.is_full_disk(error):
                raise
            raise self._disk_full() from error
        if driver.trouble is not None:
            follower.finish(HURRIED_SECONDS)
            raise driver.trouble
        return Outcome(self._folder, self._record, follower.finish(hurry=self._stop))

    def _drive(self, display: Display, follower: Follower) -> Driver:
        from orchestrator.running import trials
        from orchestrator.tuning.search import make_searcher

        scheduler = make_scheduler(self._plan.study, len(self._plan.trials))
        searcher = make_searcher(self._plan)
        driver = Driver(self._plan, self._journal, self._folder, self._runs.cache, searcher, scheduler, self._stop)
        for trial in self._retry:
            driver.retry(trial)
        display.start(self._plan, self._folder, self._record)
        try:
            with self._folder.driver_log.open("a", buffering=1) as chatter, redirect_stderr(chatter):
                trials.run_trials(driver, lambda: display.update(self._stop.is_set()))
        except BaseException as error:
            self._end_open_trials(f"the study broke: {error!r}")
            self._end(State.FAILED, f"it broke: {error!r}")
            follower.finish(HURRIED_SECONDS)
            raise
        finally:
            display.stop()
        return driver

    def _conclude(self, driver: Driver) -> None:
        if driver.cut is not None:
            state, reason = driver.cut
        elif self._stop.is_set():
            state, reason = State.STOPPED, "interrupted"
        else:
            state, reason = State.FINISHED, None
        self._end_open_trials(f"the study stopped: {reason or 'nothing could go on'}")
        self._end(standings.end_state(self._record) if state is State.FINISHED else state, reason)

    def _end_open_trials(self, reason: str) -> None:
        left = [trial for trial in self._record.trials.values() if not trial.state.is_over]
        if left:
            self._journal.append(*(TrialInterrupted(trial.id, Cause.STOPPED, reason) for trial in left))

    def _end(self, state: State, reason: str | None) -> None:
        """The verdict, the page, the last line of the journal: who reads that finds the page."""
        from orchestrator.report.page import write_report  # matplotlib: not before a study is known to be right

        concluded = standings.verdict(self._record)
        verdict = {"support": concluded.support.value, "sentence": concluded.sentence}
        ended = StudyEnded(state, verdict, reason)
        after = replace(self._record)
        after.apply(ended)
        write_report(after, self._folder)
        self._journal.append(ended)

    def _write_provenance(self) -> None:
        self._folder.study.write_text(yamlfile.dump(self._plan.study.to_plain()), encoding="utf-8")
        environment = self._folder.environment_of(self._record.sessions)
        environment.write_text(json.dumps(describe_environment(), indent=2), encoding="utf-8")

    def _disk_full(self) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"the disk of {self._folder.root} is full; what was journaled before is kept",
            f"make room, then: orchestrator resume {self._folder.name}",
        )


def _digest(study: Study) -> str:
    """What tells a study's data from other data: of built-in data who draws it, nothing where none is read."""
    if study.data is None:
        return f"{study.task}-{__version__}" if study.data_name == BUILTIN else ""
    return digest_of(study.data)


def _check_can_start(study: Study, runs: Runs) -> None:
    _check_nothing_hides_the_packages()
    if study.notify is not None:
        study.notify.check()
    if not os.environ.get("RAY_ADDRESS"):
        check_fits(study.resources, [local_node()])
    _check_disk(runs.root)


def _check_not_unfinished(name: str, runs: Runs) -> None:
    """Raise `UserError` when the newest run of this study is not complete: to go on with it must be asked for."""
    folder = runs.newest(name)
    if folder is None or is_written(folder.journal):
        return  # one that runs is refused by `new_study`
    record = load_record(folder.journal)
    if is_unfinished(record):
        over = sum(trial.state.is_over and not trial.is_open for trial in record.trials.values())
        raise UserError(
            f"'{folder.name}' is unfinished: {over} of {record.planned} trials are over"
            + (f" ({record.reason})" if record.reason else ""),
            f"go on with it: orchestrator resume {folder.name}; or start another beside it: name={name}-anew",
        )


def is_unfinished(record: Record) -> bool:
    """Whether a resume would find something to do without being asked for more."""
    searched = [trial for trial in record.trials.values() if trial.of is None]
    if len(searched) < record.planned or any(trial.is_open for trial in record.trials.values()):
        return True
    return any(trial.id not in record.trials for trial in finalists(change_study(record, ()), record))


def _check_retries(trials: Sequence[str], record: Record, name: str) -> None:
    for id in trials:
        if id not in record.trials:
            raise UnknownName("trial", id, record.trials, f"study '{name}'")
        if record.trials[id].state is State.FINISHED:
            raise UserError(f"{id} has finished; its result stays")


def _check_something_is_left(study: Study, record: Record, name: str) -> None:
    """Raise `UserError` when every trial that the study asks for is over."""
    if is_unfinished(record) or study != change_study(record, ()):
        return
    raise UserError(
        f"'{name}' is complete: {len(record.trials)} of {record.planned} trials are over",
        f"extend it: orchestrator resume {name} search.trials={2 * record.planned}"
        if not study.search.scheduler.kind.is_synchronous
        else "run it again under another name: name=NEW",
    )


def _check_nothing_hides_the_packages() -> None:
    """Ray puts the current folder first on its workers' path: a package of our name there would be imported instead."""
    installed = Path(__file__).resolve().parents[2]
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
