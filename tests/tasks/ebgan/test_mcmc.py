"""Chains on energies whose law is known; the wrong correction fails the very test that the right one passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tasks.ebgan.mcmc import ACCEPTANCE, Latent, energy_of, langevin, log_proposal, mala, quadratic

LEAST = 1e-3
"""A p-value below this fails; at fixed seeds nothing of it is left to chance."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unsquared(to, start, gradient, step):
    """The mistake of a public implementation: the norm in the proposal's density is not squared."""
    return -(to - start + 0.5 * step * gradient).flatten(1).norm(dim=1) / (2 * step)


class Mixture(nn.Module):
    """−ln of .3·N(−1, .6²) + .7·N(1, .6²), on the line."""

    sigma = 0.6

    def forward(self, x):
        parts = torch.stack([-(x[:, 0] + 1).square(), -(x[:, 0] - 1).square()], 1) / (2 * self.sigma**2)
        return -torch.logsumexp(parts + torch.tensor([0.3, 0.7]).log(), 1)

    def cdf(self, x):
        return 0.3 * stats.norm.cdf(x, -1, self.sigma) + 0.7 * stats.norm.cdf(x, 1, self.sigma)

    def draw(self, n, generator):
        side = torch.where(torch.rand(n, generator=generator) < 0.3, -1.0, 1.0)
        return (side + self.sigma * torch.randn(n, generator=generator))[:, None]


def p_normal(proposal):
    """The least p over the coordinates of MALA on a Gaussian of unequal widths, begun far too wide."""
    widths = torch.tensor([0.7, 1.0, 1.5])

    def energy(x):
        return 0.5 * (x / widths).square().sum(1), x / widths**2

    chains = mala(energy, 3 * torch.randn(4000, 3, generator=seeded(1)), 200, 0.8, seeded(2), proposal=proposal)
    assert 0.3 < chains.acceptance < 0.97
    return min(stats.kstest((chains.x[:, at] / widths[at]).numpy(), "norm").pvalue for at in range(3))


def p_mixture(proposal):
    law = Mixture()
    chains = mala(energy_of(law), 2 * torch.randn(4000, 1, generator=seeded(3)), 300, 0.7, seeded(4), proposal=proposal)
    return stats.kstest(chains.x[:, 0].numpy(), law.cdf).pvalue


def t_balance(proposal):
    """Under detailed balance as many chains go from the middle to the outside as come back: t of the difference."""
    law = Mixture()
    x = law.draw(200_000, seeded(5))
    to = mala(energy_of(law), x, 1, 1.2, seeded(6), proposal=proposal).x

    def inside(x):
        return (x[:, 0].abs() < 0.5).double()

    def outside(x):
        return (x[:, 0].abs() > 1.5).double()

    gap = inside(x) * outside(to) - inside(to) * outside(x)
    return abs(float(gap.mean() / gap.std() * math.sqrt(len(gap))))


@pytest.mark.parametrize("p_value", [p_normal, p_mixture])
def test_mala_has_the_right_law_and_the_wrong_correction_has_not(p_value):
    assert p_value(log_proposal) > LEAST
    assert p_value(unsquared) < LEAST


def test_detailed_balance():
    assert t_balance(log_proposal) < 3.5
    assert t_balance(unsquared) > 10


def test_langevin_alone_has_the_bias_that_theory_gives_it():
    """On N(0, 1) its stationary variance is 1 / (1 − ε/4); with the correction it is 1."""
    start = torch.randn(40_000, 1, generator=seeded())
    plain = langevin(quadratic, start, 60, 1.0, seeded(1)).x.var().item()
    corrected = mala(quadratic, start, 60, 1.0, seeded(1)).x.var().item()
    error = math.sqrt(2 / 40_000)
    assert plain == pytest.approx(4 / 3, abs=4 * 4 / 3 * error)
    assert corrected == pytest.approx(1, abs=4 * error)


def test_the_proposal_is_a_normal_law():
    to, start, gradient = torch.randn(3, 7, 5, generator=seeded())
    law = torch.distributions.Normal(start - 0.15 * gradient, math.sqrt(0.3))
    assert torch.allclose(
        log_proposal(to, start, gradient, 0.3) - 2.5 * math.log(2 * math.pi * 0.3), law.log_prob(to).sum(1), atol=1e-5
    )


def test_the_step_adapts_to_the_best_acceptance_and_then_stays():
    start = torch.randn(500, 30, generator=seeded())
    for step in (1e-3, 5.0):
        chains = mala(quadratic, start, 300, step, seeded(1), adapt=150)
        assert chains.acceptance == pytest.approx(ACCEPTANCE, abs=0.05)
    again = mala(quadratic, start, 150, chains.step, seeded(2))
    assert again.step == chains.step
    assert again.acceptance == pytest.approx(chains.acceptance, abs=0.03)
    assert mala(quadratic, start, 50, 1e-3, seeded(1), adapt=50, largest=2e-3).step == 2e-3


@pytest.mark.parametrize(("prior", "precision"), [(True, 1 + 1 / 0.5), (False, 1 / 0.5)])
def test_latent_chains_know_the_prior(prior, precision):
    """With G the identity and U = ½‖x‖² at temperature ½, the precision is 1/T, and 1 more with the prior."""

    class Half(nn.Module):
        def forward(self, x):
            return 0.5 * x.square().sum(1)

    latent = Latent(Half(), nn.Identity(), prior, temperature=0.5)
    chains = mala(energy_of(latent, 0.5), torch.randn(20_000, 2, generator=seeded()), 100, 0.3, seeded(1))
    assert chains.x.var().item() == pytest.approx(1 / precision, rel=0.03)


def test_an_energy_that_is_no_number_is_never_entered():
    def cliff(x):
        values, gradient = quadratic(x)
        return torch.where(x[:, 0] > 0, values, torch.nan), gradient

    x = mala(cliff, torch.rand(2000, 1, generator=seeded()) + 0.1, 100, 0.5, seeded(1)).x
    assert bool((x > 0).all())
    assert stats.kstest(x[:, 0].numpy(), "halfnorm").pvalue > LEAST


def test_chains_of_pictures_keep_their_shape():
    chains = mala(quadratic, torch.zeros(300, 1, 4, 4), 150, 0.3, seeded())
    assert chains.x.shape == (300, 1, 4, 4)
    assert chains.energy.shape == (300,)
    assert np.var(chains.x.numpy()) == pytest.approx(1, abs=0.06)
