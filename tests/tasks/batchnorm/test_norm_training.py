"""The trial: resumed exactly, divergence as a result, data in folders, what is refused."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from fakes import FakeContext
from PIL import Image

from orchestrator.history import checkpoint
from tasks.api import InputError
from tasks.batchnorm import ARMS, TASK, BatchNormParams
from tasks.batchnorm.data import load, rows_of
from tasks.batchnorm.train import probe_steps

SHORT = {"steps": 24, "probes": 6, "deep_probes": 1, "stability_steps": 4, "width": 8, "depth": 3, "batch_size": 16}


def run(folder, data=None, start=None, cache=None, **params):
    context = FakeContext(folder, data=data, cache=cache)
    context.start = start
    return TASK.run(BatchNormParams(**{**SHORT, **params}), context), context


def seen(context):
    return [(s, {k: v for k, v in m.items() if k != "probe/share"}) for s, m in context.reports]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes, bright and dark, 12 training and 5 test pictures each."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name, level in (("bright", 200), ("dark", 60)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.normal(level, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.jpg")
    return root


@pytest.mark.parametrize("arm", ["none", "batch", "centre", "noisy"])
def test_a_resumed_trial_ends_as_if_nothing_had_happened(arm, tmp_path):
    result, whole = run(tmp_path / "whole", norm=arm)
    assert [step for step, _ in whole.reports] == probe_steps(24, 6)
    torch.manual_seed(123)  # what a new process has is not what the first one had
    checkpoint.save(tmp_path / "kept", *whole.saved[2])  # through the file, as in life
    again, context = run(tmp_path / "again", norm=arm, start=checkpoint.load_last(tmp_path / "kept")[:2])
    assert again == result
    assert seen(context) == seen(whole)[3:]
    assert context.artifact("bands.csv").read_text() == whole.artifact("bands.csv").read_text()


@pytest.mark.parametrize("arm", ARMS)
def test_probes_change_nothing_of_the_training(arm, tmp_path):
    """The bits of the weights are those of a training that is hardly looked at."""
    ends = []
    for name, probes in (("often", {"probes": 24, "deep_probes": 3}), ("seldom", {"probes": 5, "stability_steps": 0})):
        _, context = run(tmp_path / name, norm=arm, **probes)
        ends.append(context.saved[-1][1])
    for name, tensor in ends[0]["network"].items():
        assert torch.equal(tensor, ends[1]["network"][name])
    assert torch.equal(ends[0]["rng"], ends[1]["rng"])


def test_divergence_is_a_result_with_finite_metrics(tmp_path):
    result, context = run(tmp_path, norm="none", lr=500.0, dataset="gaussian")
    assert result["diverged"] == 1
    assert 1 < result["diverged/step"] < 24
    assert result["val/score"] == result["test/score"] == 0
    assert all(math.isfinite(value) for value in result.values())
    step, last = context.reports[-1]
    assert step == result["diverged/step"]
    assert (last["val/score"], last["diverged"]) == (0, 1)
    assert set(result) <= set(TASK.reports)
    again, context = run(tmp_path / "again", norm="none", lr=500.0, dataset="gaussian", start=context.saved[-1])
    assert context.reports == []  # it had ended
    assert again == result


def test_a_trial_leaves_its_bands(tmp_path):
    result, context = run(tmp_path)
    with context.artifact("bands.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == probe_steps(24, 6)
    for line in lines:
        assert float(line["loss_low"]) <= float(line["loss_high"])
        assert float(line["landscape/loss_range"]) == float(line["loss_high"]) - float(line["loss_low"])
    assert result["landscape/beta"] == pytest.approx(np.mean([float(line["beta"]) for line in lines]))
    assert result["bands/beta/5"] == pytest.approx(float(lines[-1]["beta"]))  # six probes in five parts: two, then ones
    assert sum(line["hessian/top"] != "" for line in lines) == 1
    assert context.artifact("bands.png").stat().st_size > 1000


@pytest.mark.parametrize("network", ["mlp", "vgg", "linear"])
def test_it_learns_the_digits(network, tmp_path):
    result, _ = run(tmp_path, network=network, steps=150, width=16, depth=4, batch_size=32)
    assert result["test/score"] > 0.5  # chance is 0.1


def test_centring_smooths_the_gaussian_inputs(tmp_path):
    result, _ = run(tmp_path, dataset="gaussian")
    mean = load("gaussian", None, tmp_path).train.x.mean(0).norm() ** 2
    assert result["input/lambda_centred"] < 0.1 * result["input/lambda"]
    assert result["input/lambda"] > float(mean)
    assert result["input/lambda_scaled"] > result["input/lambda_standardised"]


def test_pictures_are_read_once_and_learnt(pictures, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    result, _ = run(tmp_path / "a", pictures, cache=cache, network="vgg", batch_size=4, width=4, steps=60)
    assert result["test/score"] == 1
    monkeypatch.setattr("tasks.batchnorm.data.read_photo", lambda *_: 1 / 0)
    again, _ = run(tmp_path / "b", pictures, cache=cache, network="vgg", batch_size=4, width=4, steps=60)
    assert again == result


def test_an_unreadable_picture_is_left_out_and_named(pictures, tmp_path, capsys):
    root = tmp_path / "pictures"
    for path in pictures.rglob("*.jpg"):
        target = root / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (root / "train" / "dark" / "0.jpg").write_text("no picture")
    data = load("digits", root, tmp_path / "cache")
    assert (data.unreadable, len(data.train) + len(data.val), len(data.test)) == (1, 23, 10)
    assert "dark/0.jpg" in capsys.readouterr().out


def test_each_pass_shows_each_sample_once_in_an_order_of_its_own():
    passes = [torch.cat([rows_of(9, 3, 1, 3 * e + s) for s in (1, 2, 3)]) for e in range(2)]
    assert all(sorted(rows.tolist()) == list(range(9)) for rows in passes)
    assert passes[0].tolist() != passes[1].tolist()
    assert rows_of(9, 3, 1, 2).tolist() == passes[0][3:6].tolist()
    assert rows_of(9, 9, 2, 1).tolist() != passes[0].tolist()


@pytest.mark.parametrize("arm", ["batch", "centre", "scale", "noisy"])
def test_a_batch_of_one_is_refused_where_statistics_are_over_the_batch(arm):
    with pytest.raises(InputError, match=f"batch_size=1: norm '{arm}'.*none, layer or group"):
        TASK.check(BatchNormParams(norm=arm, batch_size=1), None)


@pytest.mark.parametrize("arm", ["none", "layer", "group"])
def test_a_batch_of_one_is_fine_elsewhere(arm, tmp_path):
    TASK.check(BatchNormParams(norm=arm, batch_size=1), None)
    result, _ = run(tmp_path, norm=arm, batch_size=1)
    assert result["diverged"] == 0


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"deep_probes": 20}, "deep_probes=20.*there are 15"),
        ({"steps": 10}, "probes=15: there are but 10 steps"),
        ({"network": "vgg", "dataset": "gaussian"}, "needs pictures"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(params, told):
    with pytest.raises(InputError, match=told):
        TASK.check(BatchNormParams(**params), None)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch_size=2000: there are but 1294 training samples"):
        run(tmp_path, batch_size=2000)


def test_wrong_folders_are_refused_before_anything_starts(pictures, tmp_path):
    params = BatchNormParams()
    with pytest.raises(InputError, match="is not a folder"):
        TASK.check(params, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photos"):
        TASK.check(params, tmp_path / "empty")
    root = tmp_path / "unknown"
    for split, names in (("train", ("a", "b")), ("test", ("a", "b", "c"))):
        for name in names:
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.jpg").write_bytes((pictures / "test" / "dark" / "0.jpg").read_bytes())
    with pytest.raises(InputError, match="has the class 'c', which"):
        TASK.check(params, root)


@pytest.mark.realdata
def test_a_narrow_vgg_learns_something_of_real_pictures(real_data, tmp_path):
    result, _ = run(tmp_path, real_data / "cifar10", network="vgg", batch_size=64, width=8, steps=60, stability_steps=0)
    assert result["data/unreadable"] == 0
    assert result["test/score"] > 0.15  # chance is 0.1
