"""What is drawn of a trial: energy maps with samples, sheets of pictures, curves, an animation; and of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from tasks.api import Row
from tasks.ebgan.params import ANOMALY
from tasks.ebgan.problem import Problem
from tasks.ebgan.toys import Toy
from tasks.ebgan.verdict import PUBLISHED

_FRAMES = 60
"""Of an animation, at most."""
_LIMIT = 12.0
"""Energies above the least are drawn up to this many nats, or up to their median where half the map lies higher."""
_CURVES = (
    ("energy/gap", "energy gap, data − generator"), ("energy/penalty", "E‖∇U‖² on data"),
    ("entropy/information", "estimate of I(G(z), z)"), ("gradient/energy", "gradient norm of U's loss"),
    ("gradient/generator", "gradient norm of G's loss"), ("mcmc/acceptance", "acceptance of the chains"),
    ("kl", "KL of the full sampler"), ("quality", "high-quality share"), ("auprc", "AUPRC"),
)  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Samples at a step, and in the plane the energy (g, g) on a grid over the law's extent, x first."""

    step: int
    samples: Tensor
    energies: Tensor | None

    def to_plain(self) -> dict[str, Any]:
        return {"step": self.step, "samples": self.samples, "energies": self.energies}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Frame:
        return cls(plain["step"], plain["samples"], plain["energies"])


def picture_of(frame: Frame, problem: Problem) -> Figure:
    """A map of the energy with samples on it, a sheet of pictures, or table rows as lines of colours."""
    if problem.toy is not None:
        return _plane(frame, problem.toy)
    if len(problem.shape) == 3:
        return _sheet(frame)
    return _rows(frame)


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """All that was reported and has a panel."""
    shown = [(name, title) for name, title in _CURVES if name in history[-1]]
    lines = -(-len(shown) // 3)
    figure = Figure(figsize=(12, 2.6 * lines), layout="constrained")
    grid = figure.subplots(lines, 3, squeeze=False, sharex=True)
    steps = [row["step"] for row in history]
    for axes, (name, title) in zip(grid.flat, shown, strict=False):
        axes.plot(steps, [row[name] for row in history], linewidth=1.2, marker=".", markersize=3)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        if f"generator/{name}" in history[-1]:
            axes.plot(steps, [row[f"generator/{name}"] for row in history], "--", linewidth=1, label="generator alone")
            axes.legend(fontsize=8)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("generator steps")
    return figure


def animate(frames: Sequence[Frame], problem: Problem, path: Path) -> None:
    """The training as a GIF, at most `_FRAMES` of its frames, the last one held."""
    assert problem.toy is not None
    chosen = sorted({int(at) for at in np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round()})
    images = [_image(_plane(frames[at], problem.toy)) for at in chosen]
    waits = [120] * (len(images) - 1) + [2000]
    images[0].save(path, save_all=True, append_images=images[1:], duration=waits, loop=0, optimize=True)


def study_figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Each trial a dot: anomaly scores beside the published ones, else metrics by the kind of entropy."""
    problem = str(rows[0].params["problem"])
    if problem in ANOMALY:
        return {"published": _beside_published(rows, problem)}
    names = [
        (name, title)
        for name, title in (("kl", "KL (nats, lower is better)"), ("kl_uniform", "KL to uniform"), ("modes", "modes"),
                            ("quality", "high-quality share"))
        if any(name in row.metrics for row in rows)
    ]  # fmt: skip
    if not names:
        return {}
    arms = sorted({row.params["entropy"] for row in rows})
    figure = Figure(figsize=(3 * len(names) + 0.5, 3.4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for at, arm in enumerate(arms):
            _dots(axes, at, [row.metrics[name] for row in rows if row.params["entropy"] == arm and name in row.metrics])
        axes.set_xticks(range(len(arms)), arms)
        axes.set_xlim(-0.6, len(arms) - 0.4)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.25)
    figure.suptitle("Trials by what estimates the entropy; a bar is the mean")
    return {"entropies": figure}


def _beside_published(rows: Sequence[Row], problem: str) -> Figure:
    """F1 of kdd99, or AUPRC by the held-out digit; a dashed line is the published score."""
    metric, key = ("f1", None) if problem == "kdd99" else ("auprc", "held_out")
    groups = sorted({int(row.params[key]) if key else -1 for row in rows})
    figure = Figure(figsize=(1.1 * len(groups) + 2.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for at, group in enumerate(groups):
        own = [row for row in rows if key is None or row.params[key] == group]
        _dots(axes, at, [row.metrics[metric] for row in own if metric in row.metrics])
        if (bar := PUBLISHED[problem].get(group)) is not None:
            axes.plot([at - 0.4, at + 0.4], [bar, bar], "--", color="black", linewidth=1.2)
    axes.set_xticks(range(len(groups)), [problem if group < 0 else f"digit {group}" for group in groups])
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylabel=metric.upper(), title="A bar is the mean, dashed: published")
    axes.grid(axis="y", alpha=0.25)
    return figure


def _dots(axes: Axes, at: int, values: Sequence[float]) -> None:
    """Values side by side at a place of the x axis, with a bar at their mean."""
    spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
    axes.plot(at + spread, values, "o", color=f"C{at}", alpha=0.7)
    if values:
        axes.plot([at - 0.25, at + 0.25], [np.mean(values)] * 2, color=f"C{at}", linewidth=2)


def _plane(frame: Frame, toy: Toy) -> Figure:
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    assert frame.energies is not None
    above = (frame.energies - frame.energies.min()).T.numpy()
    limit = max(_LIMIT, float(np.median(above)))  # at a low temperature the valleys between modes are thousands deep
    ends = (-toy.extent, toy.extent)
    drawn = axes.imshow(above, origin="lower", extent=(*ends, *ends), cmap="viridis_r", vmin=0, vmax=limit)
    figure.colorbar(drawn, ax=axes, label="energy above the least, nats", extend="max", shrink=0.85)
    if toy.is_modal:
        axes.plot(*toy.centres.T.numpy(), "+", color="white", markersize=7, markeredgewidth=1.2)
    axes.plot(*frame.samples.T.numpy(), ".", color="#d62728", markersize=2.5, alpha=0.7)
    axes.set(xlim=ends, ylim=ends, xticks=(-1, 0, 1), yticks=(-1, 0, 1), title=f"step {frame.step}")
    return figure


def _sheet(frame: Frame) -> Figure:
    side = int(len(frame.samples) ** 0.5)
    channels, height, width = frame.samples.shape[1:]
    tiles = (frame.samples[: side * side].clamp(-1, 1).numpy() + 1) / 2
    tiles = np.pad(tiles.reshape(side, side, channels, height, width), [(0, 0)] * 3 + [(0, 1), (0, 1)])
    whole = tiles.transpose(0, 3, 1, 4, 2).reshape(side * (height + 1), side * (width + 1), channels)
    figure = Figure(figsize=(5, 5.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(whole.squeeze(), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(f"step {frame.step}")
    return figure


def _rows(frame: Frame) -> Figure:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(frame.samples.numpy(), aspect="auto", cmap="viridis", vmin=-0.2, vmax=1.2)
    figure.colorbar(drawn, ax=axes, label="scaled value")
    axes.set(xlabel="column", ylabel="generated row", title=f"step {frame.step}")
    return figure


def _image(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=70)
    return Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
