"""Baselines, variants, insertion and deletion, randomised weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from tasks.api import InputError
from tasks.attribution.baselines import blurred, make_baselines
from tasks.attribution.faithfulness import (
    area,
    bootstrap,
    insertion_deletion,
    randomise,
    rank_correlation,
    squares,
    stages,
)  # fmt: skip
from tasks.attribution.gradients import Gradients
from tasks.attribution.integrated import integrated_gradients
from tasks.attribution.variants import averaged, expected_gradients, noisy, plain_gradient


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PHOTOS = torch.rand(2, 3, 32, 32, generator=generator())


class Corner(nn.Module):
    """Two classes; the second goes by the mean of the top left quarter alone."""

    def forward(self, photos):
        seen = 200 * (photos[:, :, :16, :16].mean((1, 2, 3)) - 0.93)
        return torch.stack([torch.zeros_like(seen), seen], 1)


def test_baselines():
    mean = torch.full((3, 32, 32), 0.3)
    several = make_baselines("several", PHOTOS, mean)
    assert several.shape == (3, 2, 3, 32, 32)
    assert several[0].abs().max() == 0
    assert torch.equal(several[1, 1], mean)
    torch.testing.assert_close(several[2], blurred(PHOTOS))
    torch.testing.assert_close(blurred(torch.full((1, 3, 9, 9), 0.7)), torch.full((1, 3, 9, 9), 0.7))
    assert blurred(PHOTOS).std() < 0.2 * PHOTOS.std()


def test_a_mean_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"photos of \(3, 32, 32\), got \(3, 16, 16\)"):
        make_baselines("mean", PHOTOS, torch.zeros(3, 16, 16))
    with pytest.raises(InputError, match="got none"):
        make_baselines("several", PHOTOS)
    with pytest.raises(InputError, match="no baseline 'white'"):
        make_baselines("white", PHOTOS)


def test_the_plain_gradient_of_a_quadratic():
    score = Gradients(lambda rows, _: rows.square().flatten(1).sum(1), 1)
    torch.testing.assert_close(plain_gradient(score, PHOTOS), 2 * PHOTOS)


def test_expected_gradients_add_up_in_expectation():
    """On F = Σx² the estimate is unbiased: its gap falls like the root of the samples."""
    x, references = torch.tensor([[1.0, 2.0]]).double(), torch.randn(50, 2, generator=generator(1)).double()
    score = Gradients(lambda rows, _: rows.square().sum(1), 64)
    gaps = {}
    for samples in (16, 1024):
        found = [expected_gradients(score, x, references, samples, generator(k)) for k in range(40)]
        gaps[samples] = float(torch.stack([each.gap[0] for each in found]).square().mean().sqrt())
        assert found[0].nodes.tolist() == [samples]
    assert 4 < gaps[16] / gaps[1024] < 16
    exact = (x - references) * (x + references)  # (x − x̄)·∫ 2(x̄ + α(x − x̄)) dα
    assert float((found[0].maps - exact.mean(0)).abs().max()) < 0.3


def test_expected_gradients_of_a_linear_model_are_exact():
    weight, x = torch.randn(4, generator=generator()), torch.ones(2, 4)
    references = torch.randn(9, 4, generator=generator(1))
    found = expected_gradients(Gradients(lambda rows, _: rows @ weight), x, references, 8, generator())
    assert found.reached.all()
    assert float((found.maps.double().sum(1) - found.change).abs().max()) < 1e-5


def test_noise_is_averaged_and_adds_up_to_the_mean_change():
    copies = noisy(PHOTOS[:1, 0, :4, 0], 0.1, 6, generator())[:, 0]
    score = Gradients(lambda rows, _: rows.pow(3).sum(1))
    found = averaged(integrated_gradients(score, copies, torch.zeros(1, 4)), 6, 0.01)
    assert found.maps.shape == (1, 4)
    torch.testing.assert_close(found.change[0], copies.double().pow(3).sum(1).mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.maps[0].double(), copies.double().pow(3).mean(0), rtol=1e-2, atol=1e-3)
    assert int(found.nodes) == score.evaluated
    assert torch.equal(noisy(PHOTOS, 0, 5, generator()), PHOTOS[None])


def test_squares_add_up_what_pixels_weigh():
    maps = torch.randn(2, 3, 32, 32, generator=generator()).double()
    assert squares(maps, 8).shape == (2, 16)
    torch.testing.assert_close(squares(maps, 8)[1, 5], maps[1, :, 8:16, 8:16].sum(0).abs().sum())
    torch.testing.assert_close(squares(-maps, 8), squares(maps, 8))


def test_a_true_map_inserts_early_and_deletes_early():
    photos = torch.zeros(1, 3, 32, 32)
    photos[:, :, :16, :16] = 1
    true, false = torch.zeros(1, 16), torch.arange(16.0)[None]
    true[0, [0, 1, 4, 5]] = 1
    target = torch.tensor([1])
    insertion, deletion = insertion_deletion(Corner(), photos, target, true, 8)
    assert insertion[0, 0] < 0.5
    assert insertion[0, 4:].min() > 0.99  # the quarter is in after a quarter of the squares
    assert deletion[0, 0] > 0.99
    assert deletion[0, 4:].max() < 0.01
    wrong = insertion_deletion(Corner(), photos, target, false, 8)
    assert area(insertion - deletion)[0] > area(wrong[0] - wrong[1])[0] + 0.5


def test_squares_may_stick_out():
    """30 px in squares of 8: the last ones are cut."""
    photos = PHOTOS[:, :, :30, :30]
    insertion, deletion = insertion_deletion(Corner(), photos, torch.tensor([1, 0]), squares(photos, 8), 8, max_rows=1)
    whole = Corner()(photos).softmax(1)[[0, 1], [1, 0]]
    assert insertion[:, -1] == pytest.approx(whole.numpy(), abs=1e-6)
    assert deletion[:, 0] == pytest.approx(whole.numpy(), abs=1e-6)


def test_ranks_and_references_of_photos_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"2 photos of 32 × 32 px have 16 squares of 8 px each, the .* are \(2, 9\)"):
        insertion_deletion(Corner(), PHOTOS, torch.tensor([1, 0]), torch.zeros(2, 9), 8)
    score = Gradients(lambda rows, _: rows.flatten(1).sum(1))
    with pytest.raises(InputError, match=r"inputs are \(2, 3, 32, 32\) and references \(5, 3, 16, 16\)"):
        expected_gradients(score, PHOTOS, torch.zeros(5, 3, 16, 16), 4, generator())
    with pytest.raises(InputError, match=r"references \(0, 3, 32, 32\): one or more"):
        expected_gradients(score, PHOTOS, PHOTOS[:0], 4, generator())


def test_area_and_bootstrap():
    assert area(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [0.5, 1.0]
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, low, high = bootstrap(values)
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap(np.array([2.0])) == (2, 2, 2)


def test_rank_correlation_is_spearmans():
    a, b = torch.randn(2, 3, 5, 5, generator=generator()), torch.randn(2, 3, 5, 5, generator=generator(1))
    expected = [spearmanr(x.abs().flatten(), y.abs().flatten()).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert rank_correlation(a, torch.ones_like(a)).tolist() == [0, 0]


def test_stages_go_from_the_top_and_weights_become_random_there_alone():
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(3, 3, 1))
    net.add_module("blocks", inner)
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.LazyLinear(2))
    net(torch.zeros(1, 3, 8, 8))
    assert stages(net) == ["head", "blocks", "stem"]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    randomise(net, "blocks", generator())
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("blocks")}
    weight = net.state_dict()["blocks.2.weight"]
    assert float(weight.std()) == pytest.approx(float(before["blocks.2.weight"].std()), rel=0.3)
