"""The arms: what stands between a layer and its nonlinearity.

Source: Ioffe and Szegedy 2015 (BN), Santurkar et al. 2018 (noisy BN), Su Jianlin, kexue.fm/archives/6992 (its halves).
Idea: BN subtracts a channel's mean over batch and space and divides by its standard deviation. Each half can be had
alone, and its distributions can be upset again by noise, so that what helps can be told from what comes along.

>>> x = torch.tensor([[1.0], [3.0]])
>>> CentreOnly(1)(x).flatten().tolist(), ScaleOnly(1, epsilon=0)(x).flatten().tolist()
([-1.0, 1.0], [1.0, 3.0])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks.batchnorm import BATCH_NORMS

EPSILON, MOMENTUM = 1e-5, 0.1


class Standardise(nn.Module):
    """γ·y + β with y = x − μ, x/σ or (x − μ)/σ, by channel, over batch and space: (n, c, …) → the same.

    σ is the standard deviation, about the mean, in all three: dividing by it alone leaves the mean at μ/σ. ``eval``
    uses running statistics as `torch.nn.BatchNorm2d` keeps them (momentum .1, variance unbiased); with both halves
    it is that module.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, centre: bool, scale: bool, epsilon: float = EPSILON) -> None:
        super().__init__()
        self._centre, self._scale, self._epsilon = centre, scale, epsilon
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self._statistics(x) if self.training else (self.running_mean, self.running_var)
        shape = (1, -1, *[1] * (x.dim() - 2))
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self._scale:
            weight = weight * torch.rsqrt(variance + self._epsilon)
        if self._centre:
            bias = bias - weight * mean
        return x * weight.view(shape) + bias.view(shape)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        over = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError(f"a batch norm needs two values a channel, got shape {tuple(x.shape)}")
        variance, mean = torch.var_mean(x, over, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(variance * (count / (count - 1)), MOMENTUM)
        return mean, variance


class CentreOnly(Standardise):
    """γ(x − μ) + β."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, centre=True, scale=False)


class ScaleOnly(Standardise):
    """γx/σ + β."""

    def __init__(self, channels: int, epsilon: float = EPSILON) -> None:
        super().__init__(channels, centre=False, scale=True, epsilon=epsilon)


class NoisyBatchNorm(nn.Module):
    """BN, whose output is then shifted and stretched by noise that is neither zero-mean nor the same at any two steps.

    Each forward pass in training draws for each channel μ ~ U(−.5, .5) and σ ~ U(1, 1.25), then for each sample and
    channel m ~ U(μ − .1, μ + .1) and s ~ N(σ, .1²), and gives s·y + m (appendix A of the paper). None in ``eval``.
    """

    SHIFT, STRETCH, SPREAD = 0.5, 1.25, 0.1

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        if not self.training:
            return y
        shift, stretch = self._noise(y)
        return stretch * y + shift

    def _noise(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, each (n, c, 1, …)."""
        samples, channels = y.shape[:2]
        mean = y.new_empty(1, channels).uniform_(-self.SHIFT, self.SHIFT)
        deviation = torch.empty_like(mean).uniform_(1, self.STRETCH)
        shift = mean + y.new_empty(samples, channels).uniform_(-self.SPREAD, self.SPREAD)
        stretch = deviation + self.SPREAD * y.new_empty(samples, channels).normal_()
        shape = (samples, channels, *[1] * (y.dim() - 2))
        return shift.view(shape), stretch.view(shape)


def make_norm(arm: str, channels: int, spatial: bool) -> nn.Module:
    """The arm's layer for (n, c, h, w) where ``spatial``, else (n, c). Draws no random number: all arms start alike."""
    batch: Any = nn.BatchNorm2d if spatial else nn.BatchNorm1d
    match arm:
        case "none":
            return nn.Identity()
        case "batch":
            return batch(channels, EPSILON, MOMENTUM)
        case "centre":
            return CentreOnly(channels)
        case "scale":
            return ScaleOnly(channels)
        case "noisy":
            return NoisyBatchNorm(batch(channels, EPSILON, MOMENTUM))
        case "layer":  # one group of all channels is layer norm, on images too
            return nn.GroupNorm(1, channels, EPSILON)
        case "group":
            return nn.GroupNorm(groups_of(channels), channels, EPSILON)
    raise ValueError(f"no arm '{arm}'")


def groups_of(channels: int) -> int:
    """The most groups, up to 8, that leave at least two channels in each; 1 where there are none."""
    return max((g for g in range(1, 9) if channels % g == 0 and channels // g >= 2), default=1)


def needs_pairs(arm: str) -> bool:
    """Whether the arm computes statistics over the batch, so that a batch of one has none."""
    return arm in BATCH_NORMS
