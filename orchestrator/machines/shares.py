"""Whose turn it is on a cluster that several studies share: the decision, as a pure function of what each holds.

A study's share is the larger of its shares of the cluster's CPUs and of its GPUs. A place that becomes free goes to the
study of the highest priority that waits; among equals, to the one whose share is the smallest with that place, and over
time to the one that has had less. Nothing that runs is ever ended for another's sake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Amount = Mapping[str, float]  # of "CPU" and "GPU"

_UNTAKEN_SECONDS = 10.0  # a place that was left to somebody for so long is not for him; Tune takes seconds to start
_MEMORY_SECONDS = 20.0  # so long ahead by a share counts as much as being ahead by this share now
_TIE = 1.0 / _MEMORY_SECONDS  # studies that are this close do not change places


@dataclass(frozen=True)
class Claim:
    """What a study holds, and what the next thing that it would start needs: None while it wants no more.

    ``worked`` is for how many seconds it has worked with that, in all: a place is held also while a worker starts in
    it, which is nobody's gain.
    """

    held: Amount = field(default_factory=dict)
    need: Amount | None = None
    priority: int = 0
    worked: Amount = field(default_factory=dict)


class Turns:
    """One study's view of the others, by name, kept from `look` to look."""

    def __init__(self) -> None:
        self._own, self._others = Claim(), dict[str, Claim]()
        self._total: Amount = {}
        self._free: Amount = {}
        self._now = 0.0
        self._has_begun = False
        self._ahead: dict[str, float] = {}  # in share-seconds, since both began, while who was behind wanted more
        self._offered: dict[str, tuple[float, Amount]] = {}  # could begin: since when, and what it held then

    def look(self, now: float, own: Claim, others: Mapping[str, Claim], total: Amount, free: Amount) -> None:
        """Take notice of what everybody holds ``now`` (seconds of a clock that does not jump)."""
        self._total = total
        self._has_begun |= any(own.worked.values())
        begun = [name for name, other in others.items() if self._has_begun and any(other.worked.values())]
        self._ahead = {
            **dict.fromkeys(begun, 0.0),
            **{
                name: ahead + self._gain(own, self._others[name], others[name])
                for name, ahead in self._ahead.items()
                if name in others
            },
        }
        self._own, self._others, self._free, self._now = own, dict(others), free, now
        could = {name: o.held for name, o in others.items() if o.need is not None and _within(o.need, free)}
        before = self._offered
        self._offered = {
            name: before[name] if name in before and before[name][1] == held else (now, held)
            for name, held in could.items()
        }

    def gives_way(self, need: Amount, idle: int = 0, takes: int = 1, spare_gpus: bool = False) -> bool:
        """Whether a place for ``need`` is to be left to others: one of those that it holds ``idle``, or a free one.

        It would take so many of them at once. With ``spare_gpus`` they are on nodes without GPUs, which whoever waits
        for a GPU does not need.
        """
        others_too = {r: (idle - takes) * n for r, n in need.items()}  # besides what is free
        held = {r: n - max(0, idle - 1) * need.get(r, 0) for r, n in self._own.held.items()}
        after = self._share(held) if idle else self._after(held, need)
        return any(
            self._goes_before(name, other, other.need, need, after)
            for name, other in self._others.items()
            if other.need is not None
            and not (spare_gpus and other.need.get("GPU"))
            and not _within(other.need, self._free, others_too)
        )

    def _goes_before(self, name: str, other: Claim, lacks: Amount, need: Amount, after: float) -> bool:
        if not _within(lacks, self._free, self._own.held):  # it would gain nothing by what is held here
            return False
        if name in self._offered and self._now - self._offered[name][0] > _UNTAKEN_SECONDS:
            return False
        if other.priority != self._own.priority:
            return other.priority > self._own.priority
        if need.get("GPU") and not lacks.get("GPU"):  # it can run elsewhere, and what needs a GPU cannot
            return False
        newcomer = math.inf if self._has_begun else -math.inf  # its first place comes first
        ahead = self._ahead.get(name, newcomer)
        return after + ahead / _MEMORY_SECONDS > self._after(other.held, lacks) + _TIE

    def _after(self, held: Amount, need: Amount) -> float:
        """The share of a study that is given all of what is free that it can use, and at least one thing.

        Not one thing alone: a study of small trials would take a little of what a large one waits for, and then wait.
        """
        times = min((int(self._free.get(r, 0) / n + 1e-9) for r, n in need.items() if n), default=1)
        return self._share(held, {r: n * max(1, times) for r, n in need.items()})

    def _gain(self, own: Claim, before: Claim, after: Claim) -> float:
        """By how many share-seconds this study got ahead of another since the last look, if whoever fell behind waited.

        Below 0 where the other got ahead.
        """
        gain = self._share(_since(self._own, own)) - self._share(_since(before, after))
        return gain if (before if gain > 0 else self._own).need is not None else 0.0

    def _share(self, *amounts: Amount) -> float:
        return max((sum(a.get(r, 0) for a in amounts) / n for r, n in self._total.items() if n), default=0.0)


def _within(need: Amount, *amounts: Amount) -> bool:
    return all(sum(a.get(resource, 0) for a in amounts) >= n - 1e-9 for resource, n in need.items())


def _since(before: Claim, after: Claim) -> Amount:
    return {resource: n - before.worked.get(resource, 0) for resource, n in after.worked.items()}
