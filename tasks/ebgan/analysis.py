"""The analysis step: what the energy net learns, E_data U(x) − E_z U(G(z)) + λ·E_data ‖∇ₓU(x)‖².

Source: Su Jianlin, kexue.fm/archives/6331; Kumar et al. 2019, arXiv 1901.08508. Idea: U falls at the data and rises at
what the generator makes, and the penalty, centred at zero and on data alone, keeps it flat where data is.

The penalty's gradient through autograd takes a backward pass through a backward pass. For leaky ReLUs, whose slopes do
not change with the weights almost everywhere, it has a short explicit form. With h_l = W_l a_l + b_l, δ_l = c·∂U/∂h_l,
where c = 1/n for data and −1/n for the generator's samples, and on data the tangent v_0 = 2λ∇ₓU, v_{l+1} =
φ'(h_l) ⊙ W_l v_l, the gradient of the whole loss is

    ∂/∂W_l = δ_lᵀ (a_l + v_l):

one product a layer for both terms, where autograd takes three, and no graph is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tasks.ebgan.networks import SLOPE, MlpEnergy

Reading = Literal["image", "pixel"]
"""``image``: ‖∇U‖² over the whole sample. ``pixel``: over the channels of each pixel, and the mean over pixels."""


@dataclass(frozen=True)
class Analysis:
    """The loss in its parts; 0-dimensional tensors without a graph unless they come from `analysis_loss`."""

    real: Tensor
    """E_data U(x)."""
    fake: Tensor
    """E_z U(G(z))."""
    penalty: Tensor
    """E_data ‖∇ₓU(x)‖², without λ."""
    weight: float
    """λ."""

    @property
    def loss(self) -> Tensor:
        return self.real - self.fake + self.weight * self.penalty


def squared_norm(gradient: Tensor, reading: Reading) -> Tensor:
    """‖∇U‖² of each sample (n,)."""
    if reading == "pixel" and gradient.dim() == 4:
        return gradient.square().sum(1).mean((1, 2))
    return gradient.flatten(1).square().sum(1)


def analysis_loss(energy: nn.Module, real: Tensor, fake: Tensor, weight: float, reading: Reading = "image") -> Analysis:
    """The loss by autograd, for any energy net. ``real`` and ``fake`` are (n, …) each."""
    leaf = real.detach().requires_grad_()
    values = energy(torch.cat([leaf, fake]))
    at_real, at_fake = values[: len(real)], values[len(real) :]
    (gradient,) = torch.autograd.grad(at_real.sum(), leaf, create_graph=True)
    return Analysis(at_real.mean(), at_fake.mean(), squared_norm(gradient, reading).mean(), weight)


def analysis_gradients(
    energy: nn.Module, real: Tensor, fake: Tensor, weight: float, reading: Reading = "image"
) -> Analysis:
    """Put the loss's gradient into ``.grad`` of the energy net's weights, whatever was there before."""
    if isinstance(energy, MlpEnergy) and not energy.spectral and len(real) == len(fake):
        return _explicit(energy, real, fake, weight)
    for parameter in energy.parameters():
        parameter.grad = None
    found = analysis_loss(energy, real, fake, weight, reading)
    found.loss.backward()
    return Analysis(found.real.detach(), found.fake.detach(), found.penalty.detach(), weight)


@torch.no_grad()
def energy_and_gradient(energy: MlpEnergy, x: Tensor) -> tuple[Tensor, Tensor]:
    """U (n,) and ∇ₓU (n, inputs) without autograd: what the Markov chains ask for."""
    passed = _Pass(energy, x)
    return passed.values, passed.gradient(len(x), x.new_ones(len(x), 1))


class _Pass:
    """A forward pass with all that the way back needs."""

    def __init__(self, energy: MlpEnergy, x: Tensor) -> None:
        self._energy, self._x = energy, x
        *hidden_layers, last = energy.linears()
        self._weights = [layer.weight for layer in energy.linears()]
        self.inputs = [x * energy.scale]
        for layer in hidden_layers:
            hidden = torch.addmm(layer.bias, self.inputs[-1], layer.weight.t())
            self.inputs.append(torch.nn.functional.leaky_relu_(hidden, SLOPE))
        self.values = torch.addmm(last.bias, self.inputs[-1], last.weight.t()).squeeze(1)
        if energy.confinement:
            self.values += 0.5 * energy.confinement * x.square().sum(1)
        self.deltas: list[Tensor] = [x] * len(hidden_layers)

    def gradient(self, rows: int, shares: Tensor) -> Tensor:
        """∇ₓU of the first rows, and on the way `deltas` of all: ``shares`` (n, 1) times δ_l of each hidden layer."""
        delta = self.bent(shares * self._weights[-1], len(self.deltas))
        for at in range(len(self.deltas) - 1, 0, -1):
            self.deltas[at] = delta
            delta = self.bent(delta @ self._weights[at], at)
        self.deltas[0] = delta
        gradient = (delta[:rows] @ self._weights[0]) * (self._energy.scale / shares[:rows])
        return gradient + self._energy.confinement * self._x[:rows] if self._energy.confinement else gradient

    def bent(self, change: Tensor, at: int) -> Tensor:
        """φ'(h) ⊙ ``change`` at the leaky ReLUs that lead to ``inputs[at]``, for as many samples as it has."""
        passed: Tensor = torch.ops.aten.leaky_relu_backward(change, self.inputs[at][: len(change)], SLOPE, True)
        return passed


@torch.no_grad()
def _explicit(energy: MlpEnergy, real: Tensor, fake: Tensor, weight: float) -> Analysis:
    n = len(real)
    passed = _Pass(energy, torch.cat([real, fake]))
    shares = torch.full((2 * n, 1), 1 / n, dtype=real.dtype, device=real.device)
    shares[n:] = -1 / n
    gradient = passed.gradient(n, shares)
    tangent = gradient * (2 * weight * energy.scale)
    for at, layer in enumerate(energy.linears()):
        pulled = passed.inputs[at]
        pulled[:n] += tangent
        if at < len(passed.deltas):
            delta = passed.deltas[at]
            layer.weight.grad, layer.bias.grad = delta.t() @ pulled, delta.sum(0)
            tangent = passed.bent(tangent @ layer.weight.t(), at + 1)
        else:
            layer.weight.grad, layer.bias.grad = shares.t() @ pulled, torch.zeros_like(layer.bias)
    values = passed.values
    return Analysis(values[:n].mean(), values[n:].mean(), gradient.square().sum(1).mean(), weight)
