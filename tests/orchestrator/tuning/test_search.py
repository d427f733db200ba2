from __future__ import annotations

import itertools
import statistics

from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import Node, make_plan
from orchestrator.studies.studyfile import build
from orchestrator.tuning.search import PlannedSearcher, TpeSearcher, make_searcher

SPACE = {
    "mood": {"choice": ["well", "nan"]},
    "x": {"uniform": [-1, 1]},
    "width": {"int_range": [1, 64], "log": True, "when": {"mood": "well"}},
}


def plan_of(trials, **search):
    return make_plan(build({"task": "toy", "search": {"trials": trials, "space": SPACE, **search}}), [Node("n", 4, 0)])


def ended(trial, params, value, state=State.FINISHED):
    record = TrialRecord(trial.id, trial.seed, params, tuple(params), 0.0, state=state)
    record.curve.append(1, value, 0.0)
    record.final = {"loss": value}
    return record


def proposals(plan, value_of):
    searcher, proposed = make_searcher(plan), []
    for trial in plan.trials:
        params = searcher.ask(trial)
        proposed.append(params)
        searcher.tell(ended(trial, params, value_of(params)))
    return proposed


def test_tpe_repeats_itself_and_learns():
    plan = plan_of(60, algorithm="tpe")
    value_of = lambda params: (params["x"] - 0.5) ** 2 + (params["mood"] == "nan")  # noqa: E731
    first, second = proposals(plan, value_of), proposals(plan, value_of)
    assert first == second
    late = [value_of(params) for params in first[30:]]
    early = [value_of(params) for params in first[:10]]
    assert statistics.median(late) < statistics.median(early) / 2


def test_a_rebuilt_search_proposes_what_the_first_would_have():
    """After any number of results: finished, pruned, failed and open trials alike."""
    plan = plan_of(40, algorithm="tpe")
    states = itertools.cycle([State.FINISHED, State.PRUNED, State.FINISHED, State.FAILED, State.RUNNING])
    searcher, record = make_searcher(plan), Record()
    for trial, state in zip(plan.trials, states, strict=False):
        again = make_searcher(plan)
        again.rebuild(record)
        proposed = searcher.ask(trial)
        assert again.ask(trial) == proposed
        record.trials[trial.id] = ended(trial, proposed, (proposed["x"] - 0.5) ** 2, state)
        if state is not State.RUNNING:
            searcher.tell(record.trials[trial.id])


def test_tpe_keeps_to_conditions_bounds_and_types():
    for params in proposals(plan_of(40, algorithm="tpe"), lambda params: params["x"]):
        assert ("width" in params) == (params["mood"] == "well")
        assert -1 <= params["x"] <= 1
        assert isinstance(params.get("width", 1), int)


def test_tpe_takes_every_kind_of_end():
    plan = plan_of(30, algorithm="tpe")
    searcher = make_searcher(plan)
    assert isinstance(searcher, TpeSearcher)
    for trial, state in zip(plan.trials, [State.FINISHED, State.PRUNED, State.FAILED, State.STOPPED] * 7, strict=False):
        searcher.tell(ended(trial, searcher.ask(trial), 1.0, state))


def test_random_and_grid_need_no_results():
    assert isinstance(make_searcher(plan_of(5)), PlannedSearcher)
    fixed = make_plan(
        build({"task": "toy", "search": {"algorithm": "grid", "space": {"mood": {"choice": ["well", "nan"]}}}}),
        [Node("n", 1, 0)],
    )
    assert [make_searcher(fixed).ask(trial) for trial in fixed.trials] == [{"mood": "well"}, {"mood": "nan"}]
