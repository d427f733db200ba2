"""Soups: means of weights, refused where there is none, evaluated as the task that trained them does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from fakes import FakeContext
from safetensors.torch import load_file, save_file

from tasks import logits as left
from tasks.api import Input, InputError
from tasks.dogs import TASK as DOGS
from tasks.dogs import drawn
from tasks.dogs.photos import read_photo
from tasks.ensemble import TASK
from tasks.ensemble.soup import soup, write_soup
from tasks.logits import Logits

PLAIN = {"backbone": "test_efficientnet", "weights": "none", "resolution": 64, "epochs": 1, "batch_size": 16}


def predictor(artifacts, folder):
    folder.mkdir(parents=True)
    DOGS.model.export(artifacts, folder)
    return DOGS.model.load(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three heads of one backbone on drawn breeds, with what they say of the validation photos: ``(data, inputs)``."""
    place = tmp_path_factory.mktemp("soup")
    drawn.write(place / "data", {"train": 8, "val": 12}, drawn.BREEDS[:3])
    photos = sorted((place / "data" / "val").rglob("*.jpg"))
    pixels = np.stack([read_photo(photo, 64) for photo in photos])
    names = sorted({photo.parent.name for photo in photos})
    labels = np.array([names.index(photo.parent.name) for photo in photos])
    keys = tuple(photo.relative_to(place / "data").as_posix() for photo in photos)
    inputs = []
    for seed in (1, 2, 3):
        context = FakeContext(place / str(seed), seed=seed, data=place / "data", cache=place / "cache")
        DOGS.run(DOGS.params(**PLAIN), context)
        artifacts = place / str(seed) / "artifacts"
        p = predictor(artifacts, place / f"model{seed}")(pixels)
        left.write(artifacts / "logits", Logits(np.log(p), keys, labels, tuple(names)))
        inputs.append(Input("dogs", f"t{seed}", {}, {}, seed, artifacts))
    return place / "data", inputs


def test_a_soup_is_the_mean_of_the_weights(trained):
    folders = [given.artifacts for given in trained[1]]
    made = soup(folders)
    parts = [load_file(folder / "model" / "trained.safetensors") for folder in folders]
    assert made.keys() == parts[0].keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, torch.stack([part[name] for part in parts]).mean(0))
        assert tensor.dtype == parts[0][name].dtype


def test_a_soup_of_one_model_twice_is_that_model(trained, tmp_path):
    folder = trained[1][0].artifacts
    write_soup([folder, folder], tmp_path / "artifacts")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    souped = predictor(tmp_path / "artifacts", tmp_path / "a")(pixels)
    assert souped == pytest.approx(predictor(folder, tmp_path / "b")(pixels), abs=1e-6)


def changed(folder, target, about=None, tensors=None):
    """A copy of a trial's artifacts with another description, or other tensors."""
    shutil.copytree(folder, target)
    path = target / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (about or {})))
    if tensors is not None:
        save_file(tensors, target / "model" / "trained.safetensors")
    return target


def test_other_architectures_make_no_soup_and_both_are_named(trained, tmp_path):
    one = trained[1][0].artifacts
    other = changed(one, tmp_path / "other", {"head": "glu"})
    with pytest.raises(InputError, match=r"head=linear and head=glu") as caught:
        soup([one, other])
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)


def test_other_shapes_make_no_soup(trained, tmp_path):
    one = trained[1][0].artifacts
    tensors = load_file(one / "model" / "trained.safetensors")
    name = "head.scores.bias"
    other = changed(one, tmp_path / "other", tensors=tensors | {name: torch.zeros(5)})
    with pytest.raises(InputError, match=r"head\.scores\.bias has the shapes \(3,\) and \(5,\)"):
        soup([one, other])


@pytest.mark.parametrize("method", ["soup", "greedy_soup"])
def test_soups_are_chosen_and_reported_like_any_ensemble(trained, tmp_path, method):
    data, inputs = trained
    context = FakeContext(tmp_path, data=data, inputs=inputs)
    metrics = TASK.run(TASK.params(method=method, size=3, folds=3), context)
    assert 0 < metrics["report/top1"] <= 1
    assert metrics["report/photos"] == 18
    about = json.loads((tmp_path / "artifacts" / "ensemble.json").read_text())
    assert about["pool"] == "soup"
    assert metrics["members"] == 3 if method == "soup" else 1 <= metrics["members"] <= 3


def test_photos_that_are_not_there_are_counted(trained, tmp_path):
    (tmp_path / "data").mkdir()
    context = FakeContext(tmp_path, data=tmp_path / "data", inputs=trained[1])
    with pytest.raises(InputError, match=r"36 photos .* are not in .*: val/"):
        TASK.run(TASK.params(method="soup"), context)


def test_trials_without_weights_are_named(trained, tmp_path):
    data, inputs = trained
    bare = tmp_path / "bare"
    shutil.copytree(inputs[0].artifacts / "logits", bare / "logits")
    scores = np.load(bare / "logits" / "logits.npy")
    np.save(bare / "logits" / "logits.npy", scores[:, ::-1].copy())
    given = [*inputs, Input("dogs", "t9", {}, {}, 9, bare)]
    with pytest.raises(InputError, match="dogs/t9 left no weights"):
        TASK.run(TASK.params(method="soup"), FakeContext(tmp_path, data=data, inputs=given))
