"""The dogs task through the whole machine: shared features, artifacts in the tracker, a model that loads."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import mlflow
import numpy as np
import pytest
from conftest import QuietDisplay

from orchestrator.history.folder import Runs
from orchestrator.history.states import State
from orchestrator.running import launch
from orchestrator.studies.studyfile import build
from tasks.dogs import drawn


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four trials on three drawn breeds with a broken photo among them, as ``(runs, outcome)``."""
    data = tmp_path_factory.mktemp("dogs")
    drawn.write(data, {"train": 8, "val": 4}, drawn.BREEDS[:3])
    (data / "train" / drawn.BREEDS[0].name / "broken.jpg").write_text("no photo")
    study = {
        "task": "dogs",
        "data": str(data),
        "params": {"backbone": "test_efficientnet", "weights": "none", "resolution": 64, "epochs": 2},
        "search": {"trials": 4, "space": {"lr": {"log_uniform": [1e-3, 1e-2]}, "head": {"choice": ["linear", "glu"]}}},
    }
    runs = Runs(tmp_path_factory.mktemp("runs"))
    return runs, launch.run_study(build(study), runs, QuietDisplay())


@pytest.fixture(scope="module")
def client(ran):
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{ran[0].tracker}")


@pytest.fixture(scope="module")
def found(client):
    return client.search_runs([client.get_experiment_by_name("dogs").experiment_id])


def test_all_trials_finish_and_are_tracked_once(ran, found):
    _, outcome = ran
    assert outcome.untracked is None
    assert outcome.record.state is State.FINISHED
    assert Counter(run.info.status for run in found) == {"FINISHED": 5}
    assert all(trial.final["data/unreadable"] == 1 for trial in outcome.record.trials.values())
    assert "1 photos could not be read" in outcome.record.verdict["sentence"]


def test_the_features_were_computed_once(ran):
    runs, outcome = ran
    logs = [outcome.folder.trial(trial).log.read_text() for trial in outcome.record.trials]
    assert sum(log.count("features of view 0") for log in logs) == 1
    assert len(list((runs.cache / "features").iterdir())) == 1


def test_the_tracker_has_the_pictures(client, found):
    for run in found:
        names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        if "orchestrator.trial" in run.data.tags:
            assert {"confusion.png", "mistakes.png", "curves.png", "per_class.csv", "model"} <= names
        else:
            assert {"study.yaml", "environment.json", "report.html"} <= names


def test_the_best_model_loads_elsewhere_and_predicts(ran, found, tmp_path):
    runs, outcome = ran
    parent = next(run for run in found if "orchestrator.trial" not in run.data.tags)
    best = outcome.record.trials[parent.data.tags["best_trial"]]
    photos = np.load(outcome.folder.trial(best.id).artifacts / "model" / "example.npy")
    np.save(tmp_path / "photos.npy", np.repeat(photos, 3, axis=0))
    program = (
        "import sys, numpy, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "assert model.metadata.signature.inputs.inputs[0].shape == (-1, 64, 64, 3)\n"
        "answer = model.predict(numpy.load(sys.argv[3]))\n"
        "assert answer.shape == (3, 3) and abs(answer.sum(1) - 1).max() < 1e-5, answer\n"
    )
    words = [f"sqlite:///{runs.tracker}", parent.data.tags["model"], str(tmp_path / "photos.npy")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
