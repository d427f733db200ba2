"""Members that are trained to differ: the term, what it does to a trial, and inputs that do not serve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FakeContext

from tasks import logits
from tasks.api import Input, InputError
from tasks.dogs import TASK, DogParams, drawn
from tasks.dogs.apart import FOLDER, Others

SMALL = {
    "backbone": "test_efficientnet", "weights": "none", "resolution": 32, "batch_size": 8, "epochs": 6, "dropout": 0.0,
    "train_logits": True, "lr": 1e-2,
}  # fmt: skip
TUNED = {"regime": "finetune", "crop": 1.0, "unfrozen_stages": 1, "accumulate": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run(inputs, **params) → Input``: a whole trial on four drawn breeds, as a later one reads it."""
    root, cache = tmp_path_factory.mktemp("dogs"), tmp_path_factory.mktemp("cache")
    drawn.write(root, {"train": 6, "val": 3}, drawn.BREEDS[:4])

    def run(inputs=(), seed=1, data=root, **params):
        folder = tmp_path_factory.mktemp("trial")
        context = FakeContext(folder, seed=seed, data=data, cache=cache, inputs=inputs)
        metrics = TASK.run(DogParams(**SMALL | params), context)
        return Input("study", folder.name, SMALL | params, metrics, seed, folder / "artifacts")

    return run


@pytest.fixture(scope="module")
def others(run):
    return [run(seed=seed) for seed in (1, 2)]


def on_training(trial):
    return np.exp(logits.read(trial.artifacts / FOLDER).scores)


def test_the_term_is_liu_and_yaos_and_that_of_a_batch_is_the_sum_of_its_parts():
    drawn = torch.Generator().manual_seed(0)
    mean, scores = torch.rand(9, 4, generator=drawn).softmax(1), torch.randn(5, 4, generator=drawn)
    rows = torch.tensor([8, 0, 3, 3, 1])
    term = Others(mean, 2).term(scores, rows)
    p = scores.softmax(1)
    of_all = (p + 2 * mean[rows]) / 3
    assert term == pytest.approx(-float(((p - of_all) ** 2).sum()), rel=1e-6)
    parts = [Others(mean, 2).term(scores[part], rows[part]) for part in (slice(2), slice(2, 5))]
    assert term == pytest.approx(float(sum(parts)), rel=1e-6)


@pytest.mark.parametrize("regime", [{}, TUNED])
def test_a_trial_keeps_apart_from_the_mean_of_its_inputs(regime, run, others):
    mean = np.mean([on_training(trial) for trial in others], axis=0)
    distances = [
        np.square(on_training(run(others, seed=3, diversity=strength, **regime)) - mean).sum(1).mean()
        for strength in (0.0, 1.0)
    ]
    assert distances[1] > distances[0]


def test_scores_of_the_training_photos_are_left_when_asked_for(run, others):
    left = logits.read(others[0].artifacts / FOLDER)
    assert len(left.keys) == 24
    assert all(key.startswith("train/") for key in left.keys)
    assert not (run(train_logits=False, epochs=1).artifacts / FOLDER).exists()


def test_inputs_that_do_not_serve_are_named(run, others, tmp_path):
    with pytest.raises(InputError, match=r"give inputs=\{from: STUDY\}"):
        run(diversity=0.5)
    silent = run(train_logits=False, epochs=1)
    with pytest.raises(InputError, match=f"study/{silent.trial}.*run study with params.train_logits=true"):
        run([others[0], silent], diversity=0.5)
    drawn.write(tmp_path / "more", {"train": 7, "val": 3}, drawn.BREEDS[:4])
    with pytest.raises(InputError, match=r"no scores of 4 of the training photos, train/.*\.jpg for one"):
        run(others, data=tmp_path / "more", diversity=0.5)
    drawn.write(tmp_path / "others", {"train": 6, "val": 3}, drawn.BREEDS[1:5])
    with pytest.raises(InputError, match="has other classes than this data"):
        run([replace(others[0])], data=tmp_path / "others", diversity=0.5)


@pytest.mark.parametrize("also", [{"mixup": 0.2}, {"cutmix": 0.2}, {"pseudo_rounds": 1}])
def test_photos_of_which_the_others_say_nothing_are_refused(also):
    with pytest.raises(ValueError, match="diversity needs what others say of each photo"):
        DogParams(diversity=0.1, **also)
