"""Augmentation of whole batches, on the CPU or the GPU: geometry in one resampling, colour in one matrix a photo.

Source: kexue.fm/archives/4611: flips, rotation by ±10°, zoom by .8–1.2 (a smaller photo is pasted on another one), a
covered quarter, and splices of two photos of one class along a line or a diagonal.
Idea: what is random is drawn first, a row of numbers for each photo, and then applied to all photos at once. So a
photo's augmentation depends on its own row alone, the same numbers serve every device, and a process that holds a part
of a batch applies its part of the rows.

>>> photos, labels = torch.full((4, 40, 40, 3), 255, dtype=torch.uint8), torch.tensor([0, 0, 1, 1])
>>> augment = Augment(Settings(rotation=10, mask=1.0), size=32, crop=0.8)
>>> augment(photos, labels, torch.Generator().manual_seed(0)).shape
torch.Size([4, 3, 32, 32])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision has them


@dataclass(frozen=True)
class Settings:
    """Ranges as in `tasks.dogs.params`: degrees; zoom, shift and colour as ±shares; mask and splice probabilities."""

    flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    colour: float = 0.0
    mask: float = 0.0
    splice: float = 0.0

    def clean(self) -> Self:
        """What the last stage keeps."""
        return replace(Settings(), flip=self.flip)  # type: ignore[return-value]

    @property
    def geometric(self) -> bool:
        return self.rotation > 0 or self.zoom > 0 or self.shift > 0


class Drawn(NamedTuple):
    """What was drawn for each photo, (n,) each. ``quarter`` and ``splice`` are −1 for none."""

    flip: Tensor  # bool
    angle: Tensor  # radians, counter-clockwise as seen
    zoom: Tensor
    right: Tensor  # shift, as a share of the side
    down: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    quarter: Tensor  # 0…3: top left, top right, bottom left, bottom right
    splice: Tensor  # 0…3: left half kept, top half, above the main diagonal, above the other one

    def part(self, rows: slice) -> Drawn:
        return Drawn(*(values[rows] for values in self))


def draw(settings: Settings, n: int, generator: torch.Generator) -> Drawn:
    """A row of numbers for each of n photos, on the CPU."""
    u = torch.rand(12, n, generator=generator)
    ranged = lambda row, reach: (2 * u[row] - 1) * reach  # noqa: E731
    chosen = lambda row, p: torch.where(u[row] < p, (u[row + 1] * 4).long().clamp(max=3), -1)  # noqa: E731
    return Drawn(
        flip=(u[0] < 0.5) & settings.flip,
        angle=ranged(1, math.radians(settings.rotation)),
        zoom=1 + ranged(2, settings.zoom),
        right=ranged(3, settings.shift),
        down=ranged(4, settings.shift),
        brightness=1 + ranged(5, settings.colour),
        contrast=1 + ranged(6, settings.colour),
        saturation=1 + ranged(7, settings.colour),
        quarter=chosen(8, settings.mask),
        splice=chosen(10, settings.splice),
    )


class Augment(nn.Module):
    """uint8 (n, side, side, 3) → float32 (n, 3, size, size), normalised, channels last in memory.

    At a zoom of 1 the middle ``crop`` of a photo's side is seen, as by `centre`. ``mean`` and ``std`` are the
    backbone's, of colours in [0, 1]; what is covered has the mean. Labels and what is drawn are on the CPU.
    """

    def __init__(
        self, settings: Settings, size: int, crop: float,
        mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings, self.size, self.crop = settings, size, crop
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)

    def forward(self, photos: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply_drawn(photos, labels, draw(self.settings, len(photos), generator))

    def apply_drawn(self, photos: Tensor, labels: Tensor, drawn: Drawn) -> Tensor:
        """Apply what was drawn. Rows stand in blocks of four, of which 0, 1 and 2, 3 are the pairs to splice."""
        device = photos.device
        if self.settings.geometric:
            seen = _warp(photos, drawn, self.size, self.crop)
        else:
            seen = _planes(centre(photos, self.size))
            seen = torch.where(drawn.flip.to(device).view(-1, 1, 1, 1), seen.flip(3), seen)
        if self.settings.splice > 0:
            seen = _splice(seen, labels, drawn.splice)
        mixing, offset = _colour_matrix(drawn, self._mean, self._std)
        n, _, size, _ = seen.shape
        out = torch.baddbmm(offset.to(device)[:, :, None], mixing.to(device), seen.view(n, 3, -1))
        out = out.view(n, 3, size, size).contiguous(memory_format=torch.channels_last)
        return _cover(out, drawn.quarter) if self.settings.mask > 0 else out


def centre(photos: Tensor, size: int) -> Tensor:
    """The middle (n, size, size, 3) of photos (n, side, side, 3)."""
    edge = (photos.shape[1] - size) // 2
    return photos[:, edge : edge + size, edge : edge + size]


def _planes(photos: Tensor) -> Tensor:
    """(n, h, w, 3) → float32 (n, 3, h, w), colours still in 0…255."""
    return photos.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _warp(photos: Tensor, drawn: Drawn, size: int, crop: float) -> Tensor:
    """Flip, turn, zoom and shift in one bilinear resampling; where a photo ends, another of its block shows."""
    device, planes = photos.device, _planes(photos)
    cos, sin = torch.cos(drawn.angle) * crop / drawn.zoom, torch.sin(drawn.angle) * crop / drawn.zoom
    mirror = 1.0 - 2.0 * drawn.flip
    # Where in the photo an output pixel (x, y) in [−1, 1] looks: undo shift, then rotation and zoom, then flip.
    dx, dy = 2 * drawn.right, 2 * drawn.down
    rows = torch.stack([mirror * cos, -mirror * sin, -mirror * (cos * dx - sin * dy), sin, cos, -(sin * dx + cos * dy)])
    # The window is convex: it leaves the photo only where one of its corners does. Told on the CPU, without waiting.
    reach = rows.abs().view(2, 3, -1)
    leaves = ((reach[:, 0] + reach[:, 1]) * (1 - 1 / size) + reach[:, 2] > 1).any(0).nonzero().flatten()
    a, b, c, d, e, f = rows.to(device)[:, :, None]  # (n, 1) each
    line = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    grid = torch.empty(len(photos), size, size, 2, device=device)
    torch.add((a * line + c)[:, None, :], (b * line)[:, :, None], out=grid[..., 0])
    torch.add((d * line + f)[:, None, :], (e * line)[:, :, None], out=grid[..., 1])
    seen = grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if len(leaves):
        others = _planes(centre(photos[_other(leaves, len(photos)).to(device)], size))
        leaves = leaves.to(device)
        outside = (grid[leaves].abs() > 1).any(3)
        seen[leaves] = torch.where(outside[:, None], others, seen[leaves])
    return seen


def _other(rows: Tensor, n: int) -> Tensor:
    """For each row another of its block of four, of the other pair where there is one."""
    across, beside = rows ^ 2, rows ^ 1
    return torch.where(across < n, across, torch.where(beside < n, beside, rows))


def _splice(seen: Tensor, labels: Tensor, splice: Tensor) -> Tensor:
    """Half of a photo and the other half of the next of its pair, where both show the same class."""
    rows, device = torch.arange(len(seen)), seen.device
    mate = torch.where(rows ^ 1 < len(seen), rows ^ 1, rows)
    chosen = ((splice >= 0) & (labels == labels[mate]) & (mate != rows)).nonzero().flatten()
    if len(chosen):
        keep = _halves(seen.shape[2])[splice[chosen]].to(device)[:, None]
        own, others = chosen.to(device), mate[chosen].to(device)
        seen[own] = torch.where(keep, seen[own], seen[others])  # the right side is whole before anything is written
    return seen


def _halves(size: int) -> Tensor:
    """Which pixels are kept, (4, size, size): the left half, the top half, above each of the two diagonals."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([x < size // 2, y < size // 2, x >= y, x + y < size])


def _colour_matrix(drawn: Drawn, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (n, 3, 3) and offset (n, 3) on colours in 0…255 that adjust and normalise them.

    Contrast is about middle grey, not about the photo's own mean, which would take another pass over the pixels.
    """
    grey = torch.tensor(_GREY).expand(3, 3)
    saturation = drawn.saturation.view(-1, 1, 1)
    mixing = saturation * torch.eye(3) + (1 - saturation) * grey
    mixing = mixing * (drawn.brightness * drawn.contrast).view(-1, 1, 1) / 255 / std.view(1, 3, 1)
    offset = (0.5 * (1 - drawn.contrast)[:, None] - mean) / std
    return mixing, offset


def _cover(photos: Tensor, quarter: Tensor) -> Tensor:
    """Cover the top left, top right, bottom left or bottom right quarter with the mean colour, which is 0."""
    size, half = photos.shape[2], photos.shape[2] // 2
    sides = torch.arange(size, device=photos.device) >= half
    quarter = quarter.to(photos.device)[:, None]
    covered = quarter >= 0
    down, right = (sides == (quarter >= 2)) & covered, (sides == (quarter % 2 == 1)) & covered
    return photos.masked_fill_(down[:, None, :, None] & right[:, None, None, :], 0.0)
