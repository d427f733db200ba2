"""What theory says exactly: smoothness of linear regression, divergence at 2/L, the gradient behind a batch norm."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.batchnorm.exact import descent, gradient_behind, smoothness
from tasks.batchnorm.norms import Standardise
from tasks.batchnorm.stability import largest_stable


def samples(seed: int, n: int, d: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=random, dtype=torch.float64)
    return x @ torch.randn(d, d, generator=random, dtype=torch.float64) + 3 * torch.randn(d, generator=random)


@pytest.mark.parametrize(("n", "d"), [(500, 7), (20, 50)])
def test_smoothness_is_the_top_eigenvalue_of_covariance_and_mean(n, d):
    x = samples(0, n, d)
    covariance, mean = torch.cov(x.T, correction=0), x.mean(0)
    whole = torch.linalg.eigvalsh(covariance + torch.outer(mean, mean))[-1]
    assert smoothness(x) == pytest.approx(float(whole), rel=1e-9)
    assert smoothness(x, centred=True) == pytest.approx(float(torch.linalg.eigvalsh(covariance)[-1]), rel=1e-9)
    correlation = torch.corrcoef(x.T)
    assert smoothness(x, centred=True, scaled=True) == pytest.approx(float(torch.linalg.eigvalsh(correlation)[-1]))


def test_smoothness_of_many_features_is_found_by_lanczos():
    x = samples(1, 400, 300)
    x[:, 5] = 2.0  # one that never varies is not divided by 0
    second = x.T @ x / len(x)
    assert smoothness(x) == pytest.approx(float(torch.linalg.eigvalsh(second)[-1]), rel=1e-9)
    assert math.isfinite(smoothness(x, scaled=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_centring_never_makes_it_less_smooth(seed):
    x = samples(seed, 30, 4)
    assert smoothness(x, centred=True) <= smoothness(x) * (1 + 1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_gradient_descent_diverges_exactly_at_two_over_the_smoothness(centred):
    x = samples(2, 200, 3)
    x = x - x.mean(0) if centred else x
    target = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    limit = 2 / smoothness(x)
    below, at, above = (descent(x, target, factor * limit, 4000) for factor in (0.999, 1.0, 1.001))
    assert below[-1] < 0.01 * below[0]
    assert at[-1] == pytest.approx(at[-2], rel=1e-6)  # to and fro along the steepest direction
    assert at[-1] > 1e-6
    assert above[-1] > 10 * above[0]
    assert above[-1] > above[-2] > above[-3]


def test_bisection_finds_two_over_the_smoothness():
    x = samples(3, 200, 3)
    target = x @ torch.ones(3, dtype=torch.float64)

    def converges(lr: float) -> bool:
        losses = descent(x, target, lr, 3000)
        return losses[-1] <= max(losses[1500], 1e-20)  # a square of rounding errors

    found = largest_stable(converges, 1e-4, 10.0, ratio=1.001)
    assert found == pytest.approx(2 / smoothness(x), rel=2e-3)
    assert largest_stable(lambda lr: True, 0.1, 10.0) == 10.0
    assert largest_stable(lambda lr: False, 0.1, 10.0) == 0.1


@pytest.mark.parametrize("m", [3, 16, 100])
def test_the_gradient_behind_a_batch_norm_has_one_over_m(m):
    random = torch.Generator().manual_seed(m)
    y = torch.randn(m, generator=random, dtype=torch.float64) * 3 + 1
    g, gamma = torch.randn(m, generator=random, dtype=torch.float64), 0.7
    g = g + (y - y.mean()) * 0.5  # along ŷ, so that the term in question matters
    leaf = y.clone().requires_grad_()
    norm = Standardise(1, centre=True, scale=True, epsilon=0).double()  # torch's own refuses ε = 0
    out = gamma * norm(leaf[:, None])[:, 0]
    (through,) = torch.autograd.grad(out, leaf, g)
    exact = float(through.square().sum())
    assert gradient_behind(y, g, gamma) == pytest.approx(exact, rel=1e-10)
    assert abs(gradient_behind(y, g, gamma, printed=True) / exact - 1) > 0.05  # the misprint
