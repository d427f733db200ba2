"""What a trial and a study draw: how far two trajectories part, by step and by λ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tasks.api import Row
from tasks.layerwise import BREAKERS, EXACT, FLOOR, OPTIMIZERS

_COLOURS = {"clean": "C0", "control": "0.5", "epsilon": "C1", "weight_decay": "C2", "clipping": "C3"}


def deviation_figure(deviations: Mapping[str, Tensor], title: str) -> Figure:
    """Deviation against step; solid as claimed, dashed when ε, decay and bounds are scaled too, dotted the control."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in deviations.items():
        kind, _, what = name.partition("/")
        style = "--" if kind == "corrected" else ":" if what == "control" else "-"
        label = f"{what}, {kind}" if kind == "corrected" else what
        steps = range(1, len(values) + 1)
        axes.plot(steps, values.clamp(min=FLOOR).tolist(), style, color=_COLOURS[what], label=label)
    _logarithmic(axes, "step", f"θ = λφ against its group: {title}")
    axes.legend(fontsize="small", ncols=2)
    return figure


_TITLES = {"clean": "as claimed", "epsilon": "ε", "weight_decay": "weight decay", "clipping": "joint clipping"}


def study_figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """The greatest deviation of each trial against λ, one panel for the pure claim and one for each breaker."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, what in zip(grid.flat, ("clean", *BREAKERS), strict=True):
        for number, optimizer in enumerate(OPTIMIZERS):
            own = [row.metrics for row in rows if int(row.metrics["optimizer"]) == number]
            for kind, style in (("deviation", "o-"), ("corrected", "x--")):
                points = sorted((at["scale"], at[f"{kind}/{what}"]) for at in own if f"{kind}/{what}" in at)
                if points:
                    heights = [max(height, FLOOR) for _, height in points]
                    label = optimizer if kind == "deviation" else None
                    axes.plot([scale for scale, _ in points], heights, style, color=f"C{number}", label=label)
        axes.set_xscale("log")
        _logarithmic(axes, "λ", _TITLES[what] + ("" if what == "clean" else " (dashed: corrected)"))
        axes.label_outer()
    if grid[0, 0].get_legend_handles_labels()[1]:  # all optimisers are in the first panel
        grid[0, 0].legend(fontsize="small")
    return {"deviations": figure}


def _logarithmic(axes: Axes, x: str, title: str) -> None:
    axes.axhline(EXACT, color="k", linewidth=0.8)
    axes.set(yscale="log", xlabel=x, ylabel="apart, of the way from the start", title=title)
    axes.grid(alpha=0.25)
