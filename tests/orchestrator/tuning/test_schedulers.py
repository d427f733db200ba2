"""Early stopping report by report, decided as Ray Tune decides it; and which study has which scheduler."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

from orchestrator.history.events import StudyStarted, TrialStarted
from orchestrator.history.record import replay
from orchestrator.studies.plan import trial_id
from orchestrator.studies.study import SchedulerKind
from orchestrator.tuning.schedulers import Asha, Fifo, Hyperband, Median, Pbt, _quantile, make_scheduler
from tasks.api import Goal, Uniform

GOALS = st.sampled_from(Goal)
# Few values, so that ties are common, and any others. Whole numbers: sums are exact whatever their order.
VALUES = st.one_of(st.integers(-3, 3).map(float), st.integers(-1000, 1000).map(float))


@dataclass(eq=False)
class TuneTrial:
    trial_id: str


class Tune:
    """One of Ray Tune's schedulers behind our interface."""

    def __init__(self, scheduler):
        self._scheduler, self._trials = scheduler, {}

    def on_report(self, trial, step, value):
        if trial not in self._trials:
            self._trials[trial] = TuneTrial(trial)
            self._scheduler.on_trial_add(None, self._trials[trial])
        runner = SimpleNamespace(get_live_trials=list)
        result = {"training_iteration": step, "loss": value}
        return self._scheduler.on_trial_result(runner, self._trials[trial], result) == "CONTINUE"


def tune(kind, goal, **options):
    return Tune(kind(time_attr="training_iteration", metric="loss", mode=str(goal), **options))


@st.composite
def streams(draw, steps, stride=1):
    """Reports of several trials, interleaved; each trial's steps increase by up to ``stride``."""
    order = draw(st.lists(st.integers(0, draw(st.integers(1, 8))), max_size=steps))
    at, reports = Counter(), []
    for index in order:
        at[index] += draw(st.integers(1, stride)) if stride > 1 else 1
        reports.append((trial_id(index), at[index], draw(VALUES)))
    return reports


def decisions(scheduler, reports):
    """What is decided on each report; a trial that was stopped reports no more."""
    stopped, decided = set(), []
    for trial, step, value in reports:
        if trial not in stopped:
            goes_on = scheduler.on_report(trial, step, value)
            decided.append((trial, step, goes_on))
            stopped |= set() if goes_on else {trial}
    return decided


def told_by_trial(scheduler, reports):
    """The scheduler after it was told what was reported, one trial after the other."""
    for report in sorted(reports, key=lambda report: report[0], reverse=True):
        scheduler.on_report(*report)
    return scheduler


# ------------------------------------------------------------------------------------------------------------- Asha


@given(streams(80, stride=4), GOALS, st.integers(1, 4), st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_asha_decides_as_tune_does(reports, goal, grace, reduction):
    theirs = tune(ASHAScheduler, goal, max_t=10**9, grace_period=grace, reduction_factor=reduction, brackets=1)
    assert decisions(Asha(goal, grace, reduction), reports) == decisions(theirs, reports)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(2, 7))
@settings(max_examples=150, deadline=None)
def test_asha_rounds_a_cutoff_as_tune_does(values, reduction):
    quantile = Asha(Goal.MAX, 1, reduction)._quantile
    assert _quantile(sorted(values), quantile) == np.nanpercentile(values, (1 - 1 / reduction) * 100)


def test_asha_stops_the_worse_and_its_rungs_have_no_end():
    asha = Asha(Goal.MAX, grace=1, reduction=2)
    assert [asha.on_report(trial_id(i), 1, value) for i, value in enumerate([3, 1, 2, 4])] == [True, False, True, True]
    assert asha.on_report("t0000", 2**20, 1.0)
    assert not asha.on_report("t0003", 2**20, 0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [lambda: Asha(Goal.MIN, 1, 2), lambda: Median(Goal.MIN, 1, 1)])
def test_what_is_not_finite_stops_and_moves_no_cutoff(make, value):
    scheduler, untold = make(), make()
    assert not scheduler.on_report("t0009", 1, value)
    reports = [("t0000", 1, 1.0), ("t0001", 1, 2.0), ("t0002", 1, 0.5)]
    assert decisions(scheduler, reports) == decisions(untold, reports)


# ----------------------------------------------------------------------------------------------------------- Median


@given(streams(80), GOALS, st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_median_decides_as_tune_does_where_every_step_is_reported(reports, goal, grace, min_trials):
    theirs = tune(MedianStoppingRule, goal, grace_period=grace, min_samples_required=min_trials)
    assert decisions(Median(goal, grace, min_trials), reports) == decisions(theirs, reports)


def test_median_compares_the_best_so_far_with_the_others_averages():
    median = Median(Goal.MAX, grace=1, min_trials=2)
    for trial, values in [("t0000", (0, 4)), ("t0001", (3, 3))]:  # averages at step 2: 2 and 3
        assert all(median.on_report(trial, step, value) for step, value in enumerate(values, 1))
    assert median.on_report("t0002", 1, 1.5)  # the median of 0 and 3, no worse
    assert not median.on_report("t0002", 2, 2.0)  # 2 < 2.5
    median.on_report("t0003", 1, 2.5)
    assert median.on_report("t0003", 2, -9)  # its best counts; the median of 2, 3 and 1.75 is 2


def test_equal_trials_do_not_stop_each_other_by_rounding():
    median = Median(Goal.MAX, grace=1, min_trials=1)  # 0.1 + 0.1 + 0.1 > 3 * 0.1
    assert all(median.on_report(trial_id(i), step, 0.1) for i in range(5) for step in range(1, 30))


@pytest.mark.parametrize("make", [lambda: Asha(Goal.MAX, 1, 2), lambda: Median(Goal.MAX, 1, 1)])
def test_a_report_that_is_told_twice_counts_once(make):
    once, twice = make(), make()
    for report in [("t0000", 1, 1.0), ("t0001", 1, 3.0), ("t0000", 2, 2.0)]:
        assert once.on_report(*report) == twice.on_report(*report)
    for _ in range(3):
        assert twice.on_report("t0001", 1, 3.0)
    for value in (0.5, 1.5, 2.5):
        assert once.on_report(f"t{value}", 1, value) == twice.on_report(f"t{value}", 1, value)


@pytest.mark.parametrize("make", [lambda goal: Asha(goal, 1, 2), lambda goal: Median(goal, 2, 2)])
def test_a_rebuilt_scheduler_decides_as_the_one_that_died(make):
    @given(streams(60), streams(30), GOALS)
    @settings(max_examples=100, deadline=None)
    def check(before, after, goal):
        last = {trial: step for trial, step, _ in before}
        after = [(trial, step + last.get(trial, 0), value) for trial, step, value in after]
        alive = make(goal)
        for report in before:
            alive.on_report(*report)
        rebuilt = told_by_trial(make(goal), before)
        assert decisions(rebuilt, after) == decisions(alive, after)

    check()


# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"), [("none", Fifo), ("asha", Asha), ("median", Median), ("hyperband", Hyperband), ("pbt", Pbt)]
)
def test_every_kind_of_study_has_its_scheduler(kind, expected):
    options = SimpleNamespace(
        kind=SchedulerKind(kind),
        grace=1,
        reduction=3,
        min_trials=3,
        max_steps=9,
        interval=2,
        quantile=0.25,
        resample=0.2,
    )
    study = SimpleNamespace(
        seed=0, search=SimpleNamespace(goal=Goal.MIN, space={"x": Uniform(0, 1)}, scheduler=options)
    )
    assert type(make_scheduler(study, 4)) is expected


def test_fifo_lets_everything_run():
    fifo, record = Fifo(), replay([StudyStarted("u", {"search": {"metric": "loss"}}, 1)])
    record.apply(TrialStarted("t0000", 0, {}, ()))
    assert fifo.pause_at(record.trials["t0000"]) is None
    assert all(fifo.on_report("t0000", step, float(step)) for step in range(1, 10))
    assert fifo.moves(record) == []
