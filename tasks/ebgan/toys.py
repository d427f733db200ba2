"""Laws in the plane whose density is known: 25 Gaussians, a swiss roll, two moons.

The grid is the paper's: centres {−4, −2, 0, 2, 4}², standard deviation .05, all divided by 2.828. Roll and moons are a
curve, run through evenly by a parameter, plus Gaussian noise: the density is an integral over the parameter, taken by
the midpoint rule at nodes that are closer together than the noise is wide.

>>> law = make_toy("gaussians")
>>> law.centres.shape, round(float(law.log_density(law.centres[:1]).exp()), 2)  # 1 / (25 · 2πσ²)
(torch.Size([25, 2]), 20.37)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("gaussians", "swissroll", "moons")
_NODES = 400


@dataclass(frozen=True)
class Toy:
    """An even mixture of Gaussians of one width around ``centres`` (m, 2); those of a curve are its nodes."""

    name: str
    centres: Tensor
    sigma: float
    extent: float
    """Samples lie within ±extent but for a share too small to matter."""
    is_modal: bool
    """Whether the centres are modes, to be counted; else they are nodes of a curve."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2) samples. Those of a curve are of the mixture over its nodes, whose density `log_density` is."""
        device = generator.device
        which = torch.randint(len(self.centres), (n,), generator=generator, device=device)
        return self.centres.to(device)[which] + self.sigma * torch.randn(n, 2, generator=generator, device=device)

    def log_density(self, x: Tensor) -> Tensor:
        """(n, 2) → ln p (n,), a block of rows at a time."""
        constant = math.log(len(self.centres) * 2 * math.pi * self.sigma**2)
        found = [
            torch.logsumexp(-torch.cdist(block, self.centres.to(x)).square() / (2 * self.sigma**2), 1)
            for block in x.split(4096)
        ]
        return torch.cat(found) - constant


def make_toy(name: str) -> Toy:
    if name == "gaussians":
        axis = torch.arange(-4.0, 5.0, 2.0) / 2.828
        return Toy(name, torch.cartesian_prod(axis, axis), 0.05 / 2.828, 1.8, is_modal=True)
    nodes = (torch.arange(_NODES) + 0.5) / _NODES
    if name == "swissroll":
        turn = 1.5 * math.pi * (1 + 2 * nodes)
        curve = torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / 10
        return Toy(name, curve, 0.05, 1.8, is_modal=False)
    half = nodes * math.pi
    upper = torch.stack([half.cos(), half.sin()], 1)
    lower = torch.stack([1 - half.cos(), 0.5 - half.sin()], 1)
    return Toy(name, torch.cat([upper, lower]) - torch.tensor([0.5, 0.25]), 0.1, 2.0, is_modal=False)
