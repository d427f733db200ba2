"""Markov chains on an energy: Langevin steps, and MALA, which accepts or rejects each of them.

Sources: Su Jianlin, kexue.fm/archives/6331 (Langevin in a generator's latent space); Roberts & Tweedie 1996 (MALA);
Che et al. 2020, arXiv 2003.06060 (the latent energy ½‖z‖² + U(G(z))). Idea: x' = x − ½ε∇U(x) + √ε·ξ has e^{−U} as its
stationary law only in the limit ε → 0; accepting it with probability min(1, e^{U(x) − U(x')} q(x|x') / q(x'|x)), where
ln q(x'|x) = −‖x' − x + ½ε∇U(x)‖² / 2ε, makes that exact for every ε.

>>> chain = mala(quadratic, torch.zeros(20_000, 1), 60, 0.5, torch.Generator().manual_seed(0))
>>> bool(abs(chain.x.var() - 1) < 0.03), 0.8 < chain.acceptance < 1
(True, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Energy = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (n, …) → their energies (n,) and its gradients (n, …)."""
Proposal = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""``(to, start, gradient at start, step) → ln q(to | start)`` up to a constant, (n,)."""

ACCEPTANCE = 0.574
"""The acceptance at which MALA is fastest in high dimensions (Roberts & Rosenthal 1998)."""


@dataclass(frozen=True)
class Chains:
    """Where n independent chains are, and how they came there."""

    x: Tensor
    energy: Tensor
    acceptance: float
    """Mean over chains and over the steps after adaptation; 1 without a correction."""
    step: float
    """ε of the last step."""


def quadratic(x: Tensor) -> tuple[Tensor, Tensor]:
    """½‖x‖², the energy of a standard normal law."""
    return 0.5 * x.flatten(1).square().sum(1), x


def log_proposal(to: Tensor, start: Tensor, gradient: Tensor, step: float) -> Tensor:
    """ln q(to | start) of a Langevin step, up to a constant."""
    return -(to - start + 0.5 * step * gradient).flatten(1).square().sum(1) / (2 * step)


def langevin(energy: Energy, x: Tensor, steps: int, step: float, generator: torch.Generator) -> Chains:
    """``steps`` uncorrected steps of size ε = ``step``."""
    for _ in range(steps):
        _, gradient = energy(x)
        x = x - 0.5 * step * gradient + math.sqrt(step) * _noise(x, generator)
    return Chains(x, energy(x)[0], 1.0, step)


def mala(
    energy: Energy, x: Tensor, steps: int, step: float, generator: torch.Generator, *,
    adapt: int = 0, largest: float = math.inf, proposal: Proposal = log_proposal,
) -> Chains:  # fmt: skip
    """``steps`` corrected steps. During the first ``adapt`` of them ε moves towards `ACCEPTANCE`, up to ``largest``.

    Only the steps after those leave e^{−U} invariant, and only these count as ``acceptance``. ``proposal`` is there to
    be wrong in tests.
    """
    x = x.clone()
    now, gradient = energy(x)
    accepted, counted = 0.0, 0
    for at in range(steps):
        to = x - 0.5 * step * gradient + math.sqrt(step) * _noise(x, generator)
        after, gradient_after = energy(to)
        log_ratio = now - after + proposal(x, to, gradient_after, step) - proposal(to, x, gradient, step)
        chance = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype).log()
        yes = chance < log_ratio  # NaN is no smaller: a proposal without an energy is refused
        wide = yes.view(-1, *(1,) * (x.dim() - 1))
        x, gradient = torch.where(wide, to, x), torch.where(wide, gradient_after, gradient)
        now = torch.where(yes, after, now)
        share = float(yes.float().mean())
        if at < adapt:
            step = min(largest, step * math.exp(2 * (share - ACCEPTANCE) / (1 + at) ** 0.3))
        else:
            accepted, counted = accepted + share, counted + 1
    return Chains(x, now, accepted / max(1, counted), step)


def energy_of(network: nn.Module, temperature: float = 1.0) -> Energy:
    """U/T of a network that maps points to (n,) energies."""

    def energy(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            values = network(leaf) / temperature
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient

    return energy


class Latent(nn.Module):
    """z → U(G(z)), with ½‖z‖²·T added when the prior counts, so that dividing by T leaves the prior as it is."""

    def __init__(self, energy: nn.Module, generator: nn.Module, prior: bool, temperature: float = 1.0) -> None:
        super().__init__()
        self._energy, self._generator = energy, generator
        self._prior = temperature if prior else 0.0

    def forward(self, z: Tensor) -> Tensor:
        values: Tensor = self._energy(self._generator(z))
        return values + self._prior * 0.5 * z.square().sum(1)


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
