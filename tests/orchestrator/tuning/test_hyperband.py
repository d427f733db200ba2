"""Hyperband on studies in memory, whose trials wait for each other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedulersim import Sim, end, params_of, pbt, shuffled

from orchestrator.history.events import Cause, Reported, TrialContinued, TrialInterrupted, TrialStarted
from orchestrator.history.states import State
from orchestrator.studies.plan import trial_id
from orchestrator.tuning.schedulers import Fifo, Go, Hyperband, Prune, brackets
from tasks.api import Goal

GOALS = st.sampled_from(Goal)


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
