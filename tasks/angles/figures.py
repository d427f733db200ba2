"""What a trial and a study draw: the histogram on the density, the ECDF's deviation, the approximations' errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.angles.approximations import better_variance, distance, post_variance
from tasks.angles.statistics import Statistics, cells
from tasks.api import Row

_CRITICAL = 1.63  # √N·D at the 1 % level


def density_figure(statistics: Statistics, bins: int) -> Figure:
    """The sample's density in ``bins`` bins of equal width, with the law's and both normal ones."""
    grid, angle = cells(statistics.n), cells(statistics.n).angle
    reach = min(math.pi / 2, 4.5 * math.sqrt(angle.variance))
    ends = np.unique(np.searchsorted(grid.edges, np.linspace(-reach, reach, bins + 1)).clip(0, len(grid.edges) - 1))
    below = np.concatenate([[0], np.cumsum(statistics.counts)])[ends] / statistics.count
    theta = np.linspace(math.pi / 2 - reach, math.pi / 2 + reach, 601)
    figure, axes = _axes("θ, radians", "density")
    heights = np.diff(below) / np.diff(grid.edges[ends])
    axes.stairs(heights, grid.edges[ends] + math.pi / 2, fill=True, alpha=0.35, label=f"{statistics.count:,} samples")
    axes.plot(theta, angle.pdf(theta), label="law")
    normals = [("N(π/2, 1/(n−1))", better_variance)] + ([("N(π/2, 1/(n−2))", post_variance)] if angle.n > 2 else [])
    for name, variance in normals:
        v = variance(angle.n)
        axes.plot(theta, np.exp(-((theta - math.pi / 2) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v), "--", label=name)
    axes.set_title(f"Angle of two random directions, n = {angle.n}")
    axes.set_ylim(0, 1.25 * float(angle.pdf(math.pi / 2)))
    axes.legend(loc="upper right", fontsize="small")
    return figure


def ks_figure(statistics: Statistics) -> Figure:
    """√N·(F_N − F_n) against F_n: a Brownian bridge, were the law true, that leaves the band once in a hundred."""
    below = np.cumsum(statistics.counts) / statistics.count
    exact = cells(statistics.n).cumulative[1:]
    figure, axes = _axes("Fₙ(θ)", "√N · (sample − law)")
    axes.plot(exact[::16], (math.sqrt(statistics.count) * (below - exact))[::16], linewidth=0.8)
    axes.axhspan(-_CRITICAL, _CRITICAL, alpha=0.12, label="99 % of samples stay within")
    axes.set_title(f"Distribution function of the sample, n = {statistics.n}")
    axes.legend(loc="upper right", fontsize="small")
    return figure


def study_figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """How wrong the normal approximations are, by dimension, beside what each trial could see."""
    seen = sorted({(int(row.metrics["dimension"]), int(row.metrics["samples"])) for row in rows})
    dimensions = sorted({n for n, _ in seen})
    figure, axes = _axes("dimensions n", "greatest error of the distribution function")
    for name, variance, first, mark in (("1/(n−2)", post_variance, 3, "o"), ("1/(n−1)", better_variance, 2, "s")):
        at = [n for n in dimensions if n >= first]
        axes.plot(at, [distance(n, variance(n)) for n in at], f"{mark}-", label=f"normal of variance {name}")
    axes.plot(*zip(*[(n, _CRITICAL / math.sqrt(count)) for n, count in seen], strict=True), "k_", label="seen at 1 %")
    errors = [(row.metrics["dimension"], row.metrics["ks/distance"]) for row in rows]
    axes.plot(*zip(*errors, strict=True), "kx", label="sample against the law")
    axes.set(xscale="log", yscale="log", title="Error of the normal approximations")
    axes.legend(fontsize="small")
    return {"approximations": figure}


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    return figure, axes
