"""The projection on its own: limits of the tracker, replays, events in pieces."""

from __future__ import annotations

import itertools

import mlflow
import pytest

from orchestrator.folder import Runs, StudyFolder
from orchestrator.journal import Reported, StudyEnded, StudyStarted, TrialEnded, TrialPlaced, TrialStarted
from orchestrator.states import State
from orchestrator.study import build
from orchestrator.tracking import Projection

STUDY = build({"task": "toy", "search": {"trials": 1}}).to_plain()


@pytest.fixture
def client(runs):
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")


def events_of(metrics=2, params=2, steps=3):
    reports = [
        Reported("t0000", s, {f"m{i}": float(s + i) for i in range(metrics)}, at=3.0 + s) for s in range(1, steps + 1)
    ]
    return [
        StudyStarted("uid", STUDY, 1, at=1.0),
        TrialStarted("t0000", 5, {f"p{i}": i for i in range(params)}, ("p0",), at=2.0),
        TrialPlaced("t0000", "host", 1, at=2.5),
        *reports,
        TrialEnded("t0000", State.FINISHED, metrics={"loss": 0.5, "m0": float(steps)}, at=90.0),
        StudyEnded(State.FINISHED, {"support": "undecided", "sentence": "–"}, at=99.0),
    ]


def content(client):
    """Everything the tracker holds, without what it invents itself."""
    found = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    runs = {}
    for run in found:
        history = [
            (m.key, m.step, m.value, m.timestamp)
            for key in run.data.metrics
            for m in client.get_metric_history(run.info.run_id, key)
        ]
        tags = {
            k: v for k, v in run.data.tags.items() if k not in ("mlflow.parentRunId", "best_run", "mlflow.note.content")
        }
        runs[run.info.run_name] = (run.info.status, run.info.end_time, run.data.params, tags, sorted(history))
    assert len(runs) == len(found)
    return runs


def test_more_values_than_one_request_takes_all_arrive(runs: Runs, client):
    Projection(StudyFolder(runs.root / "toy"), runs).send(events_of(metrics=700, params=230, steps=3))
    trial = content(client)["t0000 p0=0"]
    assert len(trial[2]) == 230
    assert len(trial[4]) == 3 * 700 + 1  # and the final loss; the final m0 was reported already


def test_any_division_and_any_repetition_lead_to_the_same(tmp_path):
    events, results = events_of(), []
    for name, cuts in {"whole": [], "pieces": range(1, len(events)), "three": [2, 5]}.items():
        runs = Runs(tmp_path / name)
        projection = Projection(StudyFolder(runs.root / "toy"), runs)
        for start, end in itertools.pairwise([0, *cuts, len(events)]):
            projection.send(events[start:end])
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")
        results.append(content(client))
        Projection(StudyFolder(runs.root / "toy"), runs).send(events)  # all of it again, by another process
        results.append(content(client))
    assert all(result == results[0] for result in results)
    assert {name: status for name, (status, *_) in results[0].items()} == {"toy": "FINISHED", "t0000 p0=0": "FINISHED"}


def test_a_projection_that_dies_in_the_middle_is_followed_by_another(runs: Runs, client):
    events = events_of()
    Projection(StudyFolder(runs.root / "toy"), runs).send(events[:4])
    assert content(client)["t0000 p0=0"][0] == "RUNNING"
    Projection(StudyFolder(runs.root / "toy"), runs).send(events)
    assert {status for status, *_ in content(client).values()} == {"FINISHED"}
