"""Parallel coordinates: a line a trial over one axis for each searched parameter, and the metric at the right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from orchestrator.analysis import standings
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.report.drawing import RAMP, colour, of_trials
from orchestrator.report.figures import MOST_LINES, WIDTH, crowding
from orchestrator.studies.study import dimension_of
from tasks.api import Choice, Goal, IntRange, LogUniform

MOST_AXES = 12
_NOTHING = -0.14  # where a line passes an axis that it has no value on
_MOST_OPTIONS = 8  # with a label each


@dataclass(frozen=True)
class Axis:
    """One vertical axis: where values lie between 0 and 1, and which of them are labelled."""

    name: str
    positions: Mapping[str, float]  # by trial; a trial without one has no value here
    labels: Sequence[tuple[float, str]]
    lacks: str = ""  # why some trials have no value here


def parallel(record: Record, shares: Mapping[str, float]) -> Figure | None:
    """Lines are the darker the better; those without a value are red. With many parameters, the most important."""
    metric, goal = standings.metric_of(record)
    space = record.study["search"]["space"]
    names = sorted(space, key=lambda name: -shares.get(name, 0.0))[:MOST_AXES]
    trials = [trial for trial in record.trials.values() if trial.of is None]
    if not names or len(trials) < 2:
        return None
    axes_of = [_axis(name, space[name], trials) for name in space if name in names]
    values = {t.id: v for t in trials if t.state is not State.FAILED and math.isfinite(v := t.value(metric))}
    axes_of.append(_metric_axis(metric, values, goal, "no value" if len(values) < len(trials) else ""))
    order = sorted(values, key=lambda id: values[id], reverse=goal is Goal.MIN)  # worst first: the best lie on top
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    axes = figure.subplots()
    shown = [*(trial.id for trial in trials if trial.id not in values), *order][-MOST_LINES:]
    lines = [[(x, axis.positions.get(id, _NOTHING)) for x, axis in enumerate(axes_of)] for id in shown]
    ramp_of = {id: RAMP[::-1][i * len(RAMP) // len(order)] for i, id in enumerate(order)}
    crowd = crowding(len(shown))
    drawn = LineCollection(
        lines,
        colors=[colour(ramp_of.get(id, "bad")) for id in shown],
        linestyles=["solid" if id in values else (0, (3, 2)) for id in shown],
        linewidths=[2.2 if order[-1:] == [id] else 0.9 * crowd for id in shown],
        alpha=crowd,
        clip_on=False,
    )
    of_trials(drawn, shown)
    axes.add_collection(drawn)
    for x, axis in enumerate(axes_of):
        _draw_axis(axes, x, axis, last=x == len(axes_of) - 1, tilted=len(axes_of) > 7)
    axes.set_xlim(-0.15, len(axes_of) - 1 + 0.45)
    axes.set_ylim(_NOTHING - 0.08 if any(axis.lacks for axis in axes_of) else -0.05, 1.04)
    axes.axis("off")
    return figure


def _draw_axis(axes: Any, x: int, axis: Axis, last: bool, tilted: bool) -> None:
    axes.plot([x, x], [0, 1], color=colour("soft"), linewidth=1, zorder=5)
    weight = "bold" if last else "normal"
    turn = {"rotation": 20, "ha": "left"} if tilted else {"ha": "center"}
    axes.text(x, 1.05, axis.name, va="bottom", weight=weight, color=colour("ink"), **turn)
    for height, label in axis.labels:
        axes.plot([x, x + 0.03], [height, height], color=colour("soft"), linewidth=1, zorder=5)
        halo = {"facecolor": colour("paper"), "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
        axes.text(x + 0.05, height, label, va="center", fontsize=7.5, color=colour("ink"), bbox=halo, zorder=6)
    if axis.lacks:
        axes.text(x, _NOTHING - 0.03, axis.lacks, ha="center", va="top", fontsize=7.5, color=colour("soft"), zorder=6)


def _axis(name: str, plain: Any, trials: Sequence[TrialRecord]) -> Axis:
    dimension = dimension_of(name, plain)
    chosen = {trial.id: trial.params[name] for trial in trials if name in trial.searched}
    lacks = "not searched" if len(chosen) < len(trials) else ""
    if isinstance(dimension, Choice):
        options = list(dimension.options)
        at = [i / max(1, len(options) - 1) if len(options) > 1 else 0.5 for i in range(len(options))]
        every = math.ceil(len(options) / _MOST_OPTIONS)
        labels = [(at[i], _short(options[i])) for i in range(0, len(options), every)]
        return Axis(name, {id: at[options.index(v)] for id, v in chosen.items() if v in options}, labels, lacks)
    is_log = isinstance(dimension, LogUniform) or (isinstance(dimension, IntRange) and dimension.log)
    return Axis(name, *_scaled(chosen, dimension.low, dimension.high, is_log), lacks)


def _metric_axis(metric: str, values: Mapping[str, float], goal: Goal, lacks: str) -> Axis:
    """The better end is up; the worst twentieth ends at the bottom, lest one that went astray press the others flat."""
    if not values:
        return Axis(metric, {}, [], lacks)
    ordered = sorted(values.values(), reverse=goal is Goal.MIN)
    worst, best = ordered[len(ordered) // 20], ordered[-1]
    if worst == best:
        worst = best - 1 if goal is Goal.MAX else best + 1
    positions, labels = _scaled(values, worst, best, False)
    return Axis(metric, {id: min(1.0, max(0.0, at)) for id, at in positions.items()}, labels, lacks)


def _scaled(
    values: Mapping[str, float], low: float, high: float, is_log: bool
) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Where values lie between ``low`` at 0 and ``high`` at 1, and five labels."""
    through, back = (math.log, math.exp) if is_log else (float, float)
    bottom, height = through(low), through(high) - through(low) or 1.0
    labels = [(i / 4, f"{back(bottom + i / 4 * height):.3g}") for i in range(5)]
    return {id: (through(value) - bottom) / height for id, value in values.items()}, labels


def _short(option: Any) -> str:
    text = f"{option:.3g}" if isinstance(option, float) else str(option)
    return text if len(text) <= 18 else f"{text[:17]}…"
