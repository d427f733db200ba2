"""Where a path begins: black, the mean photo, the photo out of focus, or each of these in turn.

A baseline stands for "nothing to see". None is right for all: what is black in a photo gets nothing from a black one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from tasks.api import InputError

KINDS = ("zero", "mean", "blurred", "several")
BLUR = 0.1  # σ of the blur, of the photo's side


def make_baselines(kind: str, photos: Tensor, mean: Tensor | None = None) -> Tensor:
    """Baselines (b, n, c, h, w) in [0, 1] of ``photos`` (n, c, h, w); b is 1, or 3 for ``several``.

    ``mean`` (c, h, w) is the mean of training photos, where one is asked for.
    """
    if kind == "several":
        return torch.cat([make_baselines(each, photos, mean) for each in KINDS[:-1]])
    if kind == "zero":
        return torch.zeros_like(photos)[None]
    if kind == "blurred":
        return blurred(photos)[None]
    if kind != "mean":
        raise InputError(f"no baseline '{kind}'; there are {', '.join(KINDS)}")
    if mean is None or mean.shape != photos.shape[1:]:
        of = "none" if mean is None else str(tuple(mean.shape))
        raise InputError(f"the baseline 'mean' takes a mean of photos of {tuple(photos.shape[1:])}, got {of}")
    return mean.expand_as(photos)[None]


def blurred(photos: Tensor) -> Tensor:
    """(n, c, h, w) out of focus: a Gaussian of a tenth of the side."""
    sigma = BLUR * photos.shape[-1]
    reach = min(int(3 * sigma), min(photos.shape[-2:]) - 1)  # reflection needs less than the side
    return gaussian_blur(photos, [2 * reach + 1] * 2, [sigma] * 2)
