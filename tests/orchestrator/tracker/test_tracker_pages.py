"""What a person finds in the tracker: names, columns, descriptions, data, system metrics and the registered model."""

from __future__ import annotations

import json
from dataclasses import replace

import mlflow
import pytest

from orchestrator.history.events import (
    Reported,
    Sampled,
    StudyEnded,
    StudyResumed,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import Journal
from orchestrator.history.states import State
from orchestrator.studies.studyfile import build
from orchestrator.tracker import models
from orchestrator.tracker.follower import track

VERDICT = {"support": "supported", "sentence": "t0001 is better."}


@pytest.fixture
def client(runs):
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")


def story(name="toy", uid="uid", digest="0123456789abcdef", task="toy", **raw):
    """Two trials and a run of the defaults."""
    plain = build({"task": "toy", "name": name, "search": {"trials": 2}, **raw}).to_plain() | {"task": task}
    plain["search"]["space"]["y"] = {"uniform": [0, 1]}
    plain["params"] |= {"y": 0.25}
    params = plain["params"]
    yield StudyStarted(uid, plain, 2, data_digest=digest, at=1.0)
    for index, chosen in enumerate([{"x": 0.25, "y": 0.5}, {"x": 0.125}]):
        yield TrialStarted(f"t000{index}", index, params | chosen, tuple(chosen), at=2.0)
        yield Sampled(f"t000{index}", {"cpu_percent": 150.0, "memory_megabytes": 900.0}, at=2.5)
        yield Reported(f"t000{index}", 1, {"loss": 1.0 - index / 2, "val/top1": 0.5}, at=3.0)
        yield Sampled(f"t000{index}", {"cpu_percent": 50.0, "memory_megabytes": 950.0}, at=3.5)
        yield TrialEnded(f"t000{index}", State.FINISHED, metrics={"loss": 1.0 - index / 2}, at=4.0)
    yield TrialStarted("defaults-s1", 9, params, (), "defaults", at=5.0)
    yield TrialEnded("defaults-s1", State.FINISHED, metrics={"loss": 3.0}, at=6.0)
    yield StudyEnded(State.FINISHED, VERDICT, at=7.0)


def write(folder: StudyFolder, events) -> None:
    with Journal(folder.journal) as journal:
        journal.append(*events)


def by_name(client):
    return {run.info.run_name: run for run in client.search_runs(["1"])}


def test_a_run_shows_what_is_searched_and_a_name_that_tells_it_apart(runs: Runs, client):
    write(StudyFolder(runs.root / "toy"), story())
    write(StudyFolder(runs.root / "toy-2"), story(uid="other"))
    for name in ("toy", "toy-2"):
        track(StudyFolder(runs.root / name), runs)
    found = by_name(client)
    assert set(found) == {
        *("toy", "t0000 x=0.25 y=0.5", "t0001 x=0.125", "defaults-s1"),
        *("toy-2", "toy-2/t0000 x=0.25 y=0.5", "toy-2/t0001 x=0.125", "toy-2/defaults-s1"),
    }
    assert found["t0000 x=0.25 y=0.5"].data.params == {"x": "0.25", "y": "0.5"}
    assert found["t0001 x=0.125"].data.params == {"x": "0.125"}  # y's condition did not hold
    assert found["defaults-s1"].data.params == {"x": "0.0", "mood": "well", "y": "0.25"}
    assert found["toy"].data.params == {}


def test_the_studys_description_is_markdown_with_links(runs: Runs, client):
    folder = StudyFolder(runs.root / "toy")
    write(folder, story())
    folder.report.write_text("<p>")
    track(folder, runs)
    found = by_name(client)
    note = found["toy"].data.tags["mlflow.note.content"]
    best, own = found["t0001 x=0.125"].info.run_id, found["toy"].info.run_id
    assert note.startswith("### Where is the minimum?\n")
    assert "**Verdict: supported.** t0001 is better." in note
    assert "**built-in data**" in note
    assert f"**Best:** [t0001](#/experiments/1/runs/{best}) with loss 0.5 (x = 0.125)" in note
    assert f"[report](#/experiments/1/runs/{own}/artifacts/report.html)" in note
    assert "steps = 3" in note
    assert "x = 0," not in note  # it is searched


def test_usage_is_a_series_of_system_metrics(runs: Runs, client):
    folder = StudyFolder(runs.root / "toy")
    write(folder, story())
    for _ in range(2):
        track(folder, runs)
        run = by_name(client)["t0000 x=0.25 y=0.5"]
        series = client.get_metric_history(run.info.run_id, "system/cpu_percent")
        assert [(point.step, point.timestamp, point.value) for point in series] == [(1, 2500, 150.0), (2, 3500, 50.0)]
        assert set(run.data.metrics) == {"loss", "val/top1", "system/cpu_percent", "system/memory_megabytes"}


def test_data_is_a_dataset_with_its_digest(runs: Runs, client, tmp_path, monkeypatch):
    folder = StudyFolder(runs.root / "toy")
    (tmp_path / "photos").mkdir()
    events = list(story(data=str(tmp_path / "photos")))
    pins = [{"study": "before", "uid": "u", "trials": ["t0000", "t0003"]}]
    events[0] = replace(events[0], study={**events[0].study, "inputs": {"pinned": pins}})
    write(folder, events)

    def inputs():
        track(folder, runs)
        found = by_name(client)["toy"].inputs.dataset_inputs
        return {each.dataset.name: each.dataset for each in found}, len(found)

    first, number = inputs()
    assert set(first) == {"photos", "trials of before"}
    assert first["photos"].digest == "0123456789abcdef"
    assert json.loads(first["photos"].source) == {"uri": str(tmp_path / "photos")}
    assert len(first["trials of before"].digest) == 16
    assert inputs() == (first, number)
    resumed = StudyResumed(events[0].study, 2, data_digest="changed", at=10.0)
    write(folder, [resumed, StudyEnded(State.FINISHED, VERDICT, at=11.0)])
    assert inputs()[1] == number + 1  # what was read before the resume is not forgotten
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/anew.db")  # nor where all is sent at once
    track(folder, runs)
    anew = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/anew.db")
    assert len(by_name(anew)["toy"].inputs.dataset_inputs) == number + 1


# ------------------------------------------------------------------------------------------------------ the best model


@pytest.fixture
def _quick_models(monkeypatch):
    """Logged without its files: what is exported and how it loads is the task's business."""

    def log(client, experiment, run, folder, record, best, model):
        logged = client.create_logged_model(experiment, "best", run)
        client.finalize_logged_model(logged.model_id, "READY")
        client.set_tag(run, "model", f"models:/{logged.model_id}")
        return f"models:/{logged.model_id}"

    monkeypatch.setattr(models, "log", log)


@pytest.mark.usefixtures("_quick_models")
def test_the_best_model_is_registered_once_and_the_alias_moves_with_the_best(runs: Runs, client):
    folder = StudyFolder(runs.root / "toy")
    events = list(story(task="dogs"))
    write(folder, events)

    def registered():
        track(folder, runs)
        versions = client.search_model_versions("name = 'toy'")
        best = client.get_model_version_by_alias("toy", "best")
        study = by_name(client)["toy"]
        assert (
            f"[model toy, version {best.version}](#/models/toy/versions/{best.version})"
            in study.data.tags["mlflow.note.content"]
        )
        logged = client.get_logged_model(study.data.tags["model"].removeprefix("models:/"))
        assert (logged.artifact_location, logged.source_run_id) == (best.source, best.run_id)
        return len(versions), best.version, best.run_id

    first = by_run = registered()
    assert first == registered()
    assert (first[0], first[2]) == (1, by_name(client)["t0001 x=0.125"].info.run_id)
    source = client.get_run(by_run[2])
    assert [each.dataset.digest for each in source.inputs.dataset_inputs] == ["0123456789abcdef"]

    better = TrialStarted("t0002", 2, events[0].study["params"] | {"x": 0.5}, ("x",), at=11.0)
    write(
        folder,
        [
            StudyResumed(events[0].study, 3, data_digest="0123456789abcdef", at=10.0),
            better,
            TrialEnded("t0002", State.FINISHED, metrics={"loss": 0.1}, at=12.0),
            StudyEnded(State.FINISHED, VERDICT, at=13.0),
        ],
    )
    second = registered()
    assert second == registered()
    assert (second[0], second[2]) == (2, by_name(client)["t0002 x=0.5"].info.run_id)


@pytest.mark.usefixtures("_quick_models")
def test_two_studies_of_one_name_do_not_take_each_others_model(runs: Runs, client, tmp_path, monkeypatch):
    """On a server that several people track to."""
    for uid in ("a" * 32, "b" * 32):
        elsewhere = Runs(tmp_path / uid)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs.root}.db")
        write(StudyFolder(elsewhere.root / "toy"), story(uid=uid, task="dogs"))
        for _ in range(2):
            track(StudyFolder(elsewhere.root / "toy"), elsewhere)
    shared = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.root}.db")
    assert {model.name: len(model.latest_versions) for model in shared.search_registered_models()} == {
        "toy": 1,
        "toy-bbbbbbbb": 1,
    }
    for name in ("toy", "toy-bbbbbbbb"):
        run = shared.get_run(shared.get_model_version_by_alias(name, "best").run_id)
        assert run.data.tags["orchestrator.study"][0] == ("b" if "-" in name else "a")
