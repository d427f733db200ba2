"""What a trial and a study draw: reliability, F1 by loss, calibration by loss, the way to the best rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.api import Row
from tasks.multilabel.verdict import Arm, arms, interval


def reliability_figure(read: Mapping[str, np.ndarray]) -> Figure:
    """The share that holds against the probability claimed, for each way to read scores; `metrics.calibration` each."""
    figure, (axes, below) = _figure((3, 1), (5.5, 6))
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for number, (name, (counts, claimed, held)) in enumerate(read.items()):
        seen = counts > 0
        error = float((counts * abs(claimed - held)).sum() / counts.sum())
        axes.plot(claimed[seen], held[seen], "os"[number % 2] + "-", label=f"{name}, ECE {error:.4f}")
        below.stairs(counts, np.linspace(0, 1, len(counts) + 1), label=name)
    axes.set(ylabel="share that holds", title="Reliability of the probabilities read from scores")
    below.set(yscale="log", xlabel="probability", ylabel="entries")
    axes.legend(loc="upper left", fontsize="small")
    return figure


def study_figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Each loss at its best point, mean over seeds with 95 % Student intervals, problem by problem."""
    drawn: dict[str, Figure] = {}
    for problem, found in arms(rows).items():
        drawn[f"{problem}-f1"] = _compared(
            found,
            f"{problem}: micro-F1 by loss",
            {"f1_micro": "as the loss decides", "f1_micro_tuned": "at a tuned threshold"},
        )
        drawn[f"{problem}-calibration"] = _compared(
            found,
            f"{problem}: calibration error by loss",
            {"ece/sigmoid": "σ(s)", "ece/sigmoid_of_double": "σ(2s)"},
        )
        if all("gap/f1_micro" in row.metrics for arm in found for row in arm.rows.values()):
            drawn[f"{problem}-gap"] = _compared(
                found,
                f"{problem}: what is missing to the best rule",
                {"gap/f1_micro": "micro-F1", "gap/map": "mAP", "gap/hamming": "wrong decisions, share"},
            )
    return drawn


def _compared(found: Sequence[Arm], title: str, metrics: Mapping[str, str]) -> Figure:
    """A line for each loss, the best (by the first metric) on top."""
    first = next(iter(metrics))
    ordered = sorted(found, key=lambda arm: arm.mean(first), reverse=first.startswith(("gap/", "ece/")))
    figure, (axes,) = _figure((1,), (7, 1.2 + 0.45 * len(ordered)))
    for number, (metric, label) in enumerate(metrics.items()):
        each = [interval(list(arm.values(metric).values())) for arm in ordered]
        means = np.array([one.mean for one in each])
        reach = np.array([one.high - one.mean if np.isfinite(one.high) else 0.0 for one in each])
        height = np.arange(len(ordered)) - 0.15 * number
        axes.errorbar(means, height, xerr=reach, fmt="osD"[number % 3], capsize=3, markersize=5, label=label)
    seeds = min(len(arm.rows) for arm in ordered)
    axes.set_yticks(range(len(ordered)), [arm.loss for arm in ordered])
    axes.set(title=title, xlabel=f"mean of {seeds} seeds, 95 % interval" if seeds > 1 else "one run each")
    axes.legend(fontsize="small", loc="best")
    return figure


def _figure(heights: Sequence[float], size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Panels of these relative heights, one below the other, with one x axis."""
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0])
    for axes in panels:
        axes.grid(alpha=0.25)
    return figure, panels
