"""Integrated gradients: how much of a score's change is each input's?

Source: Su Jianlin, kexue.fm/archives/7533; Sundararajan, Taly and Yan 2017, arXiv 1703.01365.
Idea: F(x) − F(x̄) = Σᵢ (x − x̄)ᵢ ∫₀¹ ∂ᵢF(x̄ + α(x − x̄)) dα holds exactly, so input i is given its term of the sum. How far
the terms are from adding up, the completeness gap, is what a quadrature left over, and it is known for each input.

>>> import torch
>>> from tasks.attribution.gradients import Gradients
>>> product = Gradients(lambda rows, items: rows[:, 0] * rows[:, 1])
>>> found = integrated_gradients(product, torch.tensor([[3.0, 2.0]]), torch.zeros(1, 2))
>>> found.maps.tolist(), bool(found.reached.all())
([[3.0, 3.0]], True)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.api import InputError
from tasks.attribution import adaptive
from tasks.attribution.gradients import Gradients, Score
from tasks.attribution.quadrature import RULES, rule

FIRST = 8  # nodes that a rule of fixed nodes begins with
METHODS = ("adaptive", *RULES)


@dataclass(frozen=True)
class Attribution:
    """Of n items: ``maps`` like the inputs (n, …); all others (n,), float64 unless told otherwise."""

    maps: Tensor
    change: Tensor
    """F(x) − F(x̄)."""
    gap: Tensor
    """The sum of a map less the change."""
    nodes: Tensor
    """Gradients that an item took, int64; those of coarser rules on the way counted too."""
    reached: Tensor
    """bool: whether the gap is within the tolerance."""
    tiny: Tensor
    """bool: whether the change is so small that ``absolute`` decided, not the tolerance."""

    @property
    def relative(self) -> Tensor:
        """|gap| / |change|; infinite where nothing changes but the map says so."""
        ratio = self.gap.abs() / self.change.abs()
        return torch.where(self.gap == 0, torch.zeros_like(ratio), ratio)


def integrated_gradients(
    gradients: Gradients, inputs: Tensor, baselines: Tensor, *, method: str = "adaptive", tolerance: float = 0.01,
    max_nodes: int = 1024, absolute: float = 1e-4,
) -> Attribution:  # fmt: skip
    """Integrate each item (n, …) from its baseline (n, …, or one that broadcasts) until its own gap is small enough.

    An item is done when |gap| ≤ max(tolerance·|change|, absolute), ``absolute`` in units of the score, or when the
    next step would exceed ``max_nodes``. ``adaptive`` refines where the path is rough (`adaptive`); the other
    methods double their nodes from 8 on. Raises `InputError` for tensors that do not fit each other.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance={tolerance}: the completeness gap to reach must be above 0, such as 0.01")
    if method not in METHODS:
        raise InputError(f"no method '{method}'; there are {', '.join(METHODS)}")
    baselines = matched(inputs, baselines)
    if method == "adaptive":
        return _assembled(adaptive.integrate(gradients, inputs, baselines, tolerance, max_nodes, absolute), tolerance,
                          absolute)  # fmt: skip
    return _doubled(gradients, inputs, baselines, method, tolerance, max_nodes, absolute)


def fixed(gradients: Gradients, inputs: Tensor, baselines: Tensor, method: str, nodes: int) -> Tensor:
    """Maps (n, …) by a rule of ``nodes`` fixed nodes: n × nodes gradients, no more than ``max_rows`` held at once."""
    baselines = matched(inputs, baselines)
    alphas, weights = (torch.as_tensor(v, device=inputs.device) for v in rule(method, nodes))
    items = torch.arange(len(inputs), device=inputs.device).repeat_interleave(nodes)
    sums = torch.zeros_like(inputs)
    for pairs in torch.arange(len(items), device=inputs.device).split(gradients.max_rows):
        item, node = items[pairs], pairs % nodes
        _, gradient = gradients(points(inputs[item], baselines[item], alphas[node]), item)
        sums.index_add_(0, item, gradient.mul_(_column(weights[node], gradient)))
    return sums * (inputs - baselines)


def matched(inputs: Tensor, baselines: Tensor) -> Tensor:
    """The baselines, one an item. Raises `InputError` when they are of another size."""
    if len(inputs) == 0:
        raise InputError("there is nothing to explain: no inputs were given")
    if baselines.dim() != inputs.dim() or baselines.shape[1:] != inputs.shape[1:]:
        raise InputError(
            f"inputs are {tuple(inputs.shape)} and baselines {tuple(baselines.shape)}: all of one size are needed"
        )
    if len(baselines) not in (1, len(inputs)):
        raise InputError(f"{len(inputs)} inputs need one baseline or {len(inputs)} of them, got {len(baselines)}")
    return baselines.expand_as(inputs)


def points(inputs: Tensor, baselines: Tensor, alphas: Tensor) -> Tensor:
    """x̄ + α(x − x̄) for rows (r, …) and α (r,)."""
    return torch.lerp(baselines, inputs, _column(alphas, inputs))


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _doubled(
    gradients: Gradients, inputs: Tensor, baselines: Tensor, method: str, tolerance: float, max_nodes: int,
    absolute: float,
) -> Attribution:  # fmt: skip
    """A rule of 8, 16, 32 … nodes; items that are done leave the batch."""
    every = torch.arange(len(inputs), device=inputs.device)
    change = gradients.values(inputs, every).double() - gradients.values(baselines, every).double()
    allowed = (tolerance * change.abs()).clamp(min=absolute)
    maps, gap = torch.zeros_like(inputs), torch.full_like(change, torch.inf)
    taken = torch.zeros_like(every)
    left, nodes = every, min(FIRST, max_nodes)
    while len(left):
        part = Gradients(_of(gradients.score, left), gradients.max_rows)
        maps[left] = fixed(part, inputs[left], baselines[left], method, nodes)
        gradients.evaluated += part.evaluated
        taken[left] += nodes
        gap[left] = maps[left].flatten(1).double().sum(1) - change[left]
        left = left[(gap[left].abs() > allowed[left]) & (taken[left] + 2 * nodes <= max_nodes)]
        nodes *= 2
    return Attribution(maps, change, gap, taken, gap.abs() <= allowed, tolerance * change.abs() < absolute)


def _of(score: Score, items: Tensor) -> Score:
    """The score of some of the items, counted from 0."""
    return lambda rows, index: score(rows, items[index])


def _assembled(paths: list[adaptive.Done], tolerance: float, absolute: float) -> Attribution:
    maps = torch.stack([path.map for path in paths])
    change = torch.tensor([path.change for path in paths], dtype=torch.float64, device=maps.device)
    gap = maps.flatten(1).double().sum(1) - change
    return Attribution(
        maps, change, gap, torch.tensor([path.nodes for path in paths], device=maps.device),
        gap.abs() <= (tolerance * change.abs()).clamp(min=absolute), tolerance * change.abs() < absolute,
    )  # fmt: skip
