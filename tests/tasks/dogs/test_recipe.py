"""Stages, accumulation, averages, pseudo-labels, divergence and what is left behind, on a small drawn data set."""

from __future__ import annotations

import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import timm.utils
import torch
from fakes import FakeContext
from safetensors.torch import load_file

from tasks import logits
from tasks.api import InputError
from tasks.dogs import TASK, DogParams, drawn
from tasks.dogs.backbone import load_backbone
from tasks.dogs.chance import derive
from tasks.dogs.loading import ahead
from tasks.dogs.stages import Stage, backbone_groups, last_stages, stage_of

SMALL = {"backbone": "test_efficientnet", "weights": "none", "resolution": 32, "batch_size": 8, "crop": 1.0}
FROZEN = {**SMALL, "epochs": 2, "head": "glu", "hidden": 8, "aux_weight": 0.25, "centre_weight": 0.25}
TUNED = {**FROZEN, "regime": "finetune", "dropout": 0.0, "sampler": "pairs", "unfrozen_stages": 2}


@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    """Four drawn breeds, six training and three validation pictures each, and two without a label."""
    root = tmp_path_factory.mktemp("dogs")
    drawn.write(root, {"train": 6, "val": 3}, drawn.BREEDS[:4])
    (root / "unlabelled").mkdir()
    for number, path in enumerate(sorted((root / "val").rglob("*.jpg"))[:2]):
        shutil.copy(path, root / "unlabelled" / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ran(dogs, cache, tmp_path):
    """``ran(**params) → (context, metrics)`` of a whole trial."""

    def run(**params):
        context = FakeContext(tmp_path / str(len(list(tmp_path.iterdir()))), data=dogs, cache=cache)
        context.folder.mkdir()
        return context, TASK.run(DogParams(**params), context)

    return run


def models(context):
    return [state["model"] for _, state in context.saved]


def same(a, b):
    return {name for name in a if torch.equal(a[name], b[name])}


def test_the_stages_of_an_epoch():
    params = DogParams(regime="finetune", epochs=6, frozen_epochs=2, clean_epochs=1)
    assert [stage_of(params, epoch) for epoch in range(1, 7)] == [Stage.FROZEN] * 2 + [Stage.TUNED] * 3 + [Stage.CLEAN]
    assert stage_of(DogParams(frozen_epochs=1, epochs=1), 1) is Stage.FROZEN
    with pytest.raises(ValueError, match="more than the 3 epochs"):
        DogParams(regime="finetune", epochs=3, frozen_epochs=2, clean_epochs=2)


def test_each_stage_trains_what_it_should_and_leaves_the_rest_bit_for_bit(ran):
    context, _ = ran(**{**TUNED, "epochs": 4, "frozen_epochs": 2, "clean_epochs": 1})
    states = models(context)
    net = load_backbone("test_efficientnet", "none", context.seed).net
    backbone = {f"0.{name}" for name in net.state_dict()}
    wanted = {id(parameter) for parameter in last_stages(net, 2)}
    trained = {f"0.{name}" for name, parameter in net.named_parameters() if id(parameter) in wanted}
    assert backbone & same(states[0], states[1]) == backbone
    for before, after in ((1, 2), (2, 3)):
        still = same(states[before], states[after])
        assert backbone & still >= backbone - trained
        assert not trained & still


def test_layers_learn_at_rates_that_decay_towards_the_input():
    net = load_backbone("test_efficientnet", "none").net
    groups = backbone_groups(net, list(net.parameters()), 1.0, 0.5, 0.01)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(net.parameters()))
    assert max(rates.values()) == 1.0
    assert rates[id(net.conv_stem.weight)] == min(rates.values()) < rates[id(net.conv_head.weight)]
    distinct = sorted(set(rates.values()))
    assert all(b == 2 * a for a, b in pairwise(distinct))
    assert len(backbone_groups(net, last_stages(net, 1), 0.1, 1.0, 0.01)) == 1


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 24), (3, 8), (19, 24)])
def test_a_training_may_be_as_short_as_one_step(epochs, batch_size, ran):
    context, _ = ran(**{**FROZEN, "epochs": epochs, "batch_size": batch_size})  # 1, 9 and 19 steps
    assert len(context.reports) == epochs


def test_what_is_kept_lies_between_the_first_and_the_trained_backbone(ran):
    context, _ = ran(**TUNED, tuned_share=0.25)
    kept = load_file(context.folder / "artifacts/model/trained.safetensors")
    first = load_backbone("test_efficientnet", "none", context.seed).net.state_dict()
    trained = models(context)[-1]
    moved = 0
    for name, tensor in first.items():
        expected = tensor + 0.25 * (trained[f"0.{name}"] - tensor)
        torch.testing.assert_close(kept[f"backbone.{name}"], expected.to(tensor.dtype))
        moved += not torch.equal(kept[f"backbone.{name}"], trained[f"0.{name}"])
    assert moved > 0
    assert torch.equal(kept["head.scores.weight"], trained["2.scores.weight"])


def test_both_regimes_read_features_scaled_alike(ran):
    """By the training photos as the backbone saw them before it learnt, also where it has learnt since."""
    own = {**TUNED, "backbone": "tf_efficientnet_lite0", "weights": "packaged", "frozen_epochs": 0}
    frozen, tuned = (
        load_file(ran(**{**own, "regime": regime})[0].folder / "artifacts/model/trained.safetensors")
        for regime in ("frozen", "finetune")
    )
    for name in ("scaling.mean", "scaling.std"):
        torch.testing.assert_close(tuned[name], frozen[name], rtol=1e-4, atol=1e-4)


def test_a_fine_tuning_may_begin_from_the_head_of_the_frozen_regime(ran):
    """Whose validation it has, as long as next to nothing is learnt or kept of what is; the head learns on."""
    shared = {**TUNED, "backbone": "tf_efficientnet_lite0", "weights": "packaged"}
    alone = {"regime": "frozen", "epochs": 5, "lr": 3e-3, "batch_size": 128, "sampler": "shuffled"}
    _, frozen = ran(**{**shared, **alone})
    begun = {**shared, "probe_epochs": 5, "probe_lr": 3e-3, "epochs": 2, "frozen_epochs": 1}
    _, still = ran(**{**begun, "lr": 1e-12, "backbone_lr": 1e-12})
    _, kept = ran(**begun, tuned_share=1e-6)
    learnt, tuned = ran(**begun)
    assert still["val/loss"] == pytest.approx(frozen["val/loss"], rel=1e-5)
    assert kept["val/loss"] == pytest.approx(frozen["val/loss"], rel=1e-4)
    assert abs(tuned["val/loss"] - frozen["val/loss"]) > 1e-3
    assert "2.scores.weight" not in same(models(learnt)[0], models(learnt)[1])
    with pytest.raises(ValueError, match=r"probe_epochs needs .* weights: none differ from trial to trial"):
        DogParams(**{**begun, "weights": "none"})


def test_accumulating_is_the_large_batch(ran):
    whole, parts = (ran(**TUNED, accumulate=count)[0] for count in (1, 4))
    for (_, a), (_, b) in zip(whole.reports, parts.reports, strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)
        assert a["val/loss"] == pytest.approx(b["val/loss"], rel=1e-4)


def test_precision_that_is_off_or_automatic_is_the_same_on_a_cpu_and_bf16_is_near(ran):
    auto, off, bf16 = (ran(**TUNED, amp=amp)[0] for amp in ("auto", "off", "bf16"))
    assert same(models(auto)[-1], models(off)[-1]) == set(models(off)[-1])
    assert same(models(bf16)[-1], models(off)[-1]) != set(models(off)[-1])
    assert bf16.reports[-1][1]["train/loss"] == pytest.approx(off.reports[-1][1]["train/loss"], rel=0.05)


def test_the_average_of_the_weights_is_timms(ran):
    params = {**FROZEN, "batch_size": 24, "epochs": 3}  # one step an epoch: the checkpoints have each step's weights
    context, _ = ran(**params, ema=0.5)
    states = models(context)
    learner = torch.nn.Linear(1, 1)  # any module: its tensors are replaced
    mean = timm.utils.ModelEmaV3(learner, 0.5, use_warmup=True)
    kept, own = None, None
    for step, state in enumerate(states, 1):
        value = state["scores.weight"]
        if kept is None:
            kept = torch.zeros_like(value)  # the last layer starts at zero
        decay = mean.get_decay(step)
        kept = kept + (1 - decay) * (value - kept)
        own = context.saved[step - 1][1]["ema"]["scores.weight"]
        assert torch.allclose(own, kept, atol=1e-6)
    assert not torch.allclose(own, states[-1]["scores.weight"])


def test_without_leaves_one_ingredient_out():
    recipe = DogParams(**{**TUNED, "clean_epochs": 1, "layer_decay": 0.7, "mixup": 0.1, "ema": 0.9, "pseudo_rounds": 1})
    for ingredient in DogParams.model_fields["without"].annotation.__args__:
        left = DogParams(**{**recipe.model_dump(), "without": ingredient}).effective().model_dump()
        changed = {name for name, value in left.items() if recipe.model_dump()[name] != value} - {"without"}
        assert bool(changed) == (ingredient != "nothing"), ingredient
        assert len(changed) <= 2


@pytest.mark.parametrize(
    ("source", "hidden", "transductive"), [("unlabelled", 2, 0), ("train", 12, 0), ("validation", 12, 1)]
)
def test_rounds_of_pseudo_labels(source, hidden, transductive, ran, dogs, capsys):
    context, result = ran(**{**FROZEN, "epochs": 4}, pseudo_rounds=2, pseudo_threshold=0.01, pseudo_source=source)
    rounds = [metrics["pseudo/photos"] for _, metrics in context.reports]
    assert rounds == [0, hidden, hidden, hidden], "labelled after epochs 1 and 2, trained on from the next"
    assert result["pseudo/transductive"] == transductive
    assert ("transductive" in capsys.readouterr().out) == bool(transductive)
    assert ("pseudo/right" in result) == (source != "unlabelled")
    rows = context.saved[-1][1]["pseudo"]["rows"]
    validation = set(range(24, 36))
    assert bool(validation & set(rows.tolist())) == bool(transductive), "no validation photo unless asked for"
    sure, _ = ran(**{**FROZEN, "epochs": 4}, pseudo_rounds=2, pseudo_threshold=1.0, pseudo_source=source)
    assert [metrics["pseudo/photos"] for _, metrics in sure.reports] == [0, 0, 0, 0]


def test_unlabelled_photos_must_be_there_and_are_no_class(dogs, tmp_path):
    shutil.copytree(dogs, tmp_path / "dogs")
    shutil.rmtree(tmp_path / "dogs" / "unlabelled")
    with pytest.raises(InputError, match="unlabelled holds no photos"):
        TASK.check(DogParams(pseudo_rounds=1), tmp_path / "dogs")
    shutil.copytree(dogs / "unlabelled", tmp_path / "dogs" / "train" / "unlabelled")
    TASK.check(DogParams(), tmp_path / "dogs")


def test_a_loss_that_is_no_number_is_noticed_at_once(ran, capsys):
    context, result = ran(**{**FROZEN, "batch_size": 24, "lr": 10.0, "weight_decay": 100.0, "epochs": 30, "ema": 0.0,
                             "centre_weight": 10.0})  # fmt: skip
    if all(math.isfinite(m["train/loss"]) for _, m in context.reports):
        pytest.fail("this setting was to diverge")
    assert math.isnan(result["val/top1"])
    assert len(context.reports) < 30
    assert "diverged: the loss is" in capsys.readouterr().out
    assert len(context.saved) == len(context.reports) - 1, "no checkpoint of a broken model"


def test_a_checkpoint_of_another_model_is_refused(ran, dogs, cache, tmp_path):
    context, _ = ran(**FROZEN)
    for change in ({"hidden": 16}, {"head": "linear"}, {"centre_weight": 0}):
        other = FakeContext(tmp_path / "other", data=dogs, cache=cache)
        other.start = context.saved[0]
        with pytest.raises(InputError, match="checkpoint of epoch 1 is of another model"):
            TASK.run(DogParams(**{**FROZEN, **change}), other)


def test_what_is_left_behind_says_what_was_measured(ran, dogs):
    context, result = ran(**FROZEN)
    left = logits.read(context.folder / "artifacts" / "logits")
    assert left.classes == tuple(sorted(breed.name for breed in drawn.BREEDS[:4]))
    assert left.keys == tuple(path.relative_to(dogs).as_posix() for path in sorted((dogs / "val").rglob("*.jpg")))
    assert np.allclose(np.exp(left.scores).sum(1), 1, atol=1e-5)
    assert -left.scores[np.arange(12), left.labels].mean() == pytest.approx(result["val/loss"], rel=1e-5)
    assert {result["blend/alpha_first"], result["blend/alpha_second"]} <= {i / 20 for i in range(21)}


def test_the_contests_backbone_trains_at_a_small_size(dogs, cache, tmp_path):
    params = {**TUNED, "backbone": "legacy_xception", "epochs": 1, "frozen_epochs": 0, "unfrozen_stages": 1}
    result = TASK.run(DogParams(**params), FakeContext(tmp_path, data=dogs, cache=cache))
    assert math.isfinite(result["val/loss"])


def test_seeds_differ_by_purpose_and_number():
    seeds = {derive(seed, name, n) for seed in (0, 1) for name in ("order", "augment") for n in (1, 2)}
    assert len(seeds) == 8
    assert derive(5, "order", 3) == derive(5, "order", 3)


def test_reading_ahead_gives_all_and_raises_here_what_went_wrong_there():
    def broken():
        yield 1
        raise OSError("the disk is gone")

    assert list(ahead(iter(range(50)))) == list(range(50))
    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    items = ahead(iter(range(10**9)))
    assert next(items) == 0
    items.close()  # ends the thread too
