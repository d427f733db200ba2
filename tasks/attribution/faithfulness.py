"""Does a map show what the model goes by? Insertion and deletion, and whether it depends on the weights at all.

Sources: Petsiuk, Das and Saenko 2018, arXiv 1806.07421 (insertion, deletion); Adebayo et al. 2018, arXiv 1810.03292
(randomised weights).
Idea: put the squares that a map ranks first into a blurred photo, and the class's probability should rise early; paint
them grey, and it should fall early. And a map that stays the same when the weights are random shows the photo, not
the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from tasks.api import InputError
from tasks.attribution.baselines import blurred

Model = Callable[[Tensor], Tensor]
GREY = 0.5


def squares(maps: Tensor, patch: int) -> Tensor:
    """Of maps (n, c, h, w) what each square of ``patch`` px weighs: (n, rows · columns).

    A pixel's weight is the size of its sum over channels: neighbouring pixels speak for and against the class in turn,
    and signed sums over a square tell little more than chance.
    """
    return patch**2 * avg_pool2d(maps.sum(1, keepdim=True).abs(), patch, ceil_mode=True).flatten(1)


@torch.no_grad()
def insertion_deletion(
    model: Model, photos: Tensor, targets: Tensor, ranks: Tensor, patch: int, steps: int = 16, max_rows: int = 64
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of the target (n, steps + 1) while squares are put in, and while they are painted over.

    ``ranks`` (n, squares): what is greatest goes first. A curve's area (`area`) is its mean over the share of squares.
    Raises `InputError` where the ranks are of photos of another size.
    """
    _, _, height, width = photos.shape
    rows, columns = -(-height // patch), -(-width // patch)
    if ranks.shape != (len(photos), rows * columns):
        raise InputError(
            f"{len(photos)} photos of {height} × {width} px have {rows * columns} squares of {patch} px each, the "
            f"ranks are {tuple(ranks.shape)}: maps of photos of another size?"
        )
    shares = torch.linspace(0, 1, steps + 1, device=photos.device)[:, None] * ranks.shape[1]
    curves = torch.empty(2, len(photos), steps + 1, dtype=torch.float64)
    for k, photo in enumerate(photos):  # photo by photo: what shares a batch with it is its own
        place = ranks[k].argsort(descending=True, stable=True).argsort()
        chosen = (place < shares).to(photos.dtype).view(-1, 1, rows, columns)
        masks = interpolate(chosen, scale_factor=patch, mode="nearest")[..., :height, :width] > 0
        for curve, (start, end) in enumerate(((blurred(photo[None])[0], photo), (photo, torch.full_like(photo, GREY)))):
            mixed = torch.where(masks, end, start)
            scores = torch.cat([model(part) for part in mixed.split(max_rows)])
            curves[curve, k] = scores.softmax(1)[:, targets[k]].double().cpu()
    return curves[0].numpy(), curves[1].numpy()


def area(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under curves (n, steps + 1) over [0, 1], by the trapezoid rule: (n,)."""
    return np.asarray(np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1))


def bootstrap(values: NDArray[np.float64], seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """The mean and its 95 % interval, photos drawn anew; of paired differences it is a paired interval."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def rank_correlation(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """Spearman's correlation of the absolute values of maps (n, …), pair by pair: (n,). 0 where one is constant."""
    ranks = [rankdata(maps.abs().flatten(1).cpu().numpy(), axis=1) for maps in (first, second)]
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 0)


def stages(model: nn.Module) -> list[str]:
    """The parts of a model that hold parameters, the top first: its children, sequences of them opened."""

    def opened(prefix: str, module: nn.Module) -> Iterator[str]:
        parts = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        for name, child in parts:
            sequence = isinstance(child, nn.Sequential) and not isinstance(module, nn.Sequential)
            if any(True for _ in child.children()) and (sequence or len(parts) == 1):
                yield from opened(f"{prefix}{name}.", child)
            else:
                yield f"{prefix}{name}"

    return list(opened("", model))[::-1]


@torch.no_grad()
def randomise(model: nn.Module, stage: str, generator: torch.Generator) -> None:
    """Replace a part's weights, in place, by normal draws of each tensor's own mean and deviation."""
    for parameter in model.get_submodule(stage).parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        deviation = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
        parameter.copy_(parameter.mean() + deviation * noise)
