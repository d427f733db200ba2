"""The analysis step: what the energy net learns, E_data U(x) − E_z U(G(z)) + λ·E_data ‖∇ₓU(x)‖².

Source: Su Jianlin, kexue.fm/archives/6331; Kumar et al. 2019, arXiv 1901.08508. Idea: U falls at the data and rises at
what the generator makes, and the penalty, centred at zero and on data alone, keeps it flat where data is.

The penalty's gradient through autograd takes a backward pass through a backward pass. For leaky ReLUs, whose slopes do
not change with the weights almost everywhere, it has a short explicit form. With h_l = W_l a_l + b_l, δ_l = ∂U/∂h_l
and the tangent v_0 = 2λ∇ₓU/n, v_{l+1} = φ'(h_l) ⊙ W_l v_l, the gradient of the whole loss is

    ∂/∂W_l = δ_lᵀ (c·a_l + v_l),   c = 1/n for data and −1/n for the generator's samples:

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
    return passed.values, passed.gradient(len(x))


class _Pass:
    """A forward pass with all that the way back needs."""

    def __init__(self, energy: MlpEnergy, x: Tensor) -> None:
        self._energy, self._x = energy, x
        *hidden_layers, last = energy.linears()
        self._weights = [layer.weight for layer in energy.linears()]
        self.inputs, self.slopes = [x * energy.scale], []
        one, less = x.new_ones(()), x.new_full((), SLOPE)  # of x's own precision
        for layer in hidden_layers:
            hidden = torch.addmm(layer.bias, self.inputs[-1], layer.weight.t())
            self.slopes.append(torch.where(hidden > 0, one, less))
            self.inputs.append(hidden.mul_(self.slopes[-1]))
        self.values = torch.addmm(last.bias, self.inputs[-1], last.weight.t()).squeeze(1)
        if energy.confinement:
            self.values += 0.5 * energy.confinement * x.square().sum(1)
        self.deltas: list[Tensor] = [x] * len(self.slopes)

    def gradient(self, rows: int) -> Tensor:
        """∇ₓU of the first rows, and on the way `deltas` of all: δ_l of each hidden layer, (n, width)."""
        delta = self.slopes[-1] * self._weights[-1]
        for at in range(len(self.slopes) - 1, -1, -1):
            self.deltas[at] = delta
            delta = delta @ self._weights[at] if at else delta[:rows] @ self._weights[0]
            if at:
                delta *= self.slopes[at - 1]
        gradient = delta * self._energy.scale
        return gradient + self._energy.confinement * self._x[:rows] if self._energy.confinement else gradient


@torch.no_grad()
def _explicit(energy: MlpEnergy, real: Tensor, fake: Tensor, weight: float) -> Analysis:
    n = len(real)
    passed = _Pass(energy, torch.cat([real, fake]))
    gradient = passed.gradient(n)
    sign = torch.full((2 * n, 1), 1 / n, dtype=real.dtype, device=real.device)
    sign[n:] = -1 / n
    tangent = gradient * (2 * weight * energy.scale / n)
    for at, layer in enumerate(energy.linears()):
        pulled = passed.inputs[at] * sign
        pulled[:n] += tangent
        if at < len(passed.slopes):
            delta = passed.deltas[at]
            layer.weight.grad, layer.bias.grad = delta.t() @ pulled, (sign.t() @ delta).squeeze(0)
            tangent = (tangent @ layer.weight.t()).mul_(passed.slopes[at][:n])
        else:
            layer.weight.grad, layer.bias.grad = pulled.sum(0, keepdim=True), torch.zeros_like(layer.bias)
    values = passed.values
    return Analysis(values[:n].mean(), values[n:].mean(), gradient.square().sum(1).mean(), weight)
