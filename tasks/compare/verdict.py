"""All arms of a study against the baseline: one sentence, one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from tasks.api import Row, Support, Verdict
from tasks.compare.paired import holm

LEVEL = 0.05


def conclude(rows: Sequence[Row]) -> Verdict:
    """Supported: every arm is better than the baseline (with ``removes``: what every arm leaves out helps). Not
    supported: one is worse. An arm counts when its p-value, corrected by Holm for all arms, is below 5 %."""
    removes = bool(rows[0].params.get("removes", False))
    adjusted = holm([row.metrics["p_value"] for row in rows])
    found: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    nearly = 0
    for row, p in zip(rows, adjusted, strict=True):
        better = (row.metrics["difference"] > 0) != removes
        told = "undecided" if p >= LEVEL else "better" if better else "worse"
        nearly += told == "undecided" and row.metrics["p_value"] < LEVEL
        found[told].append(_said(row))
    words = (
        {
            "better": "Help (without them it is worse)",
            "worse": "Hurt (without them it is better)",
            "undecided": "Undecided (what leaving them out changes)",
        }
        if removes
        else {"better": "Better than the baseline", "worse": "Worse than the baseline", "undecided": "Undecided"}
    )
    parts = [f"{words[told]}: {', '.join(arms)}" for told, arms in found.items() if arms]
    least, most = (int(end(row.metrics["seeds"] for row in rows)) for end in (min, max))
    how = (
        f"points of top-1 with 95 % intervals over {int(rows[0].metrics['photos'])} photos and "
        f"{least if least == most else f'{least} to {most}'} seeds, Holm's correction for {len(rows)} "
        f"arm{'' if len(rows) == 1 else 's'} at 5 %"
    )
    if nearly:
        how += f", without which {nearly} more would count"
    support = Support.UNDECIDED
    if found["worse"]:
        support = Support.NOT_SUPPORTED
    elif not found["undecided"]:
        support = Support.SUPPORTED
    return Verdict(support, f"{'. '.join(parts)} ({how}).")


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Every arm's difference with its interval over photos and seeds, and within it that over photos alone."""
    figure = Figure(figsize=(7, 0.35 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        m = {name: 100 * value for name, value in row.metrics.items()}
        axes.plot([m["difference_low"], m["difference_high"]], [place, place], "-", color="C0", linewidth=1.2)
        axes.plot([m["photo_low"], m["photo_high"]], [place, place], "-", color="C0", linewidth=4, alpha=0.5)
        axes.plot(m["difference"], place, "o", color="C0")
    axes.axvline(0, color="k", linewidth=0.8)
    without = "without " if rows[0].params.get("removes", False) else ""
    axes.set_yticks(range(len(rows)), [f"{without}{row.params.get('arm', '')}" for row in reversed(rows)])
    axes.set_xlabel("difference from the baseline, points of top-1 (thick: over photos alone)")
    axes.grid(axis="x", alpha=0.25)
    return {"differences": figure}


def _said(row: Row) -> str:
    low, mean, high = (100 * row.metrics[f"difference{end}"] for end in ("_low", "", "_high"))
    return f"{row.params.get('arm', row.trial)} ({mean:+.2f}, {low:+.2f} … {high:+.2f})"
