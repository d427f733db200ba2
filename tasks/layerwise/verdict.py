"""Do the claims hold, to what digit, and what does each breaker cost?

Idea: equal to 1e-6 is held as exact (float64 gives far less). A test that a wrong claim would pass as well tests
nothing: the same pair with the other power of λ must part by a hundredth of the way at least.

>>> seen = {"scale": 10.0, "deviation/clean": 1e-13, "deviation/control": 0.9}
>>> rows = [Row(f"t{n}", {}, {**seen, "optimizer": n}) for n in range(5)]
>>> conclude(rows).support.value, conclude(rows[:3]).support.value
('supported', 'undecided')
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.api import Row, Support, Verdict
from tasks.layerwise import BREAKERS, EXACT, OPTIMIZERS

POWER = 1e-2
"""The least deviation of the control at which a trial counts."""


def conclude(rows: Sequence[Row]) -> Verdict:
    """Supported: every optimiser's trajectories agree to 1e-6, in trials that would have shown a wrong power of λ."""
    telling = [row for row in rows if row.metrics["deviation/control"] >= POWER or not _exact(row)]
    if not telling:
        return Verdict(
            Support.UNDECIDED,
            f"No trial could have shown a wrong claim: with the other power of λ the trajectories part by less than "
            f"{POWER:g} of the way too (λ too near 1, or too few steps).",
        )
    costs = _costs(telling)
    apart = [row for row in telling if not _exact(row)]
    if apart:
        return Verdict(
            Support.NOT_SUPPORTED,
            f"In {len(apart)} of {len(telling)} trials the trajectories part by more than {EXACT:g} of the way with "
            f"nothing to break the claim: {_worst(apart, 'deviation/clean')}. {costs}",
        )
    missing = [name for number, name in enumerate(OPTIMIZERS) if number not in {_number(row) for row in telling}]
    control = min(row.metrics["deviation/control"] for row in telling)
    found = (
        f"the lr is multiplied by λ² under SGD and momentum and by λ under Adam, AdamW and RMSprop: with ε = 0, no "
        f"weight decay and no clipping the trajectories of {len(telling)} trials part by at most "
        f"{_worst(telling, 'deviation/clean')}, with the other power of λ by {control:.2g} at least"
    )
    if missing:
        return Verdict(
            Support.UNDECIDED, f"As far as tried, {found}; no telling trial of {', '.join(missing)}. {costs}"
        )
    return Verdict(Support.SUPPORTED, f"As claimed, {found}. {costs}")


def _costs(rows: Sequence[Row]) -> str:
    """What each breaker costs, the least and the most of all trials, and what is left of it when corrected."""
    told = []
    for what in BREAKERS:
        broken = [row.metrics[f"deviation/{what}"] for row in rows if f"deviation/{what}" in row.metrics]
        mended = [row.metrics[f"corrected/{what}"] for row in rows if f"corrected/{what}" in row.metrics]
        if broken and mended:
            name = {"epsilon": "ε"}.get(what, what.replace("_", " "))
            told.append(f"{name} {min(broken):.1e} … {max(broken):.1e} (corrected: at most {max(mended):.1e})")
    return f"What breaks it costs, of the way: {'; '.join(told)}." if told else ""


def _exact(row: Row) -> bool:
    return row.metrics["deviation/clean"] <= EXACT


def _worst(rows: Sequence[Row], name: str) -> str:
    row = max(rows, key=lambda row: row.metrics[name])
    return f"{row.metrics[name]:.1e} of the way ({OPTIMIZERS[_number(row)]}, λ = {row.metrics['scale']:g})"


def _number(row: Row) -> int:
    return int(row.metrics["optimizer"])
