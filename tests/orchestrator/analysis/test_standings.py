from __future__ import annotations

import math

import pytest

from orchestrator.analysis import standings
from orchestrator.history.events import Cause
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from tasks.api import Support


def record_of(goal, *trials):
    """``record_of("max", (State.FINISHED, 0.5), …)``; the ids are t0000, t0001, …"""
    record = Record(study={"task": "toy", "search": {"metric": "m", "goal": goal}}, planned=len(trials))
    for index, (state, value) in enumerate(trials):
        trial = TrialRecord(f"t{index:04d}", 0, {}, (), started=0.0, state=state, ended=1.0)
        if value is not None:
            trial.last = {"m": value, "m_low": value - 1, "m_high": value + 1}
        record.trials[trial.id] = trial
    return record


def run_again(record, of, *values):
    """Finished runs of a finalist on the seeds 0, 1, …"""
    for seed, value in enumerate(values):
        trial = TrialRecord(f"{of}-s{seed}", seed, {"x": 1}, ("x",) * (of != "defaults"), 0.0, of=of)
        trial.state, trial.final = State.FINISHED, {"m": value}
        record.trials[trial.id] = trial


def order(record):
    return [entry.trial for entry in standings.leaderboard(record)]


@pytest.mark.parametrize(
    ("goal", "best_first"), [("max", ["t0001", "t0002", "t0000"]), ("min", ["t0000", "t0002", "t0001"])]
)
def test_the_goal_says_which_end_is_first(goal, best_first):
    record = record_of(goal, (State.FINISHED, 1.0), (State.FINISHED, 3.0), (State.FINISHED, 2.0))
    assert order(record) == best_first
    assert standings.best(record).id == best_first[0]
    assert standings.best_so_far(record) == (3.0 if goal == "max" else 1.0)
    assert standings.leaderboard(record)[1].interval == (1.0, 3.0)


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
    assert [entry.value for entry in standings.leaderboard(record)] == [1.0, 9.0, 5.0, None, None]


def test_without_a_finished_trial_there_is_no_best():
    record = record_of("max", (State.PRUNED, 9.0), (State.FAILED, math.nan))
    assert standings.best(record) is None
    assert "nothing to conclude" in standings.verdict(record).sentence
    assert standings.end_state(record) is State.FINISHED
    assert standings.end_state(record_of("max", (State.FAILED, None))) is State.FAILED


def test_more_failures_than_allowed_fail_the_study():
    record = record_of("max", (State.FINISHED, 1.0), (State.FAILED, None), (State.FAILED, None))
    record.study["failures"] = {"max_failures": 2}
    assert standings.end_state(record) is State.FINISHED
    record.study["failures"]["max_failures"] = 1
    assert standings.end_state(record) is State.FAILED
    record.study["failures"]["max_failures"] = None
    assert standings.end_state(record) is State.FINISHED


def test_a_trial_that_waits_to_go_on_is_ranked_by_what_it_reported():
    record = record_of("max", (State.STOPPED, 1.0), (State.PENDING, 2.0), (State.RUNNING, 0.0))
    record.trials["t0001"].cause = Cause.FAILED
    assert order(record) == ["t0002", "t0001", "t0000"]


def test_finalists_stand_above_all_others_by_their_mean_over_fresh_seeds():
    record = record_of("max", (State.FINISHED, 9.0), (State.FINISHED, 8.0), (State.FINISHED, 7.0), (State.PRUNED, 9.9))
    run_again(record, "t0000", 4.0, 6.0)  # it was lucky
    run_again(record, "t0001", 6.0, 7.0)
    run_again(record, "defaults", 1.0, 2.0)
    board = standings.leaderboard(record)
    assert [e.trial for e in board] == ["t0001", "t0000", "defaults", "t0002", "t0003"]
    assert [e.rank for e in board] == [1, 2, 3, 4, 5]
    assert [(e.value, e.seeds) for e in board] == [(6.5, 2), (5.0, 2), (1.5, 2), (7.0, None), (9.9, None)]
    assert board[0].interval == pytest.approx((6.5 - 12.7062 / 2, 6.5 + 12.7062 / 2), rel=1e-4)  # t(0.975, 1) s/√2
    assert (board[2].params, board[2].state) == ({}, State.FINISHED)
    assert standings.best(record).id == "t0001"
    assert standings.best_so_far(record) == 9.9


def test_where_the_defaults_win_the_best_is_the_first_of_their_runs():
    record = record_of("min", (State.FINISHED, 1.0))
    run_again(record, "t0000", 4.0, 6.0)
    run_again(record, "defaults", 1.0, 2.0)
    assert standings.best(record).id == "defaults-s0"


def test_one_run_of_a_finalist_is_no_mean_yet():
    record = record_of("max", (State.FINISHED, 9.0), (State.FINISHED, 8.0))
    run_again(record, "t0001", 50.0)
    assert order(record) == ["t0000", "t0001"]
    assert standings.leaderboard(record)[0].seeds is None


def test_finalists_give_the_verdict_once_two_can_be_compared():
    record = record_of("max", (State.FINISHED, 9.0), (State.FAILED, None), (State.FINISHED, 9.5))
    run_again(record, "t0000", 40.0, 60.0, 50.0)
    assert (
        standings.verdict(record).sentence == "t0002 leads with m 9.5"
    )  # of the search: a run again is no trial of it
    run_again(record, "defaults", 10.0, 31.0, 20.0)
    assert standings.verdict(record).support is Support.SUPPORTED
    assert "t0000 leads with a mean m of 50" in standings.verdict(record).sentence


def test_the_summary_counts_runs_of_finalists_as_they_come():
    record = record_of("max", (State.FINISHED, 9.0), (State.RUNNING, 1.0))
    assert [standings.summary(record, "toy")[key] for key in ("trials", "done", "best")] == [2, 1, 9.0]
    run_again(record, "t0000", 40.0)
    assert [standings.summary(record, "toy")[key] for key in ("trials", "done", "best")] == [3, 2, 9.0]


def test_the_time_of_a_trial_leaves_out_the_pauses_between_its_attempts():
    record = record_of("max", (State.FINISHED, 9.0), (State.FINISHED, 8.0), (State.FINISHED, 7.0))
    for trial, seconds in zip(record.trials.values(), (5.0, 6.0, 7.0), strict=True):
        trial.ended, trial.seconds = 1e6, seconds
    assert standings.seconds_per_trial(record) == 6.0
