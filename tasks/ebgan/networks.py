"""Energy nets U, generators G, statistics networks T and encoders E, for points, table rows and pictures.

As in the paper, neither U nor T has batch normalisation, and G has it only for pictures. All perceptrons have leaky
ReLUs, for which the gradient of the penalty has a short explicit form (`analysis`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

if TYPE_CHECKING:
    from tasks.ebgan.params import EbganParams

SLOPE = 0.2
"""Of every leaky ReLU."""


class MlpEnergy(nn.Module):
    """U(x) = f(x · scale) + ½κ‖x‖² with a perceptron f.

    The κ term keeps e^{−U} integrable where no sample has ever been: there f may fall without end.
    """

    def __init__(
        self, inputs: int, width: int, depth: int, *,
        scale: float = 1.0, confinement: float = 0.0, spectral: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inputs, self.scale, self.confinement, self.spectral = inputs, scale, confinement, spectral
        self.layers = nn.ModuleList(_linears(inputs, width, depth, 1, spectral))

    def linears(self) -> list[nn.Linear]:
        """The layers, from the first on."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) → (n,)."""
        hidden = x * self.scale
        for layer in self.layers[:-1]:
            hidden = nn.functional.leaky_relu(layer(hidden), SLOPE)
        energy: Tensor = self.layers[-1](hidden).squeeze(1)
        return energy + 0.5 * self.confinement * x.square().sum(1) if self.confinement else energy


class PictureEnergy(nn.Module):
    """Strided convolutions down to 4 px or less, then a linear layer; (n, channels, side, side) → (n,)."""

    def __init__(self, channels: int, side: int, width: int, spectral: bool) -> None:
        super().__init__()
        wrap = spectral_norm if spectral else _as_is
        parts: list[nn.Module] = []
        before, after = channels, width
        while side > 4:
            parts += [wrap(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(SLOPE)]
            before, after, side = after, 2 * after, side // 2
        self.body = nn.Sequential(*parts, nn.Flatten(), wrap(nn.Linear(before * side * side, 1)))

    def forward(self, x: Tensor) -> Tensor:
        energy: Tensor = self.body(x).squeeze(1)
        return energy


class PictureGenerator(nn.Module):
    """A linear layer, then transposed convolutions with batch normalisation; (n, z) → pictures within ±1."""

    def __init__(self, latent: int, channels: int, side: int, width: int) -> None:
        super().__init__()
        sides = [side]
        while sides[0] > 4:
            sides.insert(0, sides[0] // 2)
        widths = [width * 2 ** (len(sides) - 2 - at) for at in range(len(sides) - 1)]
        start = widths[0] if widths else width
        parts: list[nn.Module] = [
            nn.Linear(latent, start * sides[0] ** 2), nn.Unflatten(1, (start, sides[0], sides[0])),
            nn.BatchNorm2d(start), nn.ReLU(),
        ]  # fmt: skip
        for at, (here, there) in enumerate(itertools.pairwise(sides)):
            last = at == len(sides) - 2
            after = channels if last else widths[at + 1]
            parts.append(nn.ConvTranspose2d(widths[at], after, 4, 2, 1, output_padding=there - 2 * here))
            parts += [] if last else [nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*parts, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        pictures: Tensor = self.body(z)
        return pictures


class Statistics(nn.Module):
    """T(x, z): a perceptron on what a body makes of x, beside z; (n,)."""

    def __init__(self, body: nn.Module, size: int, latent: int, width: int, spectral: bool) -> None:
        super().__init__()
        self._body = body
        self._head = perceptron(size + latent, width, 2, 1, spectral)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.scores(self.see(x), z)

    def see(self, x: Tensor) -> Tensor:
        """What the body makes of x: the same for each z that it is put beside."""
        seen: Tensor = self._body(x)
        return seen

    def scores(self, seen: Tensor, z: Tensor) -> Tensor:
        found: Tensor = self._head(torch.cat([seen, z], 1)).squeeze(1)
        return found


def perceptron(inputs: int, width: int, depth: int, outputs: int, spectral: bool = False) -> nn.Sequential:
    """``depth`` hidden layers of leaky ReLUs and a linear one."""
    parts: list[nn.Module] = []
    for layer in _linears(inputs, width, depth, outputs, spectral):
        parts += [layer, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*parts[:-1])


def make_energy(params: EbganParams, shape: tuple[int, ...]) -> nn.Module:
    """U for samples of a shape: (features,) or (channels, side, side)."""
    if len(shape) == 3:
        return PictureEnergy(shape[0], shape[1], params.channels, params.spectral_norm)
    planar = shape == (2,)
    return MlpEnergy(
        shape[0], params.width, params.depth, scale=params.input_scale if planar else 1.0,
        confinement=params.confinement, spectral=params.spectral_norm,
    )  # fmt: skip


def make_generator(params: EbganParams, shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 3:
        return PictureGenerator(params.latent, shape[0], shape[1], params.channels)
    return perceptron(params.latent, params.generator_width, params.depth, shape[0])


def make_entropy(params: EbganParams, shape: tuple[int, ...]) -> nn.Module | None:
    """The statistics network (``js``), the encoder (``infogan``), or nothing."""
    width, latent = params.generator_width, params.latent
    if params.entropy == "js":
        body, size = (_seeing(params, shape), 4 * width) if len(shape) == 3 else (nn.Identity(), shape[0])
        return Statistics(body, size, latent, width, params.spectral_norm)
    if params.entropy == "infogan":
        if len(shape) == 3:
            return nn.Sequential(_seeing(params, shape), nn.Linear(4 * width, latent))
        return perceptron(shape[0], width, params.depth, latent)
    return None


def _seeing(params: EbganParams, shape: tuple[int, ...]) -> nn.Module:
    """Convolutions as the energy net's, down to 4 · width numbers a picture."""
    energy = PictureEnergy(shape[0], shape[1], params.channels, params.spectral_norm)
    *body, last = energy.body
    assert isinstance(last, nn.Linear)
    wrap = spectral_norm if params.spectral_norm else _as_is
    return nn.Sequential(*body, wrap(nn.Linear(last.in_features, 4 * params.generator_width)), nn.LeakyReLU(SLOPE))


def _linears(inputs: int, width: int, depth: int, outputs: int, spectral: bool) -> Iterator[nn.Module]:
    wrap = spectral_norm if spectral else _as_is
    for at in range(depth + 1):
        yield wrap(nn.Linear(inputs if at == 0 else width, outputs if at == depth else width))


def _as_is(module: nn.Module) -> nn.Module:
    return module
