from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, uniform

from orchestrator.errors import DoesNotFit
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import (
    DEFAULTS,
    Node,
    PlannedTrial,
    capacity,
    check_fits,
    derive_seed,
    finalists,
    grid,
    make_plan,
    ranked,
    sample,
)
from orchestrator.studies.studyfile import build
from tasks.api import Choice, IntRange, LogUniform, Resources, Uniform

LAPTOP = [Node("laptop", 2, 0)]


def plan_of(nodes=LAPTOP, resources=None, finalists=None, budget=None, **search):
    raw = {"task": "toy", "search": search, "resources": resources or {}, "finalists": finalists, "budget": budget}
    return make_plan(build(raw), nodes)


def test_more_trials_leave_the_first_ones_as_they_were():
    few, many = plan_of(trials=3), plan_of(trials=30)
    assert many.trials[:3] == few.trials


def test_the_plan_depends_on_the_study_alone():
    wide = [Node(f"n{i}", 64, 8) for i in range(10)]
    assert plan_of(trials=20).trials == plan_of(wide, trials=20).trials


def test_seeds_and_ids_are_distinct():
    trials = plan_of(trials=500).trials
    assert len({t.seed for t in trials}) == len({t.id for t in trials}) == 500
    assert derive_seed(0, "t0001") != derive_seed(1, "t0001")


def test_trials_differ_in_their_random_parameters():
    chosen = [t.params["x"] for t in plan_of(trials=200, space={"x": {"uniform": [-1, 1]}}).trials]
    assert len(set(chosen)) == 200
    assert kstest(chosen, uniform(-1, 2).cdf).pvalue > 1e-3


def test_a_new_dimension_leaves_the_others_as_they_were():
    space = {"a": Uniform(0, 1), "b": LogUniform(1, 10)}
    more = {"c": Choice(1, 2), **space}
    one, two = sample(space, 0, "t0000"), sample(more, 0, "t0000")
    assert {k: two[k] for k in one} == one


@given(st.floats(0, 1, exclude_max=True), st.integers(-50, 50), st.integers(1, 60))
def test_every_quantile_lies_within_inclusive_bounds(q, low, width):
    high = low + width
    assert low <= IntRange(low, high).at(q) <= high
    assert low <= Uniform(low, high).at(q) <= high
    assert 1 <= LogUniform(1, 1 + width).at(q) <= 1 + width
    assert 1 <= IntRange(1, 1 + width, log=True).at(q) <= 1 + width


def test_integer_ranges_reach_both_ends():
    values = {IntRange(1, 3).at(i / 300) for i in range(300)}
    assert values == {1, 2, 3}


def test_grid_covers_conditions_without_repeating_a_point():
    space = {"head": Choice("linear", "glu"), "hidden": IntRange(1, 2, when={"head": "glu"})}
    assert list(grid(space)) == [{"head": "linear"}, {"head": "glu", "hidden": 1}, {"head": "glu", "hidden": 2}]


def test_grid_ends_are_exact():
    assert Uniform(0.1, 0.7, points=3).grid() == (0.1, pytest.approx(0.4), 0.7)
    assert LogUniform(1e-4, 1e-2, points=3).grid() == (1e-4, pytest.approx(1e-3), 1e-2)


@pytest.mark.parametrize(
    ("node", "need", "expected"),
    [
        (Node("n", 8, 2), Resources(1, 0.5), 4),
        (Node("n", 8, 2), Resources(1, 0.3), 6),
        (Node("n", 8, 2), Resources(1, 0.4), 4),  # two a card; five would need one that spans both
        (Node("n", 8, 2), Resources(1, 0.7), 2),
        (Node("n", 8, 3), Resources(1, 2), 1),
        (Node("n", 2, 8), Resources(1, 0.25), 2),
        (Node("n", 0.3, 0), Resources(0.1, 0), 3),
    ],
)
def test_how_many_trials_a_node_holds(node, need, expected):
    assert node.holds(need) == expected


def test_what_no_node_holds_is_refused_with_both_sizes():
    cluster = [Node("small", 2, 0), Node("big", 16, 1)]
    with pytest.raises(DoesNotFit, match=r"asks for 4 CPU\(s\) and 2 GPU\(s\).*big, has 16 CPU\(s\) and 1 GPU\(s\)"):
        plan_of(cluster, {"cpus": 4, "gpus": 2}, trials=1)
    with pytest.raises(DoesNotFit):  # the cluster has 18 CPUs, but no node has 17
        plan_of(cluster, {"cpus": 17}, trials=1)


TWO_AND_THREE = [Node("small", 2, 2), Node("big", 3, 4)]


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Resources(1, 0, 2), 2),  # one on each node
        (Resources(1, 0, 3), 1),  # on the big one
        (Resources(1, 0, 2, "pack"), 2),
        (Resources(1, 0, 5, "spread"), 1),
        (Resources(1, 2, 2), 1),  # the big one has four cards
        (Resources(1, 1, 1), 5),
    ],
)
def test_how_many_trials_of_several_processes_fit(need, expected):
    assert capacity(need, TWO_AND_THREE) == expected
    check_fits(need, TWO_AND_THREE)


@pytest.mark.parametrize(
    ("need", "message", "hint"),
    [
        (Resources(1, 0, 4), "no node holds more than 3", "resources.processes=3, or resources.placement=pack"),
        (Resources(1, 0, 6), "no node holds more than 3", "resources.processes=3"),
        (Resources(1, 0, 6, "pack"), "all 2 node[(]s[)] together hold 5", "resources.processes=5"),
        (Resources(1, 8, 2), "each process of a trial asks for 1 CPU[(]s[)] and 8 GPU[(]s[)]", "resources.gpus=4"),
    ],
)
def test_processes_that_do_not_fit_are_refused(need, message, hint):
    with pytest.raises(DoesNotFit, match=message) as caught:
        check_fits(need, TWO_AND_THREE)
    assert hint in caught.value.hint
    assert ("pack" in caught.value.hint) == (need.processes == 4)


def test_each_process_holds_its_gpus():
    study = build({"task": "ring", "search": {"trials": 4}, "resources": {"gpus": 1, "processes": 2}})
    estimate = make_plan(study, [Node("n", 8, 4)]).to_plain(seconds_per_trial=3600)["estimate"]
    assert (estimate["waves"], estimate["gpu_hours"]) == (2, 8)


def test_concurrency_follows_the_resources():
    assert plan_of(trials=10).concurrent == 2
    assert plan_of(trials=1).concurrent == 1
    assert plan_of([Node("n", 8, 1)], {"gpus": 0.25}, trials=10).concurrent == 4
    limited = plan_of(trials=10, concurrent=5)
    assert limited.concurrent == 2
    assert "search.concurrent=5" in limited.notes[0]


def test_tpe_says_when_its_proposals_do_not_repeat():
    assert "search.concurrent=1" in plan_of(trials=4, algorithm="tpe").notes[0]
    assert plan_of(trials=4, algorithm="tpe", concurrent=1).notes == ()


def test_schedulers_that_do_not_wait_say_that_two_runs_may_differ():
    for kind in ("asha", "median"):
        assert plan_of(trials=4, scheduler=kind).notes[0].startswith(f"{kind} with several trials at once")
        assert plan_of(trials=4, scheduler=kind, concurrent=1).notes == ()
    assert plan_of(trials=4, scheduler="pbt").notes == ()
    assert plan_of(trials=4, scheduler={"hyperband": {"max_steps": 9}}).notes == ()


def test_a_budget_that_cannot_be_reached_is_noted():
    assert "never reached" in plan_of(trials=4, budget={"gpu_hours": 1}).notes[0]
    assert plan_of([Node("n", 4, 1)], {"gpus": 0.5}, budget={"gpu_hours": 1}, trials=4).notes == ()


# ------------------------------------------------------------------------------------------------------ finalists

X = {"x": {"uniform": [-1, 1]}}


def study_of(top=2, seeds=3, trials=4, **search):
    finalists = {"top": top, "seeds": seeds} if top else None
    return build({"task": "toy", "finalists": finalists, "search": {"trials": trials, "space": X, **search}})


def record_of(study, *ended):
    """A record of trials t0000, t0001, … that ended with these losses, or are in these states."""
    record = Record(study=study.to_plain())
    for index, end in enumerate(ended):
        x = index / 10
        trial = TrialRecord(f"t{index:04d}", index, {"x": x, "steps": 3}, ("x",), 0.0)
        trial.state = end if isinstance(end, State) else State.FINISHED
        trial.last = {} if isinstance(end, State) else {"loss": end}
        record.trials[trial.id] = trial
    return record


def test_finalists_are_counted_in_notes_and_estimate():
    plan = plan_of(trials=8, finalists={})
    assert (plan.finalist_runs, plan.size) == (20, 28)
    assert plan.notes == ("then the best 3 and the defaults again on 5 fresh seeds: 20 more trials",)
    plain = plan.to_plain(seconds_per_trial=360, checkpoint_bytes=1000)
    assert plain["finalist_runs"] == 20
    assert len(plain["trials"]) == 8
    assert plain["estimate"] == {
        "waves": 4 + 10,
        "seconds_per_trial": 360,
        "hours": pytest.approx(1.4),
        "gpu_hours": 0,
        "checkpoint_bytes": 1000,
        "disk_bytes": 2 * 1000 * 28,  # two checkpoints a trial
    }


def test_without_finalists_the_estimate_is_of_the_search():
    plan = plan_of([Node("n", 8, 2)], {"gpus": 0.5}, trials=8)
    assert (plan.finalist_runs, plan.size) == (0, 8)
    estimate = plan.to_plain(seconds_per_trial=3600)["estimate"]
    assert (estimate["waves"], estimate["hours"], estimate["gpu_hours"]) == (2, 2, 4)
    assert estimate["checkpoint_bytes"] is estimate["disk_bytes"] is None
    assert plan.to_plain()["estimate"]["hours"] is None


def test_no_more_finalists_are_counted_than_there_are_trials_and_they_may_run_wider():
    plan = plan_of([Node("n", 8, 0)], trials=1, finalists={"top": 3, "seeds": 4}, space=X)
    assert (plan.finalist_runs, plan.concurrent) == (8, 8)
    assert plan.notes == ("then the best and the defaults again on 4 fresh seeds: 8 more trials",)
    alone = plan_of(trials=1, finalists={"top": 3, "seeds": 4}, space={})
    assert alone.finalist_runs == 4
    assert alone.notes == ("then the best again on 4 fresh seeds: 4 more trials",)


def test_the_best_and_the_defaults_run_again_seed_by_seed_on_the_same_seeds():
    study = study_of(top=2, seeds=2)
    seeds = [derive_seed(study.seed, "finalist", str(k)) for k in (1, 2)]
    assert finalists(study, record_of(study, 0.4, 0.1, 0.3, 0.2)) == [
        PlannedTrial("t0001-s1", seeds[0], {"x": 0.1}, "t0001"),
        PlannedTrial("t0003-s1", seeds[0], {"x": 0.3}, "t0003"),
        PlannedTrial("defaults-s1", seeds[0], {}, DEFAULTS),
        PlannedTrial("t0001-s2", seeds[1], {"x": 0.1}, "t0001"),
        PlannedTrial("t0003-s2", seeds[1], {"x": 0.3}, "t0003"),
        PlannedTrial("defaults-s2", seeds[1], {}, DEFAULTS),
    ]


def test_more_seeds_leave_the_first_runs_as_they_were():
    few, many = study_of(seeds=2), study_of(seeds=9)
    ended = (0.4, 0.1, 0.3, 0.2)
    assert finalists(many, record_of(many, *ended))[:6] == finalists(few, record_of(few, *ended))
    assert not {t.seed for t in make_plan(few, LAPTOP).trials} & {
        t.seed for t in finalists(few, record_of(few, *ended))
    }


def test_finalists_wait_for_every_trial_of_the_search():
    study = study_of(top=1, seeds=2)
    assert finalists(study, record_of(study, 0.4, 0.1, 0.3)) == []  # the fourth has not begun
    assert finalists(study, record_of(study, 0.4, 0.1, 0.3, State.RUNNING)) == []
    waits = record_of(study, 0.4, 0.1, 0.3, State.STOPPED)
    assert [t.of for t in finalists(study, waits)[:2]] == ["t0001", DEFAULTS]  # stopped for good
    waits.trials["t0003"].cause = "stopped"  # as the whole study was: it can go on
    assert finalists(study, waits) == []
    assert finalists(study_of(top=0), record_of(study, 0.4, 0.1, 0.3, 0.2)) == []


def test_only_what_finished_is_a_finalist_and_the_same_point_only_once():
    study = study_of(top=3, seeds=2)
    record = record_of(study, 0.4, 0.1, State.FAILED, State.PRUNED)
    record.trials["t0003"].last = {"loss": 0.0}  # pruned, however well it did
    assert [t.of for t in finalists(study, record)[:3]] == ["t0001", "t0000", DEFAULTS]
    record.trials["t0000"].params = record.trials["t0001"].params
    assert [t.of for t in finalists(study, record)[:2]] == ["t0001", DEFAULTS]
    assert finalists(study, record_of(study, *[State.FAILED] * 4)) == []


def test_a_study_without_a_space_repeats_its_single_trial():
    study = study_of(trials=1, space={}, seeds=2)
    record = record_of(study, 0.4)
    record.trials["t0000"].searched = ()
    assert [(t.id, t.params) for t in finalists(study, record)] == [("t0000-s1", {}), ("t0000-s2", {})]


def test_a_grid_is_over_when_all_its_points_are():
    study = study_of(trials=None, algorithm="grid", space={"x": {"choice": [0, 0.5]}}, seeds=2)
    assert finalists(study, record_of(study, 0.4)) == []
    assert len(finalists(study, record_of(study, 0.4, 0.1))) == 6


def test_runs_of_finalists_are_not_ranked_among_the_trials():
    study = study_of()
    record = record_of(study, 0.4, 0.1, State.PENDING)
    record.trials["t0002"].last = {"loss": 0.2}  # it waits to go on
    record.trials["t0001-s1"] = TrialRecord("t0001-s1", 0, {}, (), 0.0, of="t0001", state=State.FINISHED)
    assert [trial.id for trial in ranked(record)] == ["t0001", "t0000", "t0002"]
