"""What a trial draws: overlays, a sheet of maps, the fall of the correlation as weights become random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from tasks.attribution.shards import Explained

SHOWN = 12
WEAK = 0.2  # of the strongest
_COLOUR = np.array([225, 20, 30])


def weight(one: Explained) -> NDArray[np.float64]:
    """What a pixel weighs, the size of its sum over channels, out of focus for the eye, of its 99.5th percentile."""
    total = gaussian_filter(np.abs(one.map.sum(0).astype(float)), one.map.shape[-1] / 40)
    scale = np.percentile(total, 99.5)
    return np.clip(total / scale, 0, 1) if scale > 0 else total


def overlay(one: Explained) -> Image.Image:
    """The photo in grey; red on it weighs in the score of the predicted class. What weighs little is left out."""
    grey = np.repeat(one.photo.mean(2, keepdims=True), 3, axis=2) * 0.75 + 55
    strength = 0.85 * np.clip((weight(one)[..., None] - WEAK) / (1 - WEAK), 0, 1)
    return Image.fromarray(((1 - strength) * grey + strength * _COLOUR).clip(0, 255).astype(np.uint8))


def sheet(explained: Sequence[Explained], classes: Sequence[str]) -> Figure:
    """The first photos, each above its overlay with its class, its gap and its cost."""
    shown = explained[:SHOWN]
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.3, 4.7 * rows + 0.4), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for k, one in enumerate(shown):
        row, column = divmod(k, columns)
        photo, map_ = axes[2 * row, column], axes[2 * row + 1, column]
        photo.imshow(one.photo)
        photo.set_title(_short(classes[one.predicted]), fontsize=9)
        map_.imshow(overlay(one))
        numbers = one.numbers
        map_.set_title(f"gap {100 * numbers['relative']:.2g} %, {numbers['nodes']:.0f} gradients", fontsize=8)
    figure.suptitle(
        "Each photo with the class that the model predicts, and below it in red the pixels that weigh in its score",
        fontsize=10,
    )
    return figure


def _short(name: str, most: int = 24) -> str:
    """A class name without its WordNet number."""
    number, _, rest = name.partition("-")
    name = rest if number[:1] == "n" and number[1:].isdigit() and rest else name
    name = name.replace("_", " ")
    return name if len(name) <= most else name[: most - 1] + "…"


def randomisation(correlations: Sequence[Mapping[str, float]]) -> Figure:
    """Rank correlation with the trained model's maps, the weights random from the top down to each part."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = list(correlations[0])
    for each in correlations:
        axes.plot(list(each.values()), color="0.7", linewidth=0.8)
    axes.plot(np.mean([list(each.values()) for each in correlations], axis=0), "o-", color="C0", label="mean of photos")
    axes.set_xticks(range(len(names)), [name.removeprefix("net.") for name in names], rotation=45, ha="right")
    axes.set(ylim=(-0.3, 1.02), ylabel="rank correlation of maps", title="Weights random from the top down to …")
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    return figure
