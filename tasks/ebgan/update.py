"""One update of an energy-based GAN: some analysis steps of the energy net, then one sampling step of the generator.

Sources: Su Jianlin, kexue.fm/archives/6331; Kumar et al. 2019, arXiv 1901.08508. Idea: the generator lowers
E_z U(G(z)) − w·H(G(z)). G is deterministic, so H(G(z)) is the mutual information I(G(z), z) up to a constant, of which
there are two estimates: ``js``, E[−sp(−T(x, z))] − E[sp(T(x, z̃))] with a statistics network and z̃ drawn apart from x;
``infogan``, the bound −‖z − E(x)‖² (up to constants) with an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tasks.ebgan.analysis import Analysis, analysis_gradients
from tasks.ebgan.networks import Statistics, make_energy, make_entropy, make_generator

if TYPE_CHECKING:
    from tasks.ebgan.params import EbganParams


@dataclass(frozen=True)
class Sampling:
    """What a generator step saw; 0-dimensional tensors."""

    energy: Tensor
    """E_z U(G(z))."""
    information: Tensor
    """The estimate of I(G(z), z); 0 without one."""
    loss: Tensor


class Networks(nn.Module):
    """U, G, the network behind the entropy, and G's moving average: all that a sampler or a checkpoint needs."""

    def __init__(self, params: EbganParams, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.energy = make_energy(params, shape)
        self.generator = make_generator(params, shape)
        self.entropy = make_entropy(params, shape)
        self.average = make_generator(params, shape).requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters())


class Updater:
    """The optimizers and the two steps. Draws nothing itself: batches and z are handed to it."""

    def __init__(self, params: EbganParams, networks: Networks) -> None:
        self._params, self.networks = params, networks
        betas = (params.beta1, params.beta2)
        self._analysis = torch.optim.Adam(networks.energy.parameters(), params.lr, betas, fused=True)
        played = [*networks.generator.parameters()]
        if networks.entropy is not None:
            played += networks.entropy.parameters()
        self._sampling = torch.optim.Adam(played, params.generator_lr, betas, fused=True)
        self._weights: list[Tensor] = list(networks.generator.parameters())
        self._averaged: list[Tensor] = list(networks.average.parameters())

    def anneal(self, factor: float) -> None:
        """Set both learning rates to this share of what they began with."""
        for optimizer, lr in ((self._analysis, self._params.lr), (self._sampling, self._params.generator_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def analyse(self, real: Tensor, fake: Tensor) -> Analysis:
        """One step of the energy net on (n, …) data and as many samples of the generator."""
        found = analysis_gradients(self.networks.energy, real, fake, self._params.penalty, self._params.penalty_norm)
        self._analysis.step()
        return found

    def sample(self, z: Tensor, apart: Tensor) -> Sampling:
        """One step of the generator, and of the network behind the entropy, on z (n, latent).

        ``apart`` (n, latent) are draws that have nothing to do with z. No gradient of U's weights is computed.
        """
        networks, params = self.networks, self._params
        networks.energy.requires_grad_(False)
        x = networks.generator(z)
        energy = networks.energy(x).mean()
        information = mutual_information(networks.entropy, x, z, apart, params.information_weight)
        loss = energy - params.entropy_weight * information
        self._sampling.zero_grad(set_to_none=True)
        loss.backward()
        self._sampling.step()
        networks.energy.requires_grad_(True)
        self._average()
        return Sampling(energy.detach(), information.detach(), loss.detach())

    def state(self) -> dict[str, Any]:
        return {
            "networks": self.networks.state_dict(), "analysis": self._analysis.state_dict(),
            "sampling": self._sampling.state_dict(),
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Weights and moments of a checkpoint; learning rates are those of ``params``."""
        self.networks.load_state_dict(state["networks"])
        for optimizer, kept in ((self._analysis, state["analysis"]), (self._sampling, state["sampling"])):
            settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(kept)
            for group, own in zip(optimizer.param_groups, settings, strict=True):
                group.update(own)

    @torch.no_grad()
    def _average(self) -> None:
        torch._foreach_lerp_(self._averaged, self._weights, 1 - self._params.ema)
        for kept, now in zip(self.networks.average.buffers(), self.networks.generator.buffers(), strict=True):
            kept.copy_(now)


def mutual_information(network: nn.Module | None, x: Tensor, z: Tensor, apart: Tensor, weight: float = 1.0) -> Tensor:
    """The estimate of I(x, z) that the network stands for; ``weight`` is λ₂ of the encoder's bound."""
    if network is None:
        return x.new_zeros(())
    if isinstance(network, Statistics):
        seen = network.see(x)
        together, alone = network.scores(torch.cat([seen, seen]), torch.cat([z, apart])).chunk(2)
        return -softplus(-together).mean() - softplus(alone).mean()
    return -weight * (z - network(x)).square().sum(1).mean()
