"""Densities, modes, Fréchet distance and anomaly scores against closed forms and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from tasks.ebgan.metrics import anomaly, density_kl, frechet, inception_score, kl_to_uniform, modes
from tasks.ebgan.toys import NAMES, Toy, make_toy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_that_of_the_samples(name):
    """It sums to 1 over the plane, and gives squares the shares of samples that fall into them."""
    toy = make_toy(name)
    cells = 720 if toy.is_modal else 240
    axis = (torch.arange(cells) + 0.5) / cells * 2 * toy.extent - toy.extent
    area = (2 * toy.extent / cells) ** 2
    mass = toy.log_density(torch.cartesian_prod(axis, axis)).double().exp().view(8, cells // 8, 8, cells // 8) * area
    assert mass.sum().item() == pytest.approx(1, abs=2e-3)
    x = toy.draw(20_000, seeded())
    place = ((x + toy.extent) / (2 * toy.extent) * 8).floor().clamp(0, 7).long()
    shares = torch.bincount(place[:, 0] * 8 + place[:, 1], minlength=64) / len(x)
    assert (shares - mass.sum((1, 3)).flatten()).abs().max().item() < 5 * math.sqrt(0.1 / len(x))


def test_modes_of_the_truth_and_of_a_collapse():
    toy = make_toy("gaussians")
    truth = modes(toy.draw(50_000, seeded()), toy)
    assert truth["modes"] == 25
    assert truth["quality"] == pytest.approx(1 - math.exp(-8), abs=5e-4)
    assert truth["kl"] < 24 / 50_000 * 2  # half the degrees of freedom over n, on average
    one = modes(toy.centres[3].expand(100, 2), toy)
    assert (one["modes"], one["quality"]) == (1, 1)
    assert one["kl_uniform"] == pytest.approx(math.log(25))
    assert one["kl"] == pytest.approx(math.log(25) - math.log(1 - math.exp(-8)))
    nowhere = modes(torch.full((100, 2), 9.0), toy)
    assert (nowhere["modes"], nowhere["quality"], nowhere["kl"]) == (0, 0, 8)
    assert nowhere["kl_uniform"] == math.log(25)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_kl_to_uniform_lies_between_0_and_the_log_of_the_number(counts):
    kl = kl_to_uniform(torch.tensor(counts, dtype=torch.float64))
    assert -1e-12 <= kl <= math.log(len(counts)) + 1e-12


def test_density_kl_of_wider_gaussians_is_known():
    """Modes far apart, twice as wide: ln 4 + ¼ − 1 in the plane."""
    toy = make_toy("gaussians")
    wide = Toy(toy.name, toy.centres, 2 * toy.sigma, toy.extent, is_modal=True)
    assert density_kl(lambda x: -toy.log_density(x), toy) == pytest.approx(0, abs=1e-6)
    assert density_kl(lambda x: -wide.log_density(x) + 7, toy) == pytest.approx(math.log(4) - 0.75, abs=5e-3)


def test_frechet_against_the_matrix_root():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(300, 6)) @ random.normal(size=(6, 6)), random.normal(0.5, 2, (400, 6))
    first, second = np.cov(ours.T, bias=True), np.cov(theirs.T, bias=True)
    gap = np.square(ours.mean(0) - theirs.mean(0)).sum()
    assert frechet(ours, theirs) == pytest.approx(gap + np.trace(first + second - 2 * sqrtm(first @ second).real))
    assert frechet(ours, ours) == pytest.approx(0, abs=1e-9)
    flat = np.concatenate([ours, np.zeros((300, 3))], 1)  # singular covariances
    assert frechet(flat, flat) == pytest.approx(0, abs=1e-9)
    assert frechet(ours[:4], theirs) > 0  # fewer samples than features


def test_inception_score_of_certain_and_of_blind_classes():
    assert inception_score(np.eye(10)) == pytest.approx(10)
    assert inception_score(np.full((7, 10), 0.1)) == pytest.approx(1)


def test_anomalies_called_above_a_percentile():
    scores = torch.arange(10.0)
    anomalous = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 0, 1], dtype=torch.bool)
    found = anomaly(scores, anomalous, 80)
    assert (found["precision"], found["recall"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert anomaly(torch.zeros(10), anomalous, 80)["f1"] == 0  # nothing lies above
