"""Training on a small drawn data set: both regimes, restart, broken photos, the exported model."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from fakes import FakeContext
from sklearn.metrics import log_loss

from orchestrator.history import checkpoint
from tasks import logits, serving
from tasks.api import InputError
from tasks.dogs import TASK, DogParams, drawn
from tasks.dogs.backbone import load_backbone
from tasks.dogs.photos import read_photo

SMALL = {"backbone": "test_efficientnet", "weights": "none", "resolution": 64, "batch_size": 16}
REGIMES = {
    "frozen": {**SMALL, "epochs": 4, "views": 2, "head": "glu", "hidden": 16},
    "finetune": {**SMALL, "regime": "finetune", "epochs": 3, "frozen_epochs": 1, "unfrozen_stages": 1},
    # All at once, so that a restart between them loses nothing: it is made after the first round of pseudo-labels.
    "recipe": {
        **SMALL, "regime": "finetune", "epochs": 4, "frozen_epochs": 1, "clean_epochs": 1, "unfrozen_stages": 2,
        "batch_size": 6, "sampler": "pairs", "accumulate": 2, "head": "glu", "hidden": 16, "aux_weight": 0.25,
        "centre_weight": 0.25, "layer_decay": 0.8, "mixup": 0.2, "cutmix": 0.5, "ema": 0.9, "crop": 1.0,
        "pseudo_rounds": 2, "pseudo_threshold": 0.34, "pseudo_source": "train",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    """Three drawn breeds, eight training and four validation pictures each."""
    root = tmp_path_factory.mktemp("dogs")
    drawn.write(root, {"train": 8, "val": 4}, drawn.BREEDS[:3])
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def numbers(context):
    return [(s, {k: v for k, v in m.items() if k != "train/images_per_second"}) for s, m in context.reports]


@pytest.mark.parametrize("regime", REGIMES)
def test_a_restarted_trial_ends_as_if_nothing_had_happened(regime, dogs, cache, tmp_path):
    params = DogParams(**REGIMES[regime])
    whole = FakeContext(tmp_path / "whole", data=dogs, cache=cache)
    result = TASK.run(params, whole)
    assert [step for step, _ in whole.reports] == list(range(1, params.epochs + 1))
    torch.manual_seed(123)  # what a new process has is not what the first one had
    step, state = whole.saved[1]
    checkpoint.save(tmp_path / "kept", step, state)  # through the file, as in life
    again = FakeContext(tmp_path / "again", data=dogs, cache=cache)
    again.start = checkpoint.load_last(tmp_path / "kept")[:2]
    assert TASK.run(params, again) == result
    assert numbers(again) == numbers(whole)[2:]


@pytest.mark.parametrize("changed", [{"lr": 0.05}, {"weight_decay": 5.0}])
def test_a_restored_trial_trains_with_its_own_rates(changed, dogs, cache, tmp_path):
    """As population-based training needs it: what is searched comes from the parameters, not from the checkpoint."""
    first = FakeContext(tmp_path / "first", data=dogs, cache=cache)
    TASK.run(DogParams(**REGIMES["frozen"]), first)
    checkpoint.save(tmp_path / "kept", *first.saved[1])
    contexts = [FakeContext(tmp_path / name, data=dogs, cache=cache) for name in ("same", "other")]
    for context, own in zip(contexts, ({}, changed), strict=True):
        context.start = checkpoint.load_last(tmp_path / "kept")[:2]
        TASK.run(DogParams(**REGIMES["frozen"], **own), context)
    same, other = (dict(context.saved[-1][1]["optimizer"]["param_groups"][0]) for context in contexts)
    for name, value in changed.items():
        peak = "max_lr" if name == "lr" else name
        assert other[peak] == value != same[peak]
    assert numbers(contexts[0]) == numbers(first)[2:]
    assert numbers(contexts[1]) != numbers(first)[2:]


@pytest.mark.parametrize("regime", REGIMES)
def test_the_exported_model_says_what_validation_said(regime, dogs, cache, tmp_path):
    params = DogParams(**REGIMES[regime])
    context = FakeContext(tmp_path, data=dogs, cache=cache)
    result = TASK.run(params, context)
    target = tmp_path / "model"
    target.mkdir()
    example = TASK.model.export(context.folder / "artifacts", target)
    serving.mark(target, "dogs")
    predictor = serving.load(target)
    assert example.shape == (1, 64, 64, 3)
    answer = predictor.predict(example)
    assert answer.shape == (1, 3)
    assert answer.sum() == pytest.approx(1, abs=1e-5)
    if regime != "finetune":  # which validates on a centre crop, that the model's user makes
        paths = sorted((dogs / "val").rglob("*.jpg"))
        labels = [sorted(b.name for b in drawn.BREEDS[:3]).index(path.parent.name) for path in paths]
        scores = predictor.predict(np.stack([read_photo(path, 64) for path in paths]))
        if "blend/alpha" in result:  # validation is cross-fitted, the model has one α for all: compare what it left
            left = logits.read(context.folder / "artifacts" / "logits")
            alphas = {result[f"blend/alpha_{half}"] for half in ("first", "second")}
            same = alphas == {result["blend/alpha"]}
            assert left.keys == tuple(path.relative_to(dogs).as_posix() for path in paths)
            assert not same or np.allclose(np.exp(left.scores), scores, atol=1e-4)
            return
        assert (scores.argmax(1) == labels).mean() == pytest.approx(result["val/top1"])
        assert log_loss(labels, scores) == pytest.approx(result["val/loss"], rel=1e-4)


def test_the_backbone_is_frozen_first_and_only_its_end_is_trained_later(dogs, cache, tmp_path):
    params = DogParams(**{**REGIMES["finetune"], "epochs": 2})
    context = FakeContext(tmp_path, data=dogs, cache=cache)
    TASK.run(params, context)
    first, second = (state["model"] for _, state in context.saved)
    untrained = load_backbone(params.backbone, params.weights, context.seed).net.state_dict()
    assert all(torch.equal(first[f"0.{name}"], tensor) for name, tensor in untrained.items())
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert "0.conv_stem.weight" not in changed
    assert any(name.startswith("0.") for name in changed)
    assert not [name for name in changed if "running" in name]  # batch norms keep their statistics


def test_broken_photos_are_counted_and_named_and_stop_nothing(dogs, tmp_path, capsys):
    root = tmp_path / "dogs"
    shutil.copytree(dogs, root)
    breed = sorted(path.name for path in (root / "train").iterdir())[0]
    (root / "train" / breed / "text.jpg").write_text("no photo")
    whole = (root / "val" / breed / "000.jpg").read_bytes()
    (root / "val" / breed / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for regime in REGIMES.values():
        context = FakeContext(tmp_path / str(regime.get("regime")), data=root)
        result = TASK.run(DogParams(**{**regime, "epochs": 1, "clean_epochs": 0}), context)
        assert result["data/unreadable"] == 2
        assert result["val/photos"] == 12
        said = capsys.readouterr().out
        assert "text.jpg" in said
        assert "cut.jpg" in said


def test_a_class_without_a_readable_photo_is_an_error(dogs, tmp_path):
    root = tmp_path / "dogs"
    shutil.copytree(dogs, root)
    breed = sorted(path.name for path in (root / "val").iterdir())[0]
    for path in (root / "val" / breed).iterdir():
        path.write_text("no photo")
    with pytest.raises(InputError, match=f"class '{breed}' has no readable validation photo"):
        TASK.run(DogParams(**REGIMES["frozen"]), FakeContext(tmp_path, data=root))


def test_features_are_computed_once_for_all_trials(dogs, tmp_path, capsys):
    context = FakeContext(tmp_path, data=dogs)
    TASK.run(DogParams(**{**REGIMES["frozen"], "epochs": 1}), context)
    assert "features of view 1" in capsys.readouterr().out
    TASK.run(
        DogParams(**{**REGIMES["frozen"], "epochs": 1, "lr": 0.1}),
        FakeContext(tmp_path / "b", data=dogs, cache=context.cache),
    )
    assert "features of view" not in capsys.readouterr().out


def test_drawn_dogs_are_drawn_alike_each_time():
    a, b = (np.asarray(drawn.draw(drawn.BREEDS[4], np.random.default_rng(3))) for _ in range(2))
    assert np.array_equal(a, b)
    assert a.shape == (drawn.SIZE, drawn.SIZE, 3)
    assert a.std() > 10
