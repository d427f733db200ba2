"""What ran where and when: each stretch of work as a bar on its node, no two on one place at once. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.history.record import Record, Span, TrialRecord

_LAG_SECONDS = 0.5  # clocks differ and news takes its time: so much of an overlap is none
_GAP = 0.0005  # of the whole width: bars of one trial that are closer look like one
_LEAST_PAUSE_SECONDS, _LEAST_PAUSE = 60.0, 0.1  # what is longer, also than this share of all work, is cut out


@dataclass
class Bar:
    """Work of a trial on one place of a node, in Unix time."""

    trial: str
    node: str
    place: int
    began: float
    ended: float


def bars(record: Record) -> list[Bar]:
    """The bars of all attempts that had a place; of a trial that maps, those of its items, which hold the places."""
    work = sorted(_work(record), key=lambda bar: (bar.node, bar.began, bar.ended))
    placed: list[Bar] = []
    for _, group in itertools.groupby(work, key=lambda bar: bar.node):
        ends: list[Bar] = []  # the last bar on each place
        for bar in group:
            bar.place = _place(ends, bar)
            if bar.place < len(ends):
                bar.began = max(bar.began, ends[bar.place].ended)
                ends[bar.place] = bar
            else:
                ends.append(bar)
            placed.append(bar)
    return _merged(placed)


def nodes(record: Record) -> dict[str, int]:
    """The nodes on which trials worked, each with how many of them did at some time."""
    there: dict[str, set[str]] = {}
    for bar in _work(record):
        there.setdefault(bar.node, set()).add(bar.trial)
    return {node: len(trials) for node, trials in sorted(there.items())}


def busy_seconds(all_bars: Iterable[Bar]) -> float:
    return sum(bar.ended - bar.began for bar in all_bars)


class Clock:
    """Seconds since a study began, long pauses (between a stop and a resume, say) cut out."""

    def __init__(self, started: float, work: Sequence[Bar]) -> None:
        self._started = started
        busy = _union((bar.began, bar.ended) for bar in work)
        worked = sum(end - begin for begin, end in busy)
        least = max(_LEAST_PAUSE_SECONDS, _LEAST_PAUSE * worked)
        self._pauses = [(a, b) for (_, a), (b, _) in itertools.pairwise(busy) if b - a > least]

    def __call__(self, at: float) -> float:
        return at - self._started - sum(max(0.0, min(at, end) - begin) for begin, end in self._pauses)

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """Each pause that was cut out: where it is, and how long it was (seconds)."""
        return [(self(begin), end - begin) for begin, end in self._pauses]


def _work(record: Record) -> Iterator[Bar]:
    for trial in record.trials.values():
        for span in _spans(trial):
            ended = record.at if span.ended is None else span.ended
            if ended > span.began:
                yield Bar(trial.id, span.node, 0, span.began, ended)


def _spans(trial: TrialRecord) -> list[Span]:
    return [span for mapped in trial.maps.values() for span in mapped.spans] if trial.maps else trial.spans


def _place(ends: Sequence[Bar], bar: Bar) -> int:
    """The place that has been free for the shortest time; a new one when none is free."""
    lag = min(_LAG_SECONDS, (bar.ended - bar.began) / 2)
    free = [place for place, before in enumerate(ends) if before.ended <= bar.began + lag]
    return max(free, key=lambda place: (ends[place].ended, -place), default=len(ends))


def _merged(placed: Sequence[Bar]) -> list[Bar]:
    if not placed:
        return []
    near = _GAP * (max(bar.ended for bar in placed) - min(bar.began for bar in placed))
    merged: list[Bar] = []
    latest: dict[tuple[str, int], Bar] = {}
    for bar in placed:
        before = latest.get((bar.node, bar.place))
        if before is not None and before.trial == bar.trial and bar.began - before.ended < near:
            before.ended = bar.ended
        else:
            merged.append(bar)
            latest[bar.node, bar.place] = bar
    return merged


def _union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined
