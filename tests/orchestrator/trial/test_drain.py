"""Attempts whose node is about to be taken away leave at a checkpoint. Without Ray."""

from __future__ import annotations

import random
from collections import Counter

import lab
import pytest

from orchestrator.history import checkpoint
from orchestrator.history.events import Cause, ItemsDone, Saved, TrialEnded, TrialInterrupted
from orchestrator.history.folder import StudyFolder, TrialFolder
from orchestrator.history.journal import load_record, read
from orchestrator.history.states import State
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt
from tasks.api import Goal

SPACE = {"x": {"uniform": [-1, 1]}}
WALK = {"steps": 6, "saves": True, "noise": 0.1}
SEARCH = {"algorithm": "random", "trials": 4, "space": SPACE}
STUDIES = {
    "random": {"search": SEARCH, "params": WALK},
    "pbt": {"search": {**SEARCH, "scheduler": {"pbt": {"interval": 2}}}, "params": WALK},
    "hyperband": {
        "search": {**SEARCH, "trials": 9, "scheduler": {"hyperband": {"max_steps": 9}}},
        "params": {**WALK, "steps": 9},
    },
    "without checkpoints": {"search": SEARCH, "params": {**WALK, "saves": False}},
}


def attempt_at(root, task="toy", metric="loss", **params) -> Attempt:
    cache, folder = root / "cache", root / "t0000"
    return Attempt(TrialSpec("t0000", 1, task, 7, params, metric, Goal.MIN, None, cache, folder, gpus=0))


def run_out(attempt: Attempt) -> list:
    """What it says from now on until it ends by itself."""
    said = attempt.next(0.1)
    while attempt._thread.ident is None or attempt._thread.is_alive():
        said += attempt.next(0.1)
    return said + attempt.next(0.1)


def test_it_leaves_at_its_next_checkpoint(tmp_path):
    gate = tmp_path / "gate"
    attempt = attempt_at(tmp_path, **WALK, wait_for=str(gate))
    while not any(isinstance(event, Saved) for event in attempt.next(0.1)):
        pass
    attempt.leave()
    gate.touch()
    *said, end = run_out(attempt)
    assert [(event.kind, event.step) for event in said] == [("reported", 2), ("saved", 2)]
    assert (end.kind, end.cause, end.reason) == ("trial_interrupted", Cause.DRAINED, "its node is being drained")
    folder = TrialFolder(tmp_path / "t0000")
    assert checkpoint.load_last(folder.checkpoint).step == 2
    assert (folder.artifacts / "executed.txt").read_text().split() == ["1", "2"]


def test_without_a_checkpoint_there_is_nothing_to_leave_with(tmp_path):
    attempt = attempt_at(tmp_path, **{**WALK, "saves": False})
    attempt.leave()
    end = run_out(attempt)[-1]
    assert isinstance(end, TrialEnded)
    assert end.state is State.FINISHED


def test_one_that_maps_leaves_when_items_are_done(tmp_path):
    attempt = attempt_at(tmp_path, "many", "total", items=12, size=10)
    attempt.next(0.1)
    attempt.leave()
    said = run_out(attempt)
    assert [type(event) for event in said[-2:]] == [ItemsDone, TrialInterrupted]
    assert sum(isinstance(event, ItemsDone) for event in said) == 1


def outcome(record):
    return {
        t.id: (t.seed, t.params, t.now, t.state, t.final, t.last, list(t.curve.steps), list(t.curve.values))
        for t in record.trials.values()
    }


def drained_at_random(round: int):
    """As `lab.work`; seeded attempts are told to leave, after a seeded number of their messages."""
    asked: Counter[tuple[str, int]] = Counter()

    def work(driver, live, between):
        while not driver.finished:
            while (spec := driver.next()) is not None:
                live[spec.id] = Attempt(spec)
            for id, attempt in list(live.items()):
                key = id, attempt.spec.attempt
                if asked[key] == random.Random(f"{round} {key}").randrange(4):
                    attempt.leave()
                asked[key] += 1
                if not driver.heard(id, attempt.spec.attempt, attempt.next(0.1)):
                    attempt.stop(5)
                    del live[id]
                    driver.gone(id)
            driver.tick()

    return work


@pytest.mark.parametrize("name", STUDIES)
def test_drains_change_nothing_and_cost_no_step(name, tmp_path, monkeypatch):
    """What the study finds is the same, no attempt counts as failed, and no step is computed twice."""
    lab.session(tmp_path / "whole", STUDIES[name])
    whole = load_record(StudyFolder(tmp_path / "whole").journal)
    drained = 0
    for round in range(4):
        root = StudyFolder(tmp_path / str(round))
        monkeypatch.setattr(lab, "work", drained_at_random(round))
        lab.session(root.root, STUDIES[name])
        record = load_record(root.journal)
        assert outcome(record) == outcome(whole)
        causes = [event.cause for event, _ in read(root.journal) if isinstance(event, TrialInterrupted)]
        assert set(causes) <= {Cause.DRAINED, Cause.PAUSED}
        assert not any(trial.failures for trial in record.trials.values())
        drained += causes.count(Cause.DRAINED)
        for trial in record.trials:
            executed = (root.trial(trial).artifacts / "executed.txt").read_text().split()
            assert len(executed) == len(set(executed)), trial
    assert (drained > 0) == (name != "without checkpoints")
