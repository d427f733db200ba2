"""The arms: halves of BN against closed forms and torch's own, the law of the noise, equal starts."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from tasks.api import InputError
from tasks.batchnorm import ARMS
from tasks.batchnorm.networks import make_network, weights_of
from tasks.batchnorm.norms import CentreOnly, NoisyBatchNorm, ScaleOnly, Standardise, groups_of, make_norm

SHAPES = [(8, 3), (4, 3, 5, 5)]


def data(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2


def over(x):
    return [0, *range(2, x.dim())]


@pytest.mark.parametrize("shape", SHAPES)
def test_centring_and_scaling_together_are_torchs_batch_norm(shape):
    ours = Standardise(3, centre=True, scale=True)
    theirs = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    for seed in range(3):
        ins = [data(shape, seed).requires_grad_() for _ in range(2)]
        outs = [norm(x) for norm, x in zip((ours, theirs), ins, strict=True)]
        torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
        for out in outs:
            out.pow(3).sum().backward()
        torch.testing.assert_close(ins[0].grad, ins[1].grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    x = data(shape, 9)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_halves_have_their_closed_forms(shape):
    x = data(shape)
    mean, deviation = x.mean(over(x), keepdim=True), x.std(over(x), correction=0, keepdim=True)
    torch.testing.assert_close(CentreOnly(3)(x), x - mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ScaleOnly(3, epsilon=0)(x), x / deviation, rtol=1e-5, atol=1e-5)
    scaled = ScaleOnly(3, epsilon=0)(x)
    torch.testing.assert_close(scaled.std(over(x), correction=0), torch.ones(3))
    assert (scaled.mean(over(x)).abs() > 0.3).all()  # its mean stays


def test_a_batch_of_one_has_no_statistics():
    with pytest.raises(ValueError, match="two values a channel"):
        CentreOnly(3)(torch.ones(1, 3))


def test_noise_has_the_stated_law():
    """m − μ is uniform, s − σ normal; μ and σ, seen through means over many samples, are uniform over steps."""
    torch.manual_seed(0)
    noisy = NoisyBatchNorm(nn.Identity())
    y = torch.zeros(4000, 300)
    shift, stretch = noisy._noise(y)
    assert shift.shape == stretch.shape == (4000, 300)
    middle = (shift.amin(0) + shift.amax(0)) / 2  # of 4,000 uniform values: μ within ±.0001
    assert kstest((middle + 0.5).numpy(), "uniform").pvalue > 0.01
    assert kstest(((shift - middle + 0.1) / 0.2)[:, 0].numpy(), "uniform").pvalue > 0.01
    assert (shift - middle).abs().max() <= 0.1001
    means = stretch.mean(0)  # σ within ±.0016
    assert kstest(((means - 1) / 0.25).numpy(), "uniform").pvalue > 0.01
    assert kstest(((stretch - means) / 0.1)[:, 0].numpy(), "norm").pvalue > 0.01
    again, _ = noisy._noise(y)
    assert abs(torch.corrcoef(torch.stack([shift.mean(0), again.mean(0)]))[0, 1]) < 0.2  # anew at each step


def test_noise_is_added_to_a_batch_norm_in_training_alone():
    torch.manual_seed(0)
    noisy, plain = make_norm("noisy", 3, spatial=True), nn.BatchNorm2d(3)
    x = data((4, 3, 5, 5))
    state = torch.get_rng_state()
    out, clean = noisy(x), plain(x)
    torch.set_rng_state(state)
    shift, stretch = noisy._noise(clean)
    assert shift.shape == (4, 3, 1, 1)
    torch.testing.assert_close(out, stretch * clean + shift)
    torch.testing.assert_close(noisy.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("spatial", [False, True])
def test_layer_and_group_norm_work_within_a_sample(spatial):
    x = data((4, 8, 3, 3) if spatial else (4, 8))
    layer = make_norm("layer", 8, spatial)(x)
    torch.testing.assert_close(layer.flatten(1).mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer, nn.functional.layer_norm(x, x.shape[1:]), rtol=1e-4, atol=1e-5)
    assert groups_of(8) == 4
    grouped = make_norm("group", 8, spatial)(x).unflatten(1, (4, 2)).flatten(2)
    torch.testing.assert_close(grouped.mean(2), torch.zeros(4, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("placement", ["after", "before"])
@pytest.mark.parametrize(("kind", "shape"), [("mlp", (1, 8, 8)), ("linear", (32,)), ("vgg", (3, 32, 32))])
def test_all_arms_begin_with_equal_weights(kind, shape, placement):
    starts = []
    for arm in ARMS:
        torch.manual_seed(3)
        network = make_network(kind, arm, placement, shape, 10, 8, 5)
        weights = dict(network.named_parameters())
        starts.append([weights[name] for name in weights_of(network)])
        assert network(torch.randn(4, *shape)).shape == (4, 10)
    for other in starts[1:]:
        assert len(other) == len(starts[0]) == (7 if kind == "vgg" else 5)
        assert all(torch.equal(a, b) for a, b in zip(starts[0], other, strict=True))


def test_signals_keep_their_size_through_25_linear_layers():
    torch.manual_seed(0)
    network = make_network("linear", "none", "after", (64,), 64, 64, 25)
    out = network(torch.randn(2000, 64))
    assert 0.1 < out.var().item() < 10


def test_a_vgg_needs_pictures():
    with pytest.raises(InputError, match=r"at least 8 px.*shape \(32,\)"):
        make_network("vgg", "none", "after", (32,), 10, 8, 0)
