"""Studies that read earlier ones: what they read is settled when they start, and stays."""

from __future__ import annotations

import mlflow
import pytest
from conftest import run_toy

from orchestrator.errors import DataProblem, StudyError, UnknownName
from orchestrator.history.journal import load_record
from orchestrator.history.states import State
from orchestrator.running import launch
from orchestrator.studies import chain, yamlfile
from orchestrator.studies.plan import make_plan
from orchestrator.studies.study import Pinned
from orchestrator.studies.studyfile import build

FIRST = {"search": {"algorithm": "grid", "space": {"x": {"choice": [0.0, 0.4, 0.9]}}}, "params": {"saves": False}}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A runs folder with a finished study of three trials; its best is t0001."""
    from orchestrator.history.folder import Runs

    runs = Runs(tmp_path_factory.mktemp("chain") / "runs")
    run_toy(runs, **FIRST)
    return runs


def chained(**raw):
    return build({"task": "toychain", "inputs": {"from": "toy"}, "search": {"trials": 1, "space": {}}} | raw)


@pytest.mark.parametrize("given", ["toy", ["toy"], {"from": "toy"}, {"from": ["toy"]}])
def test_inputs_are_one_study_or_several(given):
    assert chained(inputs=given).inputs.studies == ("toy",)
    assert build(chained(inputs=given).to_plain()) == chained(inputs=given)


def test_what_is_read_is_settled_at_the_start_best_first(first):
    study = chain.pinned(chained(), first)
    uid = load_record(first.study("toy").journal).uid
    assert study.inputs.pinned == (Pinned(study="toy", uid=uid, trials=("t0001", "t0002", "t0000")),)
    assert chain.pinned(study, first) is study
    assert build(study.to_plain()) == study
    assert chain.pinned(chained(inputs={"from": "toy", "top": 1}), first).inputs.pinned[0].trials == ("t0001",)


def test_trials_get_them_and_the_tracker_links_the_runs(first):
    from conftest import QuietDisplay

    raw = {"search": {"algorithm": "grid", "space": {"nth": {"choice": [0, 2]}}}}
    outcome = launch.run_study(chained(**raw), first, QuietDisplay())
    found = {trial.params["nth"]: trial.metrics for trial in outcome.record.trials.values()}
    assert {nth: (metrics["x"], metrics["inputs"]) for nth, metrics in found.items()} == {0: (0.4, 3.0), 2: (0.0, 3.0)}
    written, _ = yamlfile.load(outcome.folder.study)
    assert [pin["study"] for pin in written["inputs"]["pinned"]] == ["toy"]
    assert "3 trials of toy" in outcome.folder.report.read_text()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{first.tracker}")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    named = {run.info.run_name: run for run in runs}
    assert named["toychain"].data.tags["inputs.toy"] == named["toy"].info.run_id
    assert f"runs/{named['toy'].info.run_id}" in named["toychain"].data.tags["mlflow.note.content"]


def test_a_study_that_names_no_data_reads_that_of_the_first(runs, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    run_toy(runs, data=str(photos), search={"trials": 1})
    assert chain.pinned(chained(), runs).data == photos
    other = tmp_path / "other"
    other.mkdir()
    assert chain.pinned(chained(data=str(other)), runs).data == other


def test_what_cannot_be_read_is_said_before_the_start(first, runs):
    with pytest.raises(UnknownName, match=r"no study 'toy'"):
        chain.pinned(chained(), runs)
    with pytest.raises(UnknownName, match=r"no study 'tox'.*"):
        chain.pinned(chained(inputs="tox"), first)
    with pytest.raises(StudyError, match=r"'dogs-demo' has not been run in"):
        chain.pinned(chained(inputs="dogs-demo"), first)
    with pytest.raises(StudyError, match=r"inputs: task 'toy' reads no earlier study"):
        build({"task": "toy", "inputs": "toy", "search": {"trials": 1}})
    with pytest.raises(StudyError, match=r"inputs.top"):
        chained(inputs={"from": "toy", "top": 0})
    with pytest.raises(StudyError, match=r"unknown key 'form'"):
        chained(inputs={"form": "toy"})
    run_toy(runs, params={"mood": "raise"}, search={"trials": 1, "space": {}}, failures={"retries": 0})
    with pytest.raises(StudyError, match=r"no trial of 'toy' has finished"):
        chain.pinned(chained(), runs)


@pytest.mark.parametrize("name", ["../toy", "/etc", "toy/../..", ".", ""])
def test_what_is_pinned_stays_inside_the_runs(name):
    pins = [{"study": name, "uid": "u", "trials": ["t0000"]}]
    with pytest.raises(StudyError, match=r"inputs.pinned.0.study"):
        chained(inputs={"from": "toy", "pinned": pins})


def test_a_trial_that_the_earlier_study_has_not_is_named(first):
    uid = load_record(first.study("toy").journal).uid
    with pytest.raises(DataProblem, match="no trial 't0009'"):
        chain.read([Pinned(study="toy", uid=uid, trials=("t0000", "t0009"))], first.root, None)


def test_an_earlier_study_that_was_replaced_is_not_read(first):
    wrong = Pinned(study="toy", uid="another", trials=("t0000",))
    with pytest.raises(DataProblem, match="another study"):
        chain.read([wrong], first.root, None)
    with pytest.raises(DataProblem, match="no longer"):
        chain.read([wrong.model_copy(update={"study": "gone"})], first.root, None)


def test_a_grid_repeats_its_points_on_the_same_seeds(runs):
    from orchestrator.analysis.standings import leaderboard
    from orchestrator.running.launch import local_node

    search = {"algorithm": "grid", "seeds": 3, "space": {"x": {"choice": [0.0, 0.4]}}}
    plan = make_plan(build({"task": "toy", "search": search}), [local_node()])
    assert [trial.params["x"] for trial in plan.trials] == [0.0, 0.4] * 3
    seeds = [trial.seed for trial in plan.trials]
    assert seeds[::2] == seeds[1::2]
    assert len(set(seeds)) == 3
    record = run_toy(runs, search=search, params={"noise": 0.01}).record
    board = leaderboard(record)
    assert [(entry.trial, entry.seeds) for entry in board] == [("t0001", 3), ("t0000", 3)]
    values = [trial.metrics["loss"] for trial in record.trials.values() if trial.params["x"] == 0.4]
    assert board[0].value == pytest.approx(sum(values) / 3)
    assert board[0].interval[0] < board[0].value < board[0].interval[1]
    assert record.state is State.FINISHED


def test_only_a_grid_has_points_to_repeat():
    with pytest.raises(StudyError, match=r"search.seeds.*grid"):
        build({"task": "toy", "search": {"trials": 4, "seeds": 2}})
    grid = {"algorithm": "grid", "seeds": 2, "space": {"x": {"choice": [0.0, 0.4]}}}
    with pytest.raises(StudyError, match=r"finalists.*every point again"):
        build({"task": "toy", "search": grid, "finalists": {"top": 1, "seeds": 2}})
