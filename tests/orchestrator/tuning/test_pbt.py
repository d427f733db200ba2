"""Population-based training on studies in memory, whose trials wait for each other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedulersim import DEFAULTS, SPACE, Sim, end, params_of, pbt, shuffled

from orchestrator.history.events import (
    Cause,
    Mutated,
    Reported,
    Saved,
    TrialContinued,
    TrialInterrupted,
    TrialStarted,
)
from orchestrator.history.states import State
from orchestrator.studies.plan import trial_id
from orchestrator.tuning.schedulers import Go, Mutate, Pbt, _perturbed
from tasks.api import Choice, Goal, IntRange, LogUniform, Uniform

GOALS = st.sampled_from(Goal)


def at_barrier(scheduler, trials, value=lambda i, step: float(i), **options):
    sim = Sim(scheduler, trials, value, 8, params=params_of, **options)
    for i in reversed(range(trials)):
        assert scheduler.moves(sim.record) == []
        sim.advance(trial_id(i))
    return sim


def active(params):
    chosen = {}
    for name, dimension in SPACE.items():
        if dimension.active(chosen):
            chosen[name] = params[name]
    return chosen


@pytest.mark.parametrize("goal", Goal)
def test_the_worst_quantile_takes_over_from_the_best(goal):
    sim = at_barrier(pbt(10, goal, quantile=0.3), 10)
    moves = sim.scheduler.moves(sim.record)
    low, high = {"t0000", "t0001", "t0002"}, {"t0007", "t0008", "t0009"}
    best, worst = (low, high) if goal is Goal.MIN else (high, low)
    assert [type(move) for move in moves] == [Mutate] * 3 + [Go] * 7
    assert {move.trial for move in moves[:3]} == worst
    assert {move.parent for move in moves[:3]} <= best
    assert len({move.trial for move in moves}) == 10
    assert sim.scheduler.moves(shuffled(sim.record)) == moves
    for applied in range(10):  # a driver that dies half way leaves the same to do
        assert set(map(repr, moves[applied:])) <= set(map(repr, sim.scheduler.moves(sim.record)))
        sim.apply(moves[applied])
        assert Go(moves[applied].trial) in sim.scheduler.moves(sim.record)
        sim.record.apply(TrialContinued(moves[applied].trial, 2))
    assert sim.scheduler.moves(sim.record) == []


def test_parents_are_drawn_from_all_of_the_best():
    parents = set()
    for seed in range(40):
        sim = at_barrier(pbt(8, quantile=0.5, seed=seed), 8)
        parents |= {move.parent for move in sim.scheduler.moves(sim.record) if isinstance(move, Mutate)}
    assert parents == {"t0000", "t0001", "t0002", "t0003"}


@pytest.mark.parametrize(
    ("trials", "quantile", "mutated"),
    [(1, 0.5, 0), (2, 0.25, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.9, 2), (100, 0.29, 29)],
)
def test_never_more_than_half_are_replaced(trials, quantile, mutated):
    moves = (sim := at_barrier(pbt(trials, quantile=quantile), trials)).scheduler.moves(sim.record)
    assert sum(isinstance(move, Mutate) for move in moves) == mutated
    assert len(moves) == trials


def test_without_a_checkpoint_there_is_no_parent():
    sim = at_barrier(pbt(8), 8, saves=False)
    assert sim.scheduler.moves(sim.record) == [Go(trial_id(i)) for i in range(8)]
    sim.record.apply(Saved("t0001", 1))  # of an earlier step
    assert sim.scheduler.moves(sim.record) == [Go(trial_id(i)) for i in range(8)]
    sim.record.apply(Saved("t0001", 2))
    mutations = [m for m in sim.scheduler.moves(sim.record) if isinstance(m, Mutate)]
    assert [(m.trial, m.parent) for m in mutations] == [("t0006", "t0001"), ("t0007", "t0001")]


def test_those_that_are_over_hold_nobody_up_and_are_not_ranked():
    sim = at_barrier(pbt(8), 8)
    for id, state in [("t0000", State.FAILED), ("t0001", State.STOPPED), ("t0007", State.FINISHED)]:
        end(sim.record, id, state)
    moves = sim.scheduler.moves(sim.record)
    assert [(m.trial, m.parent) for m in moves if isinstance(m, Mutate)] == [("t0006", "t0002")]
    assert len(moves) == 5


def test_who_has_gone_on_still_counts_but_is_no_parent():
    sim = at_barrier(pbt(8), 8)
    sim.record.apply(TrialContinued("t0000", 2))
    moves = sim.scheduler.moves(sim.record)
    assert [(m.trial, m.parent) for m in moves if isinstance(m, Mutate)] == [("t0006", "t0001"), ("t0007", "t0001")]
    sim.record.apply(Reported("t0000", 3, {"loss": 100.0}))
    end(sim.record, "t0000", State.FINISHED)
    assert sim.scheduler.moves(sim.record) == moves
    sim.record.apply(TrialContinued("t0001", 2))
    assert not any(isinstance(move, Mutate) for move in sim.scheduler.moves(sim.record))


def test_each_trial_and_each_barrier_draws_its_own():
    sim, drawn = at_barrier(pbt(12, resample=1.0), 12), []
    for _ in range(3):
        for move in sim.scheduler.moves(sim.record):
            sim.apply(move)
            drawn += [move.params["lr"]] if isinstance(move, Mutate) else []
        for i in range(12):
            sim.advance(trial_id(i))
    assert len(set(drawn)) == 9


def test_a_wait_for_a_barrier_that_is_no_more_ends():
    sim = at_barrier(pbt(4), 4)
    assert pbt(4, interval=5).moves(sim.record) == [Go(trial_id(i)) for i in range(4)]


def test_equal_trials_are_ranked_by_id():
    sim = at_barrier(pbt(8), 8, value=lambda i, step: 0.0)
    mutated = [move for move in sim.scheduler.moves(sim.record) if isinstance(move, Mutate)]
    assert [move.trial for move in mutated] == ["t0006", "t0007"]
    assert {move.parent for move in mutated} <= {"t0000", "t0001"}


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=60, deadline=None)
def test_mutations_keep_to_bounds_options_and_conditions(seed, resample):
    sim = at_barrier(pbt(8, quantile=0.5, resample=resample, seed=seed), 8)
    for move in sim.scheduler.moves(sim.record)[:4]:
        parent = params_of(int(move.parent[1:]))
        assert set(move.params) == set(DEFAULTS)
        now, before = active(move.params), active(parent)
        for name in set(DEFAULTS) - set(now):
            assert move.params[name] == parent[name]
        for name, value in now.items():
            dimension = SPACE[name]
            if isinstance(dimension, Choice):
                assert value in dimension.options
                near = abs(dimension.options.index(value) - dimension.options.index(parent[name])) == 1
            else:
                assert dimension.low <= value <= dimension.high
                assert isinstance(value, int) == isinstance(dimension, IntRange)
                exact = {min(dimension.high, max(dimension.low, parent[name] * f)) for f in (0.8, 1.2)}
                close = isinstance(value, int) and (abs(value - parent[name]) == 1 or value in map(round, exact))
                near = value in exact or close
            assert near or resample or name not in before, (name, value, parent[name])


class Dice:
    def __init__(self, *rolls):
        self.random = iter(rolls).__next__


@pytest.mark.parametrize(
    ("dimension", "value", "up", "down"),
    [
        (Uniform(0, 10), 5.0, 6.0, 4.0),
        (Uniform(0, 10), 9.0, 10.0, 7.2),
        (Uniform(-10, 10), -5.0, -6.0, -4.0),
        (LogUniform(1, 10), 1.0, 1.2, 1.0),
        (IntRange(1, 64), 50, 60, 40),
        (IntRange(1, 64), 60, 64, 48),
        (IntRange(1, 64), 2, 3, 1),
        (IntRange(1, 64), 1, 2, 2),
        (IntRange(1, 64), 64, 63, 51),
        (IntRange(-5, 5), 0, 1, -1),
        (Choice("a", "b", "c"), "b", "c", "a"),
        (Choice("a", "b", "c"), "a", "b", "b"),
        (Choice("a", "b", "c"), "c", "b", "b"),
        (Choice("a"), "a", "a", "a"),
    ],
)
def test_a_perturbation_is_a_factor_or_a_neighbour(dimension, value, up, down):
    for roll, expected in ((0.2, up), (0.8, down)):
        moved = _perturbed(dimension, value, Dice(roll))
        assert moved == pytest.approx(expected) if isinstance(expected, float) else moved == expected


def test_an_option_that_is_no_more_is_drawn_anew():
    assert _perturbed(Choice("a", "b"), "gone", Dice(0.2, 0.9)) == "b"


def test_a_dimension_that_becomes_active_is_drawn_and_one_of_its_own_stream():
    """Whatever else is searched, the learning rate moves the same way."""
    space = {"lr": LogUniform(1e-4, 1e-1)}
    sim = at_barrier(pbt(4), 4)
    whole = sim.scheduler.moves(sim.record)[0]
    alone = Pbt(Goal.MIN, 2, 0.25, 0.25, space, 0, 4).moves(sim.record)[0]
    assert whole.params["lr"] == alone.params["lr"]
    drawn = set()
    for seed in range(60):
        sim = at_barrier(pbt(4, seed=seed, resample=0.0), 4)
        move, parent = sim.scheduler.moves(sim.record)[0], params_of(0)
        if move.params["head"] == "glu" != parent["head"]:
            drawn.add(move.params["width"])
    assert len(drawn) > 5


def test_the_parent_hands_on_what_it_runs_with_now():
    sim = at_barrier(pbt(4, resample=0.0), 4)
    sim.record.apply(Mutated("t0000", 0, "t0001", DEFAULTS | {"epochs": 77, "lr": 1e-3}))
    params = sim.scheduler.moves(sim.record)[0].params
    assert params["epochs"] == 77
    assert params["lr"] in (1e-3 * 0.8, 1e-3 * 1.2)


def test_a_population_ends_the_same_whatever_the_order_and_wherever_its_driver_dies():
    def run(seed, concurrent):
        value = lambda i, step: (sim.record.trials[trial_id(i)].now["lr"] - 0.02) ** 2 + i * 1e-6  # noqa: E731
        sim = Sim(pbt(12), 12, value, last=9, params=params_of)
        taken = sim.run(seed, concurrent)
        return {move.trial: [m for m in taken if m.trial == move.trial] for move in taken}

    first = run(0, 1)
    assert sum(isinstance(move, Mutate) for moves in first.values() for move in moves) == 3 * 4  # at steps 2, 4, 6, 8
    for seed in range(1, 6):
        assert run(seed, concurrent=1 + 3 * seed) == first


def test_a_waiting_trial_that_is_not_of_the_population_goes_on():
    sim = at_barrier(pbt(4), 4)
    sim.record.apply(TrialStarted("t0002-s1", 0, {}, (), "t0002"))
    sim.record.apply(TrialInterrupted("t0002-s1", Cause.PAUSED, ""))
    assert sim.scheduler.pause_at(sim.record.trials["t0002-s1"]) is None
    moves = sim.scheduler.moves(sim.record)
    assert Go("t0002-s1") in moves
    assert len(moves) == 5


def test_the_barrier_is_the_next_multiple():
    sim = at_barrier(pbt(2, interval=5), 2, every=2)  # reports at 2, 4, 6: it waits at 6 for the barrier of 5
    trial = sim.record.trials["t0000"]
    assert trial.steps == 6
    assert sim.scheduler.pause_at(trial) == 10
    assert len(sim.scheduler.moves(sim.record)) == 2
