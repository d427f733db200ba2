"""Does integrated gradients add up, and does it tell better than the plain gradient and than chance?

>>> seen = {"photos": 9, "gap/worst": 0.009, "gap/reached": 1.0, "nodes/mean": 50.0}
>>> better = {f"advantage/{other}{end}": 0.1 for other in ("gradient", "random") for end in ("", "_low", "_high")}
>>> conclude([Row("t", {"tolerance": 0.01}, seen | better)]).support.value
'supported'
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.api import Row, Support, Verdict


def conclude(rows: Sequence[Row]) -> Verdict:
    """Supported: the best trial's maps all add up, and both intervals of its advantage lie above 0."""
    best = rows[0]
    at, tolerance = best.metrics, 100 * float(best.params.get("tolerance", 0.01))
    photos = int(at["photos"])
    reached = round(at["gap/reached"] * photos)
    told = [f"{_advantage(best, other)} {said}" for other, said in
            (("gradient", "the plain gradient"), ("random", "a random order"))]  # fmt: skip
    found = (
        f"{best.trial}: the maps of {reached} of {photos} photos add up to within {tolerance:g} % (worst gap "
        f"{100 * at['gap/worst']:.2g} %, {at['nodes/mean']:.0f} gradients a photo); insertion less deletion is "
        + " and ".join(told)
    )
    caution = "; the best of a search is optimistic on the photos it was chosen by" if len(rows) > 1 else ""
    lows = [at[f"advantage/{other}_low"] for other in ("gradient", "random")]
    highs = [at[f"advantage/{other}_high"] for other in ("gradient", "random")]
    if reached < photos or max(-high for high in highs) > 0:
        return Verdict(Support.NOT_SUPPORTED, found + caution + ".")
    support = Support.SUPPORTED if min(lows) > 0 else Support.UNDECIDED
    return Verdict(support, found + caution + ".")


def _advantage(row: Row, other: str) -> str:
    value, low, high = (row.metrics[f"advantage/{other}{end}"] for end in ("", "_low", "_high"))
    return f"{value:+.3f} ({low:+.3f} … {high:+.3f}, 95 %, in pairs) over"
