"""The largest stable learning rate, by bisection.

Source: Su Jianlin, kexue.fm/archives/6992 (η < 2/L); what the study asks of networks, where no formula gives it.

>>> round(largest_stable(lambda lr: lr < 2.0, 0.001, 1000.0, ratio=1.001), 2)
2.0
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tasks.batchnorm.surface import Loss

LOW, HIGH, RATIO = 2.0**-12, 2.0**6, 2**0.25
"""Where it is sought, and how closely: to a quarter of an octave."""


def largest_stable(
    stable: Callable[[float], bool], low: float = LOW, high: float = HIGH, ratio: float = RATIO
) -> float:
    """The largest rate found stable, within a factor ``ratio`` of one that is not; ``low`` if none is, ``high`` if all.

    Bisection in the logarithm: supposes that whatever lies below a stable rate is stable too.
    """
    if stable(high):
        return high
    while high / low > ratio:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def trains(network: nn.Module, loss: Loss, batches: Sequence[tuple[Tensor, Tensor]], lr: float) -> bool:
    """Whether SGD over these batches, one step each, lowers the loss: its mean over the last quarter of them is below
    the first batch's, and it is finite throughout. Works on a copy, and draws its noise aside."""
    network = copy.deepcopy(network).train()
    weights: list[Tensor] = list(network.parameters())
    losses: list[float] = []
    devices = [weights[0].device] if weights[0].device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for x, y in batches:
            value = loss(network(x), y)
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                return False
            gradients = torch.autograd.grad(value, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, gradients, alpha=-lr)
    last = losses[-max(1, len(losses) // 4) :]
    return sum(last) / len(last) < losses[0]
