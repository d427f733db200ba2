from __future__ import annotations

import math

import pytest

from orchestrator import results
from orchestrator.journal import Record, Reported, TrialRecord
from orchestrator.states import State


def record_of(goal, *trials):
    """``record_of("max", (State.FINISHED, 0.5), …)``; the ids are t0000, t0001, …"""
    record = Record(study={"task": "toy", "search": {"metric": "m", "goal": goal}}, planned=len(trials))
    for index, (state, value) in enumerate(trials):
        trial = TrialRecord(f"t{index:04d}", 0, {}, (), started=0.0, state=state, ended=1.0)
        if value is not None:
            trial.reports = [Reported(trial.id, 1, {"m": value, "m_low": value - 1, "m_high": value + 1})]
        record.trials[trial.id] = trial
    return record


def order(record):
    return [entry.trial for entry in results.leaderboard(record)]


@pytest.mark.parametrize(
    ("goal", "best_first"), [("max", ["t0001", "t0002", "t0000"]), ("min", ["t0000", "t0002", "t0001"])]
)
def test_the_goal_says_which_end_is_first(goal, best_first):
    record = record_of(goal, (State.FINISHED, 1.0), (State.FINISHED, 3.0), (State.FINISHED, 2.0))
    assert order(record) == best_first
    assert results.best(record).id == best_first[0]
    assert results.best_so_far(record) == (3.0 if goal == "max" else 1.0)
    assert results.leaderboard(record)[1].interval == (1.0, 3.0)


def test_finished_trials_stand_before_pruned_ones_and_those_without_a_result_last():
    record = record_of(
        "max",
        (State.FAILED, math.inf),
        (State.PRUNED, 9.0),
        (State.FINISHED, 1.0),
        (State.STOPPED, 5.0),
        (State.FAILED, None),
    )
    assert order(record) == ["t0002", "t0001", "t0003", "t0000", "t0004"]
    assert [entry.value for entry in results.leaderboard(record)] == [1.0, 9.0, 5.0, None, None]


def test_without_a_finished_trial_there_is_no_best():
    record = record_of("max", (State.PRUNED, 9.0), (State.FAILED, math.nan))
    assert results.best(record) is None
    assert "nothing to conclude" in results.verdict(record).sentence
    assert results.end_state(record) is State.FINISHED
    assert results.end_state(record_of("max", (State.FAILED, None))) is State.FAILED
