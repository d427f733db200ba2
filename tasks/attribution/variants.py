"""What integrated gradients is compared and combined with: plain gradients, expected gradients, noisy copies.

Sources: Simonyan et al. 2013, arXiv 1312.6034 (gradients); Erion et al. 2021, arXiv 1906.10670 (expected gradients);
Smilkov et al. 2017, arXiv 1706.03825 (SmoothGrad).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.api import InputError
from tasks.attribution.gradients import Gradients
from tasks.attribution.integrated import Attribution, points


def plain_gradient(gradients: Gradients, inputs: Tensor) -> Tensor:
    """∂F/∂x at the inputs, (n, …)."""
    return gradients(inputs, torch.arange(len(inputs), device=inputs.device))[1]


def noisy(inputs: Tensor, sigma: float, copies: int, generator: torch.Generator) -> Tensor:
    """``copies`` of each input with normal noise on it, (copies, n, …); the inputs themselves where sigma is 0."""
    if sigma == 0:
        return inputs[None]
    noise = torch.randn(copies, *inputs.shape, generator=generator).to(inputs.device)
    return inputs + sigma * noise


def expected_gradients(
    gradients: Gradients, inputs: Tensor, references: Tensor, samples: int, generator: torch.Generator,
    tolerance: float = 0.01, absolute: float = 1e-4,
) -> Attribution:  # fmt: skip
    """The mean of (x − x̄)·∇F(x̄ + α(x − x̄)) over x̄ drawn from ``references`` (m, …) and α stratified over [0, 1].

    The change is F(x) less the mean score of the x̄ that were drawn. It is a Monte Carlo estimate: its gap shrinks like
    the root of ``samples`` and is stated, not driven down. Raises `InputError` for references of another size.
    """
    n = len(inputs)
    if len(references) == 0 or references.shape[1:] != inputs.shape[1:]:
        raise InputError(
            f"inputs are {tuple(inputs.shape)} and references {tuple(references.shape)}: one or more of the inputs' "
            "size are needed"
        )
    drawn = torch.randint(len(references), (n, samples), generator=generator)
    alphas = (torch.arange(samples) + torch.rand(n, samples, generator=generator)) / samples
    maps, change = torch.zeros_like(inputs), torch.zeros(n, dtype=torch.float64, device=inputs.device)
    for item in range(n):
        of = torch.full((samples,), item, device=inputs.device)
        bases, ends = references[drawn[item]].to(inputs), inputs[of]
        _, gradient = gradients(points(ends, bases, alphas[item].to(inputs.device)), of)
        maps[item] = ((ends - bases) * gradient).mean(0)
        change[item] = (
            gradients.values(inputs[item, None], of[:1])[0].double() - gradients.values(bases, of).double().mean()
        )
    gap = maps.flatten(1).double().sum(1) - change
    return Attribution(
        maps, change, gap, torch.full((n,), samples, device=inputs.device),
        gap.abs() <= (tolerance * change.abs()).clamp(min=absolute), tolerance * change.abs() < absolute,
    )  # fmt: skip


def averaged(found: Attribution, paths: int, tolerance: float, absolute: float = 1e-4) -> Attribution:
    """The mean over the ``paths`` of each item, which stand as (paths · n): maps, changes and gaps; nodes add up."""
    if paths == 1:
        return found
    maps, change, gap = (value.unflatten(0, (paths, -1)).mean(0) for value in (found.maps, found.change, found.gap))
    nodes = found.nodes.unflatten(0, (paths, -1)).sum(0)
    reached = gap.abs() <= (tolerance * change.abs()).clamp(min=absolute)
    return Attribution(maps, change, gap, nodes, reached, tolerance * change.abs() < absolute)
