"""The figures of a study's page, each a function of the record; None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis import finalists, standings
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.report.drawing import colour, of_trials
from orchestrator.report.rungs import Arrival, Outcome
from orchestrator.report.use import Bar, Clock
from orchestrator.tuning.search import Importance
from tasks.api import Goal

WIDTH = 9.6  # inches
COLOURED = 5  # of the best, with a name
MOST_LINES = 1000
_MOST_POINTS = 60_000  # of all curves together
_STATES = {
    State.FINISHED: "good",
    State.PRUNED: "cut",
    State.FAILED: "bad",
    State.STOPPED: "halt",
}
_OUTCOMES = {Outcome.WENT_ON: "c0", Outcome.STOPPED: "cut", Outcome.TOOK_OVER: "c3", Outcome.WAITS: "rest"}


def curves(record: Record) -> Figure | None:
    """The metric by step: the best in colour, what was pruned or failed pale in the colour of its end."""
    metric, _ = standings.metric_of(record)
    shown = [trial for trial in _by_rank(record) if len(trial.curve)][:MOST_LINES]
    if not shown or max(len(trial.curve) for trial in shown) < 2:
        return None
    best = [trial.id for trial in shown if trial.state in (State.FINISHED, State.RUNNING)][:COLOURED]
    figure, axes = _one(3.7)
    most, crowd = max(50, _MOST_POINTS // len(shown)), crowding(len(shown))
    lines, looks, dots = [], [], []
    for trial in reversed(shown):  # the best lie on top
        points = _points(trial, most)
        name = f"c{best.index(trial.id)}" if trial.id in best else _pale(trial)
        if len(points) > 1:
            lines.append((points, trial.id))
            looks.append(to_rgba(colour(name), 1 if trial.id in best else 0.55 * crowd))
        dots += [(*points[-1], name, trial.id)] if len(points) == 1 else []
    widths = [1.8 if id in best else 0.8 * crowd for _, id in lines]
    drawn = LineCollection([points for points, _ in lines], colors=looks, linewidths=widths)
    of_trials(drawn, [id for _, id in lines])
    axes.add_collection(drawn)
    _dots(axes, dots)
    axes.autoscale_view()
    seen = [value for points, _ in lines for _, value in points] + [value for _, value, *_ in dots]
    _keep_to_most(axes, seen, record)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=colour(f"c{rank}"), linewidth=1.8, label=id) for rank, id in enumerate(best)]
    others = {trial.state: _pale(trial) for trial in shown if trial.id not in best}
    handles += [
        Line2D([], [], color=colour(name), linewidth=0.8, label=f"other {state.lower()}")
        for state, name in others.items()
    ]
    _legend(figure, handles)
    return figure


def values(record: Record) -> Figure | None:
    """Of trials without curves: each one's value, in the order in which they began, and the best up to there."""
    metric, goal = standings.metric_of(record)
    trials = [trial for trial in record.trials.values() if trial.of is None]
    all_values = [(index, _value(trial, metric), trial) for index, trial in enumerate(trials)]
    found = [(index, value, trial) for index, value, trial in all_values if value is not None]
    if len(found) < 2 or max(len(trial.curve) for trial in trials) > 1:
        return None
    figure, axes = _one(3.0)
    best = np.maximum.accumulate if goal is Goal.MAX else np.minimum.accumulate
    axes.step([i for i, *_ in found], best([v for _, v, _ in found]), where="post", color=colour("c0"), linewidth=1.2)
    _dots(axes, [(index, value, _STATES.get(t.state, "rest"), t.id) for index, value, t in found[:MOST_LINES]])
    _keep_to_most(axes, [value for _, value, _ in found], record)
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    present = dict.fromkeys(trial.state for *_, trial in found)
    handles = [_mark(_STATES.get(state, "rest"), state.lower()) for state in present]
    _legend(figure, [*handles, Line2D([], [], color=colour("c0"), linewidth=1.2, label="best so far")])
    return figure


def seeds(record: Record) -> Figure | None:
    """What was run on several seeds: each value, the mean and its 95 % interval, best at the top."""
    groups = (finalists.groups(record) or finalists.repeats(record))[:20]
    if not groups:
        return None
    metric, _ = standings.metric_of(record)
    figure, axes = _one(0.9 + 0.3 * len(groups))
    for row, group in enumerate(groups):
        axes.plot([group.low, group.high], [row, row], color=colour("c0"), linewidth=2.2)
        axes.plot(group.mean, row, "o", color=colour("c0"), markersize=6)
        axes.plot(group.values, [row] * len(group.values), "|", color=colour("soft"), markersize=9)
    axes.set_yticks(range(len(groups)), [group.trial for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(metric)
    line = Line2D([], [], color=colour("c0"), linewidth=2.2, marker="o", label="mean and its 95 % interval")
    _legend(figure, [line, _mark("soft", "each seed", "|")])
    return figure


def importances(found: Importance) -> Figure:
    shares = list(found.shares.items())[:20]
    figure, axes = _one(0.7 + 0.26 * len(shares))
    axes.barh(range(len(shares)), [share for _, share in shares], color=colour("c0"), height=0.62)
    for row, (_, share) in enumerate(shares):
        said: Any = {"textcoords": "offset points", "xytext": (5, 0), "va": "center", "color": colour("soft")}
        axes.annotate(f"{share:.0%}", (share, row), **said)
    axes.set_yticks(range(len(shares)), [_cut(name) for name, _ in shares])
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * max(share for _, share in shares) or 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(axis="y", visible=False)
    return figure


def rungs(arrivals: Sequence[Arrival], clock: Clock, metric: str, record: Record) -> Figure | None:
    """A panel a rung: what each trial had when it came there, and whether it went on."""
    steps = sorted({arrival.rung for arrival in arrivals})
    if not steps:
        return None
    if len(steps) > 6:
        steps = [steps[round(i * (len(steps) - 1) / 5)] for i in range(6)]
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    grid = figure.subplots(1, len(steps), sharey=True, sharex=True, squeeze=False)[0]
    scale, unit = _unit(max(clock(arrival.at) for arrival in arrivals))
    for axes, step in zip(grid, steps, strict=True):
        here = [arrival for arrival in arrivals if arrival.rung == step]
        _dots(axes, [(clock(a.at) / scale, a.value, _OUTCOMES[a.outcome], a.trial) for a in here[:MOST_LINES]])
        axes.set_title(f"step {step} · {len(here)} came")
    _keep_to_most(grid[0], [arrival.value for arrival in arrivals], record)
    grid[0].set_ylabel(metric)
    figure.supxlabel(f"{unit} since the start", fontsize=8.5, color=colour("soft"))
    present = dict.fromkeys(arrival.outcome for arrival in arrivals)
    _legend(figure, [_mark(_OUTCOMES[outcome], outcome.value) for outcome in Outcome if outcome in present])
    return figure


def cluster(bars: Sequence[Bar], clock: Clock, record: Record) -> Figure | None:
    """Trials as bars: a line a place, the places of a node together."""
    if not bars:
        return None
    lanes = sorted({(bar.node, bar.place) for bar in bars})
    row_of = {lane: row for row, lane in enumerate(lanes)}
    figure, axes = _one(1.0 + min(6.5, max(0.5, 0.24 * len(lanes))))
    scale, unit = _unit(max(clock(bar.ended) for bar in bars))
    corners = [_corners(clock(b.began) / scale, clock(b.ended) / scale, row_of[b.node, b.place]) for b in bars]
    names = [_STATES.get(record.trials[bar.trial].state, "rest") for bar in bars]
    drawn = PolyCollection(
        corners, facecolors=[colour(name) for name in names], edgecolors=colour("paper"), linewidths=0.4
    )
    of_trials(drawn, [bar.trial for bar in bars])
    axes.add_collection(drawn)
    width = max(clock(bar.ended) for bar in bars) / scale
    for at, seconds in clock.pauses:
        axes.axvline(at / scale, color=colour("soft"), linestyle=":", linewidth=1)
        axes.text(at / scale, -0.75, f" {span(seconds)} later", color=colour("soft"), va="bottom", fontsize=7.5)
    axes.set_xlim(0, width)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    firsts = {node: row for (node, _), row in reversed(row_of.items())}  # the row of each node's first place
    for row in firsts.values():
        axes.axhline(row - 0.5, color=colour("line"), linewidth=0.8)
    every = math.ceil(len(firsts) / 30)
    axes.set_yticks(list(firsts.values())[::every], [_cut(node) for node in firsts][::every])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{unit} since the start")
    present = dict.fromkeys(record.trials[bar.trial].state for bar in bars)
    _legend(figure, [_mark(_STATES.get(state, "rest"), state.lower(), "s") for state in State if state in present])
    return figure


def crowding(lines: int) -> float:
    """By how much lines are thinner and fainter where there are many."""
    return min(1.0, (100 / max(1, lines)) ** 0.3)


def span(seconds: float) -> str:
    """
    >>> span(75), span(7200), span(3.14159)
    ('75 s', '2 h', '3.1 s')
    """
    scale, unit = _unit(seconds)
    short = {"seconds": "s", "minutes": "min", "hours": "h"}[unit]
    return f"{seconds / scale:.{1 if seconds / scale < 10 else 0}f}".removesuffix(".0") + f" {short}"


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < 120:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 7200 else (3600.0, "hours")


def _one(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _by_rank(record: Record) -> list[TrialRecord]:
    order = [entry.trial for entry in standings.leaderboard(record) if entry.trial in record.trials]
    return [record.trials[trial] for trial in order]


def _pale(trial: TrialRecord) -> str:
    """The colour of a trial that is not among the best: grey, unless it was cut short."""
    return "rest" if trial.state is State.FINISHED else _STATES.get(trial.state, "rest")


def _value(trial: TrialRecord, metric: str) -> float | None:
    value = trial.value(metric)
    return value if math.isfinite(value) else None


def _points(trial: TrialRecord, most: int) -> list[tuple[int, float]]:
    """Its finite reports; of more than ``most`` every k-th, and the last."""
    points = [(s, v) for s, v in zip(trial.curve.steps, trial.curve.values, strict=True) if math.isfinite(v)]
    every = math.ceil(len(points) / most)
    return points if every <= 1 else points[::every] + points[-1:]


def _keep_to_most(axes: Axes, seen: Sequence[float], record: Record) -> None:
    """Do not let the few that went astray make the others a flat line; the good end is always whole."""
    finite = np.asarray([value for value in seen if math.isfinite(value)])
    if not finite.size:
        return
    _, goal = standings.metric_of(record)
    low, high = float(finite.min()), float(finite.max())
    most, least = np.quantile(finite, [0.97, 0.03])
    reach = 2 * (most - least)
    if goal is Goal.MIN and reach > 0 and high > most + reach:
        high = most + reach / 4
    if goal is Goal.MAX and reach > 0 and low < least - reach:
        low = least - reach / 4
    pad = 0.04 * (high - low) or abs(high) * 0.05 or 1.0
    axes.set_ylim(low - pad, high + pad)


def _dots(axes: Axes, dots: Sequence[tuple[float, float, str, str]]) -> None:
    """Each with its colour and its trial."""
    if dots:
        xs, ys, names, trials = zip(*dots, strict=True)
        drawn = axes.scatter(xs, ys, s=13, c=[colour(name) for name in names], linewidths=0, alpha=0.85)
        of_trials(drawn, trials)


def _corners(left: float, right: float, row: int) -> list[tuple[float, float]]:
    return [(left, row - 0.4), (left, row + 0.4), (right, row + 0.4), (right, row - 0.4)]


def _mark(name: str, label: str, marker: str = "o") -> Line2D:
    return Line2D([], [], color=colour(name), marker=marker, linestyle="", markersize=5, label=label)


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=min(8, len(handles)), handlelength=1.4)


def _cut(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"
