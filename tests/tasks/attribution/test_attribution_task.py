"""The task: photos in shards, an earlier study's classifier, what it leaves, its verdict."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeContext
from PIL import Image
from pydantic import ValidationError

from orchestrator.studies import studyfile
from tasks.api import Input, InputError, Row, Support
from tasks.attribution import TASK, AttributionParams
from tasks.attribution.gradients import Gradients, class_score
from tasks.attribution.integrated import integrated_gradients
from tasks.dogs import TASK as DOGS
from tasks.dogs import drawn
from tasks.dogs.classifier import trained_classifier
from tasks.dogs.photos import read_photo

SMALL = {"backbone": "test_efficientnet", "weights": "none", "resolution": 48, "photos": 5, "references": 4, "shard": 2,
         "randomised": 1, "max_nodes": 512}  # fmt: skip


@pytest.fixture(scope="module")
def dogs(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("dogs")
    drawn.write(data, {"train": 4, "val": 3}, drawn.BREEDS[:3])
    return data


@pytest.fixture(scope="module")
def trained(dogs, tmp_path_factory) -> Path:
    """The artifacts of a trial of dogs."""
    context = FakeContext(tmp_path_factory.mktemp("trained"), data=dogs)
    params = DOGS.params(backbone="test_efficientnet", weights="none", resolution=64, epochs=2, head="glu", views=2,
                         aux_weight=0.25)  # fmt: skip
    DOGS.run(params, context)
    return context.folder / "artifacts"


def chained(artifacts: Path) -> tuple[Input, ...]:
    """The best of one study, and a better one of another."""
    worse = Input("other", "t0", {}, {"val/top1": 0.3}, 1, artifacts / "nowhere")
    return (worse, Input("dogs", "t1", {}, {"val/top1": 0.4}, 1, artifacts))


def run(folder: Path, dogs: Path, seed: int = 3, inputs=(), **params):
    context = FakeContext(folder, seed=seed, data=dogs, inputs=inputs)
    return TASK.run(AttributionParams(**{**SMALL, **params}), context), context


def maps(folder: Path) -> np.ndarray:
    return np.stack([np.load(path) for path in sorted((folder / "artifacts" / "maps").iterdir())])


@pytest.fixture(scope="module")
def ran(dogs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ran")
    return (*run(folder, dogs), folder)


def test_it_reports_all_that_it_declares(ran):
    metrics, context, _ = ran
    assert set(metrics) == set(TASK.reports)
    assert metrics["photos"] == 5
    assert context.mapped == {"explain": 3}
    assert [said["photos"] for _, said in context.reports] == [2, 4, 5]


def test_maps_add_up_to_what_the_table_says(ran):
    metrics, _, folder = ran
    rows = list(csv.DictReader((folder / "artifacts" / "photos.csv").open(encoding="utf-8")))
    found = maps(folder)
    assert found.shape == (5, 3, 48, 48)
    for row, each in zip(rows, found, strict=True):
        gap = each.astype(float).sum() - float(row["change"])
        assert gap == pytest.approx(float(row["gap"]), abs=1e-5)
    assert metrics["gap/worst"] == max(float(row["relative"]) for row in rows)
    assert metrics["gap/reached"] == 1
    assert {row["photo"].split("/")[0] for row in rows} == {breed.name for breed in drawn.BREEDS[:3]}
    assert Image.open(folder / "artifacts" / "overlays" / "0004.png").size == (48, 48)
    assert {"maps.png", "randomisation.png"} <= {path.name for path in (folder / "artifacts").iterdir()}


@pytest.mark.parametrize("shard", [1, 5])
def test_shards_change_nothing(ran, dogs, tmp_path, shard):
    metrics, _, folder = ran
    again, _ = run(tmp_path, dogs, shard=shard)
    assert again == metrics
    assert np.array_equal(maps(tmp_path), maps(folder))


@pytest.mark.parametrize("params", [
    {"baseline": "several", "noise": 0.05, "copies": 2}, {"method": "expected", "samples": 8},
    {"rule": "gausslegendre", "tolerance": 0.1, "score": "log_probability"},
])  # fmt: skip
def test_other_ways_give_numbers(dogs, tmp_path, params):
    metrics, _ = run(tmp_path, dogs, photos=2, randomised=0, **params)
    assert all(np.isfinite(value) for value in metrics.values())
    assert "randomised/all" not in metrics


def test_an_earlier_studys_best_classifier_is_explained(dogs, trained, tmp_path):
    metrics, _ = run(tmp_path, dogs, inputs=chained(trained), photos=3, randomised=1)
    assert maps(tmp_path).shape == (3, 3, 64, 64)  # its resolution, not this study's
    assert metrics["randomised/all"] < 1


def test_the_differentiable_classifier_predicts_what_the_exported_one_does(trained, tmp_path):
    example = DOGS.model.export(trained, tmp_path)
    expected = DOGS.model.load(tmp_path)(example)
    known = trained_classifier(trained)
    photos = torch.from_numpy(example).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(known.model(photos).softmax(1).numpy(), expected, atol=1e-6)
    found = integrated_gradients(
        Gradients(class_score(known.model, torch.tensor([1]))), photos, torch.zeros_like(photos)
    )
    assert found.reached.all()


def test_a_fine_tuned_classifier_sees_the_middle_of_a_photo(trained, dogs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"regime": "finetune", "crop": 0.8}))
    path = next(dogs.rglob("*.jpg"))
    assert np.array_equal(trained_classifier(tmp_path).read(path), read_photo(path, 80)[8:72, 8:72])
    assert np.array_equal(trained_classifier(trained).read(path), read_photo(path, 64))


def test_an_input_without_a_classifier_is_told(dogs, tmp_path):
    with pytest.raises(InputError, match="holds no trained classifier"):
        run(tmp_path, dogs, inputs=chained(tmp_path / "nothing"))


@pytest.mark.parametrize("change", [{"backbone": "test_vit"}, {"hidden": 7}])
def test_a_checkpoint_of_another_architecture_is_told(trained, dogs, tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | change))
    with pytest.raises(InputError, match="no weights of the glu head that"):
        run(tmp_path, dogs, inputs=chained(tmp_path))


def test_photos_that_cannot_be_read_are_left_out_and_counted(tmp_path, capsys):
    drawn.write(tmp_path / "data", {"train": 2, "val": 2}, drawn.BREEDS[:2])
    broken = tmp_path / "data" / "val" / drawn.BREEDS[0].name / "000.jpg"
    broken.write_text("no photo")
    metrics, _ = run(tmp_path, tmp_path / "data", photos=3, randomised=0)
    assert (metrics["photos"], metrics["data/unreadable"]) == (3, 1)
    assert str(broken) in capsys.readouterr().out
    for path in (tmp_path / "data" / "val").rglob("*.jpg"):
        path.write_text("no photo")
    with pytest.raises(InputError, match="none of the 4 validation photos can be read"):
        run(tmp_path, tmp_path / "data")


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"tolerance": 0}, "greater than 0"),
        ({"tolerance": -0.1}, "greater than 0"),
        ({"photos": 0}, "greater than or equal to 1"),
        ({"max_nodes": 8}, "greater than or equal to 16"),
        ({"max_rows": 0}, "greater than or equal to 1"),
        ({"baseline": "white"}, "'zero', 'mean', 'blurred' or 'several'"),
    ],
)
def test_bad_parameters_are_refused_with_their_bound(params, told):
    with pytest.raises(ValidationError, match=told):
        AttributionParams(**params)


def test_bad_data_is_told_before_anything_starts(tmp_path):
    with pytest.raises(InputError, match="holds no photos"):
        TASK.check(AttributionParams(), tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        TASK.check(AttributionParams(weights="nowhere.pt"), None)
    with pytest.raises(InputError, match=r"near it: .*efficientnet"):
        TASK.check(AttributionParams(backbone="tf_efficientnet_lite00"), None)


def row(trial="t", reached=1.0, **advantages) -> Row:
    metrics = {"photos": 40, "gap/worst": 0.009, "gap/reached": reached, "nodes/mean": 60.0}
    for other in ("gradient", "random"):
        low, high = advantages.get(other, (0.1, 0.3))
        name = f"advantage/{other}"
        metrics |= {name: (low + high) / 2, f"{name}_low": low, f"{name}_high": high}
    return Row(trial, {"tolerance": 0.01}, metrics)


def test_the_verdict():
    best = TASK.conclude([row()])
    assert best.support is Support.SUPPORTED
    assert "40 of 40 photos add up to within 1 %" in best.sentence
    assert "+0.200 (+0.100 … +0.300, 95 %, in pairs) over the plain gradient" in best.sentence
    assert TASK.conclude([row(gradient=(-0.1, 0.2))]).support is Support.UNDECIDED
    assert TASK.conclude([row(random=(-0.3, -0.1))]).support is Support.NOT_SUPPORTED
    missed = TASK.conclude([row(reached=0.975), row("u")])
    assert missed.support is Support.NOT_SUPPORTED
    assert "39 of 40 photos" in missed.sentence
    assert "optimistic" in missed.sentence


def test_the_study_asks_for_each_baseline():
    study = studyfile.load_study("attribution")
    assert study.task == "attribution"
    assert set(study.search.space["baseline"].options) == {"zero", "mean", "blurred", "several"}


def test_the_chained_study_takes_the_classifiers_of_dogs():
    study = studyfile.load_study("dogs-attribution")
    assert study.task == "attribution"
    assert study.inputs is not None
