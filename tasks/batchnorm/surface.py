"""The loss of one batch as a function of the weights: looked at from anywhere, leaving everything as it is.

Source: Santurkar et al. 2018, section 3 (loss and gradients along the gradient, the effective β, covariate shift).
Idea: the network is called with other weights instead of being given them, so that there is nothing to put back:
weights, gradients, running statistics and the generator of random numbers are the same bits before and after.

>>> network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))
>>> x, y = torch.tensor([[2.0]]), torch.tensor([[0.0]])
>>> surface = Surface(network, torch.nn.functional.mse_loss, x, y)
>>> round(top_eigenvalue(surface), 4)
8.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]

REACH, POINTS = (0.5, 4.0), 6
"""How far along the gradient it is looked, in learning rates, and at how many points, evenly in the logarithm."""
CAP = 1e6
"""What counts for a loss, a gradient's change or a β that is larger or no number: one overshoot is not to outweigh all
the rest of a training. A loss above it has diverged."""


class Surface:
    """L(θ) of one batch in training mode, θ all weights in one vector.

    Random numbers that the network draws are the same at every θ, those that it would draw next: noise is part of the
    surface, not a difference between two of its points.
    """

    def __init__(self, network: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> None:
        self._network, self._loss, self._x, self._y = network, loss, x, y
        named = dict(network.named_parameters())
        self.sizes = {name: p.numel() for name, p in named.items()}
        self._shapes = [p.shape for p in named.values()]
        self.here = torch.cat([p.detach().flatten() for p in named.values()])  # θ (parameters,)

    def loss(self, theta: Tensor) -> Tensor:
        """A scalar that can be differentiated by θ (parameters,)."""
        parts = theta.split(list(self.sizes.values()))
        weights = {n: part.view(s) for n, part, s in zip(self.sizes, parts, self._shapes, strict=True)}
        buffers = {name: buffer.clone() for name, buffer in self._network.named_buffers()}
        devices = [self._x.device] if self._x.device.type == "cuda" else []
        with torch.random.fork_rng(devices), _training(self._network):
            return self._loss(functional_call(self._network, {**weights, **buffers}, (self._x,)), self._y)

    def gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """L(θ) and ∇L(θ) (parameters,)."""
        theta = theta.detach().requires_grad_()
        loss = self.loss(theta)
        (gradient,) = torch.autograd.grad(loss, theta)
        return loss.item(), gradient

    def hessian_times(self) -> Callable[[Tensor], Tensor]:
        """v ↦ ∇²L(θ)·v at the weights as they are, by differentiating the gradient once more."""
        theta = self.here.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(theta), theta, create_graph=True)

        def times(v: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(gradient, theta, v, retain_graph=True)
            return product

        return times


@dataclass(frozen=True)
class Landscape:
    """What is seen from θ along −∇L(θ), at `POINTS` distances of `REACH` learning rates."""

    losses: tuple[float, ...]
    changes: tuple[float, ...]
    """‖∇L(θ − aη∇L) − ∇L(θ)‖₂."""
    betas: tuple[float, ...]
    """The same over the distance aη‖∇L‖."""

    @property
    def loss_range(self) -> float:
        return max(self.losses) - min(self.losses)

    @property
    def gradient_change(self) -> float:
        return max(self.changes)

    @property
    def beta(self) -> float:
        """The effective β: the largest change of the gradient over the distance."""
        return max(self.betas)


def look_along(surface: Surface, gradient: Tensor, lr: float) -> Landscape:
    """The landscape along the gradient at θ, which is handed in."""
    losses, changes, betas = [], [], []
    norm = float(gradient.norm())
    for factor in np.geomspace(*REACH, POINTS):
        step = float(factor) * lr
        loss, there = surface.gradient(surface.here - step * gradient)
        change = float((there - gradient).norm())
        losses.append(_capped(loss))
        changes.append(_capped(change))
        betas.append(_capped(change / (step * norm)) if norm > 0 else 0.0)
    return Landscape(tuple(losses), tuple(changes), tuple(betas))


def top_eigenvalue(surface: Surface, tolerance: float = 0.01) -> float:
    """The largest eigenvalue of the Hessian at θ, by Lanczos (ARPACK); NaN where the surface is not finite there.

    Where it does not converge: the largest Rayleigh quotient that was met, a lower bound.
    """
    times, size, met = surface.hessian_times(), len(surface.here), [-math.inf]

    def product(v: np.ndarray) -> np.ndarray:
        vector = torch.from_numpy(v.ravel()).to(surface.here)
        result = times(vector)
        met.append(float(vector @ result / (vector @ vector)))
        return result.cpu().numpy().astype(np.float64)

    first = np.random.default_rng(0).standard_normal(size)
    if not np.isfinite(product(first)).all():
        return math.nan
    if size == 1:
        return met[-1]
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    options = {"ncv": min(size, 12), "maxiter": 10, "tol": tolerance, "v0": first}
    try:
        return float(eigsh(operator, k=1, which="LA", return_eigenvectors=False, **options)[0])
    except ArpackError:
        return max(met)


def covariate_shift(surface: Surface, gradient: Tensor, lr: float, layers: list[str]) -> tuple[float, float]:
    """Internal covariate shift as the paper defines it (definition 2.1), averaged over ``layers``: ‖G − G′‖₂ and cos.

    G is the gradient of a layer's weights at θ, G′ at the same weights of this layer and those behind it, but with
    all layers before it already updated by a step of gradient descent. A layer without any before it is left out.
    """
    starts = dict(zip(surface.sizes, np.cumsum([0, *surface.sizes.values()]).tolist(), strict=False))
    distances, cosines = [], []
    for layer in layers:
        start, end = starts[layer], starts[layer] + surface.sizes[layer]
        if start == 0:
            continue
        moved = surface.here.clone()
        moved[:start] -= lr * gradient[:start]
        after, before = surface.gradient(moved)[1][start:end], gradient[start:end]
        distances.append(_capped(float((after - before).norm())))
        cosine = float(torch.nn.functional.cosine_similarity(after, before, dim=0))
        cosines.append(cosine if math.isfinite(cosine) else 0.0)
    if not distances:
        return 0.0, 1.0
    return float(np.mean(distances)), float(np.mean(cosines))


def layer_spread(surface: Surface, gradient: Tensor, layers: list[str]) -> float:
    """How unequally a step moves the layers: the standard deviation over layers of ln(‖∇_W L‖/‖W‖)."""
    parts = dict(zip(surface.sizes, zip(*_split(surface, gradient), strict=True), strict=True))
    ratios = [float(g.norm() / w.norm()) for g, w in (parts[layer] for layer in layers)]
    logs = [math.log(max(ratio, 1e-30)) for ratio in ratios if math.isfinite(ratio)]
    return float(np.std(logs)) if logs else 0.0


def _split(surface: Surface, gradient: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    sizes = list(surface.sizes.values())
    return gradient.split(sizes), surface.here.split(sizes)


@contextmanager
def _training(network: nn.Module) -> Iterator[None]:
    """Training mode, and each module's own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _capped(value: float) -> float:
    return min(value, CAP) if math.isfinite(value) else CAP
