"""What a trial and a study draw: bands along training, the claims with their intervals, scores by learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tasks.api import Row, Support
from tasks.batchnorm import ARMS, BANDS, STAGES
from tasks.batchnorm.verdict import CLAIMS, Finding, find

_COLOURS = {arm: f"C{i}" for i, arm in enumerate(ARMS)}
_PANELS = (("loss_low", "loss_high", "loss"), ("change_low", "change_high", "gradient change"), ("beta", "beta", "β"))
_FLOOR = 1e-6  # of logarithmic axes


def trial_figure(history: Sequence[Mapping[str, float]], arm: str, lr: float) -> Figure:
    """What was seen at ½ to 4 learning rates along the gradient, by step; each row of ``history`` is a probe."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (low, high, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        steps = [row["step"] for row in history]
        _band(axes, steps, [row[low] for row in history], [row[high] for row in history], _COLOURS[arm])
        if low == "loss_low":
            axes.plot(steps, [max(row["loss_here"], _FLOOR) for row in history], "k--", linewidth=0.8, label="here")
            axes.legend(fontsize="small")
        axes.set(xlabel="step", title=title)
    figure.suptitle(f"Along the gradient, ½ to 4 times the learning rate {lr:g}: norm '{arm}'")
    return figure


def study_figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """All that can be drawn of these rows."""
    findings = [finding for claim in CLAIMS if (finding := find(claim, rows)) is not None]
    figures = {"bands": _bands(rows), "rates": _rates(rows)}
    return ({"claims": _claims(findings)} if findings else {}) | figures


def _claims(findings: Sequence[Finding]) -> Figure:
    """A line for each claim: ratios on the left on a logarithmic axis, differences of accuracy on the right."""
    figure = Figure(figsize=(13, 1.4 + 0.36 * len(findings)), layout="constrained")
    axes = figure.subplots()
    colours = {Support.SUPPORTED: "tab:green", Support.NOT_SUPPORTED: "tab:red", Support.UNDECIDED: "tab:gray"}
    labels = []
    for line, finding in enumerate(reversed(findings)):
        ends = np.array([finding.low, finding.value, finding.high])
        ends = np.exp(ends * 10) if finding.claim.is_difference else ends  # .1 of accuracy is drawn as a factor e
        ends = ends.clip(1e-3, 1e3)
        colour = colours[finding.support]
        axes.plot(ends[[0, 2]], [line, line], color=colour, linewidth=2.5)
        axes.plot(ends[1], line, "o", color=colour)
        note = f"{finding}  {finding.support.value}"
        axes.annotate(note, (1.01, line), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=colour)
        claim = finding.claim
        labels.append(f"{claim.says} ({claim.arm} / {claim.against}; {claim.source})")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", ylim=(-0.6, len(findings) - 0.4))
    axes.set_xlabel("ratio, 95 % interval (accuracy: e to 10 times the difference)")
    axes.set_yticks(range(len(findings)), labels, fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(f"Claims of paper and post, {findings[0].seeds} paired seeds")
    return figure


def _bands(rows: Sequence[Row]) -> Figure:
    """A column for each arm, at the largest rate at which the fewest runs diverged; means over seeds of logs."""
    lr = _clearest_rate(rows)
    seen = {arm: [r for r in rows if _is(r, arm, lr) and not r.metrics["diverged"]] for arm in ARMS}
    arms = [arm for arm in ARMS if seen[arm]] or [arm for arm in ARMS if any(_is(r, arm, lr) for r in rows)]
    figure = Figure(figsize=(2.1 * max(3, len(arms)) + 1, 7), layout="constrained")
    grid = figure.subplots(len(_PANELS), len(arms), sharex=True, sharey="row", squeeze=False)
    centres = (np.arange(STAGES) + 0.5) / STAGES
    for column, arm in enumerate(arms):
        for line, (low, high, title) in enumerate(_PANELS):
            axes = grid[line, column]
            if seen[arm]:
                _band(axes, centres, _mean(seen[arm], low), _mean(seen[arm], high), _COLOURS[arm])
            axes.grid(alpha=0.25)
            if line == 0:
                axes.set_title(arm)
            if column == 0:
                axes.set_ylabel(title)
    for axes in grid[:, 0]:
        if axes.get_yscale() == "log":  # whole decades, which are what is labelled; linear where nothing is drawn
            low, high = np.log10(axes.get_ylim())
            axes.set_ylim(10 ** np.floor(low), 10 ** np.ceil(high))
            axes.yaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("share of the training that is done")
    figure.suptitle(f"Along the gradient, ½ to 4 times the learning rate {lr:g}")
    return figure


def _rates(rows: Sequence[Row]) -> Figure:
    """Test scores by learning rate, and the largest stable rate of each arm; a point a seed, lines through means."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = sorted({row.params["lr"] for row in rows})
    present = [arm for arm in ARMS if any(row.params["norm"] == arm for row in rows)]
    for place, arm in enumerate(present):
        own = [row for row in rows if row.params["norm"] == arm]
        by_rate = {lr: [r.metrics["test/score"] for r in own if r.params["lr"] == lr] for lr in rates}
        line = [(lr, float(np.mean(scores))) for lr, scores in by_rate.items() if scores]
        left.plot(*zip(*line, strict=True), "-", color=_COLOURS[arm], label=arm)
        left.plot([r.params["lr"] for r in own], [r.metrics["test/score"] for r in own], ".", color=_COLOURS[arm])
        stable = {(r.seed, r.metrics["stable/lr"]) for r in own if "stable/lr" in r.metrics}
        right.plot([place] * len(stable), [lr for _, lr in stable], "o", color=_COLOURS[arm], alpha=0.6)
    left.set(xscale="log", xlabel="learning rate", ylabel="test score", title="Score (diverged: 0)")
    left.legend(fontsize="small")
    right.set(yscale="log", title="Largest stable learning rate", ylabel="learning rate")
    right.set_xticks(range(len(present)), present)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


def _clearest_rate(rows: Sequence[Row]) -> float:
    rates = sorted({row.params["lr"] for row in rows}, reverse=True)
    return float(min(rates, key=lambda lr: sum(bool(r.metrics["diverged"]) for r in rows if r.params["lr"] == lr)))


def _is(row: Row, arm: str, lr: float) -> bool:
    return bool(row.params["norm"] == arm and row.params["lr"] == lr)


def _mean(rows: Sequence[Row], name: str) -> list[float]:
    """The geometric mean over rows of a band's edge, by stage."""
    assert name in BANDS
    values = np.array([[row.metrics[f"bands/{name}/{stage}"] for stage in range(1, STAGES + 1)] for row in rows])
    return [float(value) for value in np.exp(np.log(values.clip(_FLOOR)).mean(0))]


def _band(axes, x, low: Sequence[float], high: Sequence[float], colour: str) -> None:  # type: ignore[no-untyped-def]
    """The area between two lines, or one line where they are the same, on a logarithmic axis."""
    lows, highs = np.clip(low, _FLOOR, None), np.clip(high, _FLOOR, None)
    axes.fill_between(x, lows, highs, color=colour, alpha=0.3)
    axes.plot(x, highs, color=colour, linewidth=1.2)
    axes.plot(x, lows, color=colour, linewidth=0.8)
    axes.set_yscale("log")
