from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, uniform

from orchestrator.errors import DoesNotFit
from orchestrator.plan import Node, derive_seed, grid, make_plan, sample
from orchestrator.study import build
from tasks.api import Choice, IntRange, LogUniform, Resources, Uniform

LAPTOP = [Node("laptop", 2, 0)]


def plan_of(nodes=LAPTOP, resources=None, **search):
    return make_plan(build({"task": "toy", "search": search, "resources": resources or {}}), nodes)


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
