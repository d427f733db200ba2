"""Two trainings on the same batches, one of φ = θ/λ and one of θ itself: how far do their trajectories part?

The problem is small and smooth: a network of one hidden layer of tanh learns another one, in float64. Tanh, so that no
gradient is exactly 0 (Adam without ε would divide 0 by 0) and no kink turns a rounding into another trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from tasks.layerwise.gradients import GradientPipeline, Step
from tasks.layerwise.groups import parameter_groups, rule
from tasks.layerwise.reparametrised import reparametrise, theta

SAMPLES, INPUTS, HIDDEN = 256, 8, 16
CLASSES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "sgd": (SGD, {}), "momentum": (SGD, {"momentum": 0.9}), "adam": (Adam, {}), "adamw": (AdamW, {}),
    "rmsprop": (RMSprop, {}),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Samples, the student's first weights and the order of the batches, all by one seed."""

    seed: int
    steps: int
    batch_size: int

    def model(self) -> nn.Module:
        """A network of layers ``body`` and ``head`` with its first weights, float64."""
        return _network(torch.Generator().manual_seed(self.seed))

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs (samples, 8) and targets (samples, 1): what a network of larger weights gives."""
        source = torch.Generator().manual_seed(self.seed + 1)
        x = torch.randn(SAMPLES, INPUTS, generator=source, dtype=torch.float64)
        with torch.no_grad():
            return x, _network(source, gain=2.0)(x)

    def batches(self) -> list[Tensor]:
        """Rows of each step's batch."""
        order = torch.Generator().manual_seed(self.seed + 2)
        return [torch.randperm(SAMPLES, generator=order)[: self.batch_size] for _ in range(self.steps)]


@dataclass(frozen=True)
class Training:
    """How one model is trained: ``body`` and ``head`` are the options of the optimiser for each layer."""

    optimizer: str
    body: dict[str, Any]
    head: dict[str, Any]
    scale: float | None = None
    """λ: the body is trained as φ = θ/λ. None: θ itself."""
    clips: tuple[Step, ...] = field(default=())

    def given(self, **options: Any) -> Training:
        """The same with these options for both layers."""
        return replace(self, body=self.body | options, head=self.head | options)


@dataclass(frozen=True)
class Trajectory:
    """Where a training went."""

    weights: Tensor
    """(steps + 1, parameters) of θ, the start first."""
    first_loss: float
    last_loss: float
    """Mean square errors over all samples."""
    clipped: float
    """Share of the steps in which clipping made the gradients smaller."""


def train(problem: Problem, how: Training) -> Trajectory:
    """Train from the problem's first weights, keeping the weights after each step."""
    model = problem.model()
    if how.scale is not None:
        reparametrise(model, "body.*", how.scale)
    make, options = CLASSES[how.optimizer]
    groups = parameter_groups(model, [rule("body.*"), rule("head.*")], lr=1.0)
    for group, own in zip(groups, (how.body, how.head), strict=True):
        group.update(own)
    optimizer = make(groups, **options)
    x, y = problem.data()
    weights, clipped, first_loss = [_flat(model)], 0, _loss(model, x, y)
    with GradientPipeline(how.clips).attach(optimizer, model):
        for rows in problem.batches():
            optimizer.zero_grad()
            mse_loss(model(x[rows]), y[rows]).backward()
            before = _norm(model) if how.clips else 0.0
            optimizer.step()
            clipped += bool(how.clips) and _norm(model) < before
            weights.append(_flat(model))
    return Trajectory(torch.stack(weights), first_loss, _loss(model, x, y), clipped / problem.steps)


def deviation(one: Trajectory, other: Trajectory) -> Tensor:
    """How far apart two trajectories are after each step, over how far the other one is from the start: (steps,).

    ‖θ_t − θ'_t‖/‖θ'_t − θ'_0‖, over the weights of all layers. 1 is as far apart as it has come.
    """
    apart = (one.weights - other.weights)[1:].norm(dim=1)
    return apart / (other.weights[1:] - other.weights[0]).norm(dim=1)


def _network(source: torch.Generator, gain: float = 1.0) -> nn.Module:
    model = nn.Sequential()
    model.add_module("body", nn.Linear(INPUTS, HIDDEN, dtype=torch.float64))
    model.add_module("tanh", nn.Tanh())
    model.add_module("head", nn.Linear(HIDDEN, 1, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter.shape[-1] if parameter.ndim > 1 else HIDDEN
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64) * gain / width**0.5)
    return model


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in theta(model).values()])


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return mse_loss(model(x), y).item()


def _norm(model: nn.Module) -> float:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
