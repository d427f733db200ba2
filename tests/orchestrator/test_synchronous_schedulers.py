"""Hyperband and population-based training on studies in memory, whose trials wait for each other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import (
    Cause,
    Mutated,
    Reported,
    Saved,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialStarted,
)
from orchestrator.plan import sample, trial_id
from orchestrator.record import Record
from orchestrator.schedulers import Fifo, Go, Hyperband, Mutate, Pbt, Prune, _perturbed, brackets
from orchestrator.states import State
from tasks.api import Choice, Goal, IntRange, LogUniform, Uniform

GOALS = st.sampled_from(Goal)


# ---------------------------------------------------------------------------------------------- a study in memory


class Sim:
    """A study in memory: each trial reports ``value(trial index, step)`` at every step and ends at ``last``."""

    def __init__(self, scheduler, trials, value, last=81, saves=True, every=1, params=None):
        self.scheduler, self.trials, self.value, self.last = scheduler, trials, value, last
        self.saves, self.every = saves, every
        self.record = Record()
        self.record.apply(StudyStarted("u", {"search": {"metric": "loss"}}, trials))
        for i in range(trials):
            chosen = params(i) if params else {}
            self.record.apply(TrialStarted(trial_id(i), i, chosen, tuple(chosen)))

    def advance(self, id):
        """Run a trial to where it waits or ends."""
        trial = self.record.trials[id]
        if trial.cause:
            self.record.apply(TrialContinued(id, trial.attempt + 1))
        pause_at = self.scheduler.pause_at(trial)
        assert pause_at is None or pause_at > trial.steps
        while trial.steps < self.last:
            step = trial.steps + self.every
            self.record.apply(Reported(id, step, {"loss": self.value(int(id[1:]), step)}))
            if self.saves:
                self.record.apply(Saved(id, step))
            if pause_at is not None and step >= pause_at:
                self.record.apply(TrialInterrupted(id, Cause.PAUSED, ""))
                return
        self.record.apply(TrialEnded(id, State.FINISHED, metrics=trial.last))

    def apply(self, move):
        if isinstance(move, Prune):
            self.record.apply(TrialEnded(move.trial, State.PRUNED, move.reason))
        elif isinstance(move, Mutate):
            step = self.record.trials[move.trial].steps
            self.record.apply(Mutated(move.trial, step, move.parent, move.params))

    def run(self, seed=0, concurrent=4):
        """To the end, in an order drawn from the seed, with a new scheduler's answer compared at each call."""
        rng = random.Random(seed)
        ready, taken = list(self.record.trials), []
        while ready:
            id = ready.pop(rng.randrange(min(concurrent, len(ready))))
            self.advance(id)
            moves = self.scheduler.moves(self.record)
            assert moves == self.scheduler.moves(self.record)
            for move in moves:
                if move.trial not in ready:
                    taken.append(move)
                    self.apply(move)
                    ready += [] if isinstance(move, Prune) else [move.trial]
        assert all(trial.state.is_over for trial in self.record.trials.values())
        return taken


def shuffled(record, seed=1):
    ids = list(record.trials)
    random.Random(seed).shuffle(ids)
    other = Record(**{**vars(record), "trials": {id: record.trials[id] for id in ids}})
    assert list(other.trials) != list(record.trials)
    return other


# -------------------------------------------------------------------------------------------------------- Hyperband


def test_hyperband_has_the_brackets_of_the_paper():
    """n = ⌈(s_max + 1) / (s + 1) · η^s⌉ of Algorithm 1 for R = 81, η = 3; r_i as in the paper's Table 1."""
    table = [[(b.size_at(i), r) for i, r in enumerate(b.rungs)] for b in brackets(81, 3, 143)]
    assert table == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


@given(st.integers(1, 2000), st.integers(2, 6), st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_every_trial_is_in_one_bracket_whose_rungs_rise_to_the_end(max_steps, reduction, trials):
    found = list(brackets(max_steps, reduction, trials))
    assert [trial for b in found for trial in b.trials] == [trial_id(i) for i in range(trials)]
    for b in found:
        assert b.rungs[0] >= 1
        assert b.rungs[-1] == max_steps
        assert sorted(set(b.rungs)) == list(b.rungs)


@given(st.randoms(use_true_random=False), st.integers(1, 150), GOALS, st.sampled_from([1, 4]))
@settings(max_examples=15, deadline=None)
def test_hyperband_lets_exactly_the_best_go_on(rng, trials, goal, every):
    quality = rng.sample(range(1000), trials)
    sim = Sim(Hyperband(goal, 81, 3, trials), trials, lambda i, step: quality[i] + 1 / step, 84, every=every)
    sim.run(seed=rng.random(), concurrent=rng.randint(1, 20))
    for bracket in brackets(81, 3, trials):
        best_first = sorted(bracket.trials, key=lambda id: quality[int(id[1:])], reverse=goal is Goal.MAX)
        for i, rung in enumerate(bracket.rungs[:-1]):
            came_beyond = {id for id in bracket.trials if sim.record.trials[id].steps > -(-rung // every) * every}
            expected = set(best_first[: bracket.size_at(i + 1)])
            # A rung that a report of every fourth step jumps over is judged together with the next.
            assert came_beyond == expected if every == 1 else came_beyond <= expected
        over = [sim.record.trials[id].state for id in bracket.trials]
        assert over.count(State.FINISHED) == (bracket.size_at(len(bracket.rungs) - 1))


def test_hyperband_waits_for_its_bracket_and_says_why_it_prunes():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 17), 17, lambda i, step: float(i))  # of 9, 5 and 3
    assert [sim.scheduler.pause_at(sim.record.trials[trial_id(i)]) for i in (0, 8, 9, 14)] == [1, 1, 3, None]
    for i in range(8):
        sim.advance(trial_id(i))
        assert sim.scheduler.moves(sim.record) == []
    sim.advance("t0008")
    moves = sim.scheduler.moves(sim.record)
    assert moves[:3] == [Go("t0000"), Go("t0001"), Go("t0002")]
    assert moves[3:5] == [
        Prune("t0003", "hyperband: 4th of 9 at step 1"),
        Prune("t0004", "hyperband: 5th of 9 at step 1"),
    ]
    assert sim.scheduler.moves(shuffled(sim.record)) == moves
    for applied in range(9):  # a driver that dies half way leaves the same to do
        assert sorted(map(repr, sim.scheduler.moves(sim.record))) == sorted(map(repr, moves[: 9 - applied]))
        last = moves[8 - applied]
        sim.apply(last) if isinstance(last, Prune) else sim.record.apply(TrialContinued(last.trial, 2))


def end(record, id, state):
    record.apply(TrialEnded(id, state, "", record.trials[id].last))


def test_in_hyperband_the_finished_keep_their_place_and_the_failed_have_none():
    sim = Sim(Hyperband(Goal.MIN, 27, 3, 27), 27, lambda i, step: float(i))  # nine go on at step 1
    for i in range(27):
        sim.advance(trial_id(i))
    for id in ("t0003", "t0005"):
        end(sim.record, id, State.FAILED)
    end(sim.record, "t0004", State.STOPPED)
    end(sim.record, "t0002", State.FINISHED)
    moves = sim.scheduler.moves(sim.record)
    go_on = [move.trial for move in moves if isinstance(move, Go)]
    assert go_on == [trial_id(i) for i in (0, 1, 6, 7, 8, 9, 10, 11)]  # and t0002, which needs no move
    assert Prune("t0012", "hyperband: 10th of 24 at step 1") in moves
    # At the next rung t0002 still holds the third and last place.
    for move in moves:
        sim.apply(move)
    for id in go_on:
        sim.advance(id)
    later = sim.scheduler.moves(sim.record)
    assert [move.trial for move in later if isinstance(move, Go)] == ["t0000", "t0001"]
    assert len(later) == 8


def test_a_trial_on_its_way_holds_its_bracket_up_until_it_comes_or_ends():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 9), 9, lambda i, step: float(i))
    for i in range(1, 9):
        sim.advance(trial_id(i))
    for cause in (Cause.FAILED, Cause.LOST):
        sim.record.apply(TrialInterrupted("t0000", cause, ""))
        assert sim.scheduler.moves(sim.record) == []
    sim.record.apply(TrialContinued("t0000", 2))
    sim.record.apply(Reported("t0000", 1, {"loss": -1.0}))  # it has yet to save, and to wait
    assert sim.scheduler.moves(sim.record) == []
    end(sim.record, "t0000", State.FAILED)
    assert [m.trial for m in sim.scheduler.moves(sim.record) if isinstance(m, Go)] == ["t0001", "t0002", "t0003"]


def test_one_that_slipped_past_a_rung_is_judged_by_it_at_the_next():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 9), 9, lambda i, step: float(i) if step < 3 else -float(i))
    for i in range(8):
        sim.advance(trial_id(i))
    sim.record.apply(Reported("t0008", 1, {"loss": 8.0}))
    sim.record.apply(TrialInterrupted("t0008", Cause.LOST, ""))  # before it could wait
    assert sim.scheduler.moves(sim.record) == []
    sim.record.apply(TrialContinued("t0008", 2))
    sim.record.apply(Reported("t0008", 2, {"loss": 8.0}))
    assert Go("t0000") in sim.scheduler.moves(sim.record)  # nobody need wait for it any more
    sim.advance("t0008")
    assert sim.record.trials["t0008"].steps == 3
    assert Prune("t0008", "hyperband: 9th of 9 at step 1") in sim.scheduler.moves(sim.record)


@pytest.mark.parametrize("make", [lambda: Hyperband(Goal.MIN, 9, 3, 9), lambda: pbt(9, interval=1)])
def test_a_trial_that_has_not_started_or_was_stopped_with_the_study_is_waited_for(make):
    sim = Sim(make(), 9, lambda i, step: float(i), params=params_of)
    for i in range(9):
        sim.advance(trial_id(i))
    assert len(sim.scheduler.moves(sim.record)) == 9
    sim.record.apply(TrialContinued("t0004", 2))
    before = sim.record.trials.pop("t0004")
    assert sim.scheduler.moves(sim.record) == []
    before.steps = before.paused = 0
    sim.record.trials["t0004"] = before
    sim.record.apply(TrialInterrupted("t0004", Cause.STOPPED, ""))
    assert sim.scheduler.moves(sim.record) == []
    end(sim.record, "t0004", State.STOPPED)
    assert len(sim.scheduler.moves(sim.record)) == 8


def test_one_that_comes_late_gets_no_place_that_others_had():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 9), 9, lambda i, step: float(i))
    for i in range(8):
        sim.advance(trial_id(i))
    end(sim.record, "t0008", State.FAILED)
    for _ in range(2):
        for move in sim.scheduler.moves(sim.record):
            sim.apply(move)
            if isinstance(move, Go):
                sim.advance(move.trial)
    assert sim.record.trials["t0002"].steps == 3
    assert sim.record.trials["t0002"].state is State.PRUNED
    sim.record.apply(TrialContinued("t0008", 2))  # by order
    sim.advance("t0008")
    assert Prune("t0008", "hyperband: 9th of 9 at step 1") in sim.scheduler.moves(sim.record)


def test_a_bracket_that_grows_has_more_places():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 4), 9, lambda i, step: float(i))
    for i in range(4):
        sim.advance(trial_id(i))
    for move in sim.scheduler.moves(sim.record):
        sim.apply(move)  # one of four goes on
    sim.advance("t0000")
    sim.scheduler = Hyperband(Goal.MIN, 9, 3, 9)
    for i in range(4, 9):
        sim.advance(trial_id(i))
    assert [m.trial for m in sim.scheduler.moves(sim.record) if isinstance(m, Go)] == ["t0004", "t0005"]


def test_who_jumps_over_all_rungs_is_judged_at_once_and_goes_on():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 17), 17, lambda i, step: float(i), last=20, every=10)
    sim.run()
    finished = [id for id, trial in sim.record.trials.items() if trial.state is State.FINISHED]
    assert finished == ["t0000", "t0009", "t0014", "t0015", "t0016"]


def test_places_are_ordinals():
    sim = Sim(Hyperband(Goal.MIN, 27, 3, 27), 27, lambda i, step: float(i))
    for i in range(27):
        sim.advance(trial_id(i))
    reasons = {m.trial: m.reason for m in sim.scheduler.moves(sim.record) if isinstance(m, Prune)}
    words = [reasons[trial_id(place - 1)].split()[1] for place in (10, 11, 12, 13, 20, 21, 22, 23)]
    assert words == ["10th", "11th", "12th", "13th", "20th", "21st", "22nd", "23rd"]


def test_trials_of_no_bracket_never_wait():
    sim = Sim(Hyperband(Goal.MIN, 9, 3, 9), 9, lambda i, step: float(i))
    for id in ("t0003-s1", "t0009", "t3", "x"):
        sim.record.apply(TrialStarted(id, 0, {}, (), "t0003"))
        sim.record.apply(TrialInterrupted(id, Cause.PAUSED, "by the rungs of a study since changed"))
        assert sim.scheduler.pause_at(sim.record.trials[id]) is None
        assert Go(id) in sim.scheduler.moves(sim.record)
        assert Go(id) in Fifo().moves(sim.record)


# -------------------------------------------------------------------------------------------------------------- Pbt

SPACE = {
    "head": Choice("linear", "glu", "mlp"),
    "lr": LogUniform(1e-4, 1e-1),
    "drop": Uniform(-1, 1),
    "width": IntRange(1, 64, log=True, when={"head": "glu"}),
    "depth": IntRange(-3, 3, when={"head": "mlp"}),
    "gate": Uniform(0, 1, when={"head": "glu", "width": 8}),
}
DEFAULTS = {"head": "linear", "lr": 1e-2, "drop": 0.0, "width": 8, "depth": 0, "gate": 0.5, "epochs": 5}


def pbt(trials, goal=Goal.MIN, interval=2, quantile=0.25, resample=0.25, seed=0):
    return Pbt(goal, interval, quantile, resample, SPACE, seed, trials)


def params_of(i):
    return DEFAULTS | sample(SPACE, 3, trial_id(i))


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
