"""Samples of a trained GAN: of its generator alone, and of generator and Markov chain together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tasks.ebgan.analysis import energy_and_gradient
from tasks.ebgan.mcmc import Chains, Energy, Latent, energy_of, langevin, mala
from tasks.ebgan.networks import MlpEnergy
from tasks.ebgan.update import Networks

if TYPE_CHECKING:
    from tasks.ebgan.params import EbganParams

_BLOCK = 4096
_LARGEST = 100.0
"""Times the ε that a chain began with, up to which adaptation goes: a flat energy accepts any step."""


def data_energy(energy: nn.Module, temperature: float) -> Energy:
    """U/T with its gradient: in explicit form where there is one, else by autograd."""
    if not isinstance(energy, MlpEnergy) or energy.spectral:
        return energy_of(energy, temperature)

    def explicit(x: Tensor) -> tuple[Tensor, Tensor]:
        values, gradient = energy_and_gradient(energy, x)
        return values / temperature, gradient / temperature

    return explicit


@torch.no_grad()
def generate(network: nn.Module, z: Tensor) -> Tensor:
    """G(z) in blocks."""
    return torch.cat([network(block) for block in z.split(_BLOCK)])


def sample(params: EbganParams, networks: Networks, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Chains]:
    """The full sampler: chains that begin at z (n, latent), or at its image; returns samples (n, …) and the chains."""
    if params.chain_space == "latent":
        latent = Latent(networks.energy, networks.average, params.chain_prior, params.temperature)
        chains = _run(params, energy_of(latent, params.temperature), z, generator)
        return generate(networks.average, chains.x), chains
    start = generate(networks.average, z)
    chains = _run(params, data_energy(networks.energy, params.temperature), start, generator)
    return chains.x, chains


def _run(params: EbganParams, energy: Energy, start: Tensor, generator: torch.Generator) -> Chains:
    if params.chain == "langevin":
        return langevin(energy, start, params.chain_steps, params.chain_step, generator)
    return mala(
        energy, start, params.chain_steps, params.chain_step, generator,
        adapt=params.chain_steps // 2, largest=params.chain_step * _LARGEST,
    )  # fmt: skip
