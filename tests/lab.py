"""A driver and its workers without Ray: one process, attempts in threads, and drivers that die where a test says."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from orchestrator.history.events import StudyResumed, StudyStarted
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import Journal, lease_of, load_record
from orchestrator.objectstore import lease, parts
from orchestrator.running.driver import Driver
from orchestrator.running.publisher import Publisher
from orchestrator.studies.plan import Node, make_plan
from orchestrator.studies.studyfile import build, change_study
from orchestrator.trial.worker import Attempt
from orchestrator.tuning.schedulers import make_scheduler
from orchestrator.tuning.search import make_searcher


class Killed(BaseException):
    """The driver's death."""


class MortalJournal(Journal):
    """Dies after a number of events; nothing is written any more, as after a SIGKILL."""

    left = 10**9

    def append(self, *events):
        if self.left < len(events):
            self.left = 0
            raise Killed
        self.left -= len(events)
        super().append(*events)


def session(
    root: Path, raw=None, overrides=(), dies_after=10**9, between=lambda driver: None, cpus=1, gpus=0, mirror=None
):
    """One session of a study in ``root``: begins it, or resumes it when it is there. Returns its driver.

    ``between`` is called between two steps of the driver. With a ``mirror`` a death leaves at its URL what is there.
    """
    folder = StudyFolder(root, mirror)
    with opened(folder) as journal:
        study = build({"task": "toy", **raw}) if raw else change_study(journal.record, overrides)
        plan = make_plan(study, [Node("here", cpus, gpus)])
        start = StudyStarted("uid", study.to_plain(), len(plan.trials))
        journal.append(start if raw else StudyResumed(study.to_plain(), len(plan.trials)))
        journal.settle()
        journal.left = dies_after
        stop = threading.Event()
        scheduler, searcher = make_scheduler(study, len(plan.trials)), make_searcher(plan)
        live: dict[str, Attempt] = {}
        try:
            driver = Driver(plan, journal, folder, root / "cache", searcher, scheduler, stop)
            driver.kill = lambda trial: live[trial].stop(5)
            work(driver, live, between)
        finally:
            for attempt in live.values():
                attempt.stop(5)
    return driver


@contextlib.contextmanager
def opened(folder):
    """As `publisher.open_journal`, but for a death, after which nothing is sent any more."""
    if folder.mirror is None:
        with MortalJournal(folder.journal) as journal:
            yield journal
        return
    held = lease.take(folder.mirror, lease_of(folder.journal))
    sofar = parts.obtain_journal(folder.mirror, folder.journal)
    with MortalJournal(folder.journal) as journal:
        publisher = Publisher(folder, folder.mirror, journal, held, sofar)
        journal.settle = publisher.settle
        try:
            yield journal
            publisher.finish(10)
        finally:
            publisher.abandon()
            held.release()


def work(driver, live, between):
    while not driver.finished:
        while (spec := driver.next()) is not None:
            live[spec.id] = Attempt(spec)
        for id, attempt in list(live.items()):
            if not driver.heard(id, attempt.spec.attempt, attempt.next(0.1)):
                attempt.stop(5)
                del live[id]
                driver.gone(id)
        driver.tick()
        between(driver)
        if driver.stop.is_set():
            for id in list(live):
                live.pop(id).stop(5)
                driver.gone(id)


def run_with_deaths(root: Path, raw, deaths):
    """A whole study whose driver dies after each of these numbers of events, and is resumed each time."""
    resumed = False
    for dies_after in [*deaths, 10**9]:
        try:
            session(root, None if resumed else raw, dies_after=dies_after)
        except Killed:
            pass
        else:
            break
        resumed = True
    return load_record(StudyFolder(root).journal)
