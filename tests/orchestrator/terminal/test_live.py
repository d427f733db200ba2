"""What is said while a study runs."""

from __future__ import annotations

import os

import pytest

from orchestrator.history.events import (
    Cause,
    StudyResumed,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialPlaced,
    TrialStarted,
)
from orchestrator.history.folder import StudyFolder
from orchestrator.history.record import Record
from orchestrator.history.states import State
from orchestrator.studies.plan import Node, make_plan
from orchestrator.studies.studyfile import build
from orchestrator.terminal import live


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Starts a display of a study of 3 trials in which some events have happened.

    Returns a function that lets more happen and gives the lines that are said of it.
    """
    monkeypatch.setattr(live, "_REFRESH_SECONDS", 0.0)
    plan = make_plan(build({"task": "toy", "search": {"trials": 3}}), [Node("here", 1, 0)])
    plain, record, display = plan.study.to_plain(), Record(), live.LiveStudy()

    def apply(*events):
        for event in events:
            record.apply(event)

    def started(*events):
        apply(StudyStarted("uid", plain, 3), *events)
        display.start(plan, StudyFolder(tmp_path), record)
        capsys.readouterr()

        def happens(*events):
            apply(*events)
            display.update()
            return [line.split()[:2] for line in capsys.readouterr().out.splitlines()]

        return happens

    started.resumed = StudyResumed(plain, 3)
    return started


def test_each_end_is_said_once(show):
    happens = show()
    assert happens(begins("t0000"), begins("t0001")) == []
    assert happens(ends("t0001")) == [["1/3", "t0001"]]
    assert happens() == []
    assert happens(begins("t0002"), ends("t0002"), ends("t0000")) == [["2/3", "t0000"], ["3/3", "t0002"]]


def test_each_new_attempt_is_said_once(show):
    happens = show(begins("t0000"))
    assert happens(TrialInterrupted("t0000", Cause.FAILED, "it broke")) == [["t0000", "is"]]
    assert happens(TrialContinued("t0000", 2)) == []
    assert happens(ends("t0000")) == [["1/3", "t0000"]]


def test_of_a_resumed_study_only_what_is_new_is_said(show):
    happens = show(begins("t0000"), ends("t0000"), begins("t0001"), show.resumed)
    assert happens(TrialContinued("t0001", 2)) == []
    assert happens(ends("t0001")) == [["2/3", "t0001"]]


def test_why_nothing_begins_is_said_once(show, monkeypatch):
    monkeypatch.setattr(live, "_PATIENCE_SECONDS", 0.0)
    happens = show()
    assert happens() == [["no", "trial"]]
    assert happens() == []


def test_of_what_has_begun_nothing_is_said(show, monkeypatch):
    happens = show(begins("t0000"))
    assert happens() == []  # not before its time
    monkeypatch.setattr(live, "_PATIENCE_SECONDS", 0.0)
    assert happens(TrialPlaced("t0000", "here", 1)) == []
    assert happens(TrialInterrupted("t0000", Cause.LOST, "it died")) == []


@pytest.mark.parametrize(
    ("processors", "says"), [(None, "no free place"), (8, "still starting"), (2, "RAY_worker_niceness=0")]
)
def test_why_nothing_begins(processors, says, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (5.2, 0, 0))
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert says in live._why_none([] if processors is None else ["t0000"])


def begins(trial):
    return TrialStarted(trial, 0, {}, ())


def ends(trial):
    return TrialEnded(trial, State.FINISHED, None, {"loss": 1.0})
