"""An attempt ends with exactly one word to the driver, also when it is not its task that breaks."""

from __future__ import annotations

import sys

from orchestrator.history.events import TrialEnded
from orchestrator.history.states import State
from orchestrator.trial import trialfiles
from orchestrator.trial.logs import log_to
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt
from tasks.api import Goal


def test_what_breaks_around_the_task_fails_the_attempt(tmp_path, monkeypatch):
    def breaks(folder):
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(trialfiles, "publish", breaks)
    folder = tmp_path / "toy" / "trials" / "t0000"
    folder.parents[1].mkdir()
    spec = TrialSpec("t0000", 1, "toy", 1, {"steps": 1}, "loss", Goal.MIN, None, tmp_path / "cache", folder, gpus=0)
    attempt, events = Attempt(spec), []
    for _ in range(100):
        events += attempt.next(1.0)
        if any(isinstance(event, TrialEnded) for event in events):
            break
    assert [event.state for event in events if isinstance(event, TrialEnded)] == [State.FAILED]
    assert "closed file" in events[-1].reason
    assert attempt.stop(5)


def test_logs_that_end_in_another_order_leave_the_output_open(tmp_path):
    out, err = sys.stdout, sys.stderr
    first, second = log_to(tmp_path / "first"), log_to(tmp_path / "second")
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        print("of the second")
        second.__exit__(None, None, None)
        assert not sys.stdout.closed
        assert not sys.stderr.closed
    finally:
        sys.stdout, sys.stderr = out, err
    assert (tmp_path / "second").read_text() == "of the second\n"
