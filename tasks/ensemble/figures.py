"""What an ensemble's trial draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.ensemble.measure import Reliability


def reliability_figure(curves: Mapping[str, Reliability]) -> Figure:
    """Share of right answers against confidence, on the report part; honest probabilities lie on the diagonal."""
    figure, axes = _axes("confidence", "share that is right", (5, 4.6))
    axes.plot([0, 1], [0, 1], "k:", linewidth=0.8)
    for name, curve in curves.items():
        some = curve.counts > 0
        axes.plot(curve.confidence[some], curve.accuracy[some], "o-", label=f"{name}: ECE {curve.error:.3f}")
    axes.set_title("Reliability on photos that chose nothing")
    axes.legend(fontsize="small")
    return figure


def members_figure(sizes: Sequence[int], chosen_on: Sequence[float], report: Sequence[float]) -> Figure:
    """What each further member brings, where it was chosen and where it was not."""
    figure, axes = _axes("heaviest members", "top-1", (6, 4))
    axes.plot(sizes, chosen_on, "o--", label="on the photos that chose them")
    axes.plot(sizes, report, "s-", label="on photos that chose nothing")
    axes.set(xscale="log", title="Top-1 of the heaviest members alone")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize="small")
    return figure


def disagreement_figure(pairs: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of the report photos that only one of two members has right, for each pair."""
    side = float(np.clip(0.28 * len(names) + 2, 4, 14))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(pairs, vmin=0, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title("Pairwise disagreement")
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    return figure


def _axes(x: str, y: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    return figure, axes
