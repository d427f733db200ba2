"""Greedy selection with replacement: add the member that helps most, again and again, as often as it helps most.

Source: Caruana, Niculescu-Mizil, Crew & Ksikes, Ensemble selection from libraries of models (ICML 2004).
Idea: a member's weight is how often it was picked, so that few picks cannot overfit much; starting from the best few,
and averaging over bags that each see a random part of the members, keeps chance out further. Each bag keeps the prefix
of its picks that scored highest.

The picks are those of the plain search over all members, which is what the tests hold them to, and they cost far less:
the log loss needs the right class's probability alone, and a photo on which no single further member can turn right
into wrong, or wrong into right, is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from tasks.ensemble.candidates import Candidates

_BLOCK = 1 << 16  # numbers in a block: what the cache holds


@dataclass(frozen=True)
class Picks:
    """One bag's picks, candidates by place, and the score after each (mean over photos; higher is better)."""

    picks: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def best(self) -> tuple[int, ...]:
        """The prefix that scored highest, the shortest of equals."""
        return self.picks[: int(np.argmax(self.scores)) + 1]


class _State(Protocol):
    """What all bags have picked so far."""

    def choose(self) -> list[int]: ...
    def add(self, picks: list[int]) -> list[float]: ...


def bags(members: int, count: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Which candidates each bag may pick: bool (count, members), ⌈fraction · members⌉ of them."""
    allowed = np.zeros((count, members), bool)
    for bag in allowed:
        bag[rng.permutation(members)[: max(1, int(np.ceil(fraction * members)))]] = True
    return allowed


def select(
    candidates: Candidates, allowed: np.ndarray, metric: str, ranking: np.ndarray, size: int, start: int
) -> list[Picks]:
    """``size`` picks for each bag (bags, candidates), the first ``start`` of them the best by ``ranking``.

    ``metric`` is ``accuracy`` or ``log_loss``. Between candidates that score alike, the log loss decides, then the
    place.
    """
    state: _State = _Accuracy(candidates, allowed) if metric == "accuracy" else _LogLoss(candidates, allowed)
    ranked = [[int(place) for place in ranking if bag[place]] for bag in allowed]
    picked: list[list[int]] = [[] for _ in allowed]
    scores: list[list[float]] = [[] for _ in allowed]
    first = min(start, size, *map(len, ranked))
    for step in range(size):
        picks = [bag[step] for bag in ranked] if step < first else state.choose()
        for bag, (pick, score) in enumerate(zip(picks, state.add(picks), strict=True)):
            picked[bag].append(pick)
            scores[bag].append(score)
    return [Picks(tuple(picks), tuple(told)) for picks, told in zip(picked, scores, strict=True)]


def weights(selections: list[Picks], candidates: int) -> np.ndarray:
    """The mean over bags of how often each candidate is in the bag's best prefix: (candidates,), of sum 1."""
    shares = [np.bincount(one.best, minlength=candidates) / len(one.best) for one in selections]
    return np.asarray(np.mean(shares, axis=0))


class _LogLoss:
    """``mixture`` (bags, photos): the sum over picks of the right class's probability."""

    def __init__(self, candidates: Candidates, allowed: np.ndarray) -> None:
        self._own, self._barred = candidates.own, ~allowed
        self.mixture = np.zeros((len(allowed), len(candidates.own)))
        self._picked = 0

    def choose(self) -> list[int]:
        return [int(np.argmax(np.where(barred, -np.inf, self.gains(bag)))) for bag, barred in enumerate(self._barred)]

    def gains(self, bag: int, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Σ over photos of log(mixture + own), for some candidates: (candidates,)."""
        own = self._own[:, places]
        total = np.zeros(own.shape[1])
        mixture = self.mixture[bag].astype(np.float32)[:, None]
        step = max(1, _BLOCK // own.shape[1])
        room = np.empty((step, own.shape[1]), np.float32)
        for begin in range(0, len(own), step):
            block = own[begin : begin + step]
            summed = np.add(block, mixture[begin : begin + step], out=room[: len(block)])
            total += np.log(summed, out=summed).sum(axis=0, dtype=np.float64)
        return total

    def add(self, picks: list[int]) -> list[float]:
        self._picked += 1
        self.mixture += self._own[:, picks].T
        return [float(score) for score in np.log(self.mixture / self._picked).mean(axis=1)]


class _Accuracy:
    """``sums`` (bags, photos, classes): the sum over picks of the excess; a photo is right where all are below 0."""

    def __init__(self, candidates: Candidates, allowed: np.ndarray) -> None:
        self._allowed, self._loss = allowed, _LogLoss(candidates, allowed)
        self._cube = candidates.cube()
        self._excess = lru_cache(maxsize=64)(candidates.excess)  # bags pick much the same
        photos, classes, _ = self._cube.shape
        self.sums = np.zeros((len(allowed), photos, classes))
        # What the most and the least of all candidates adds to a class: (photos, classes).
        self._most, self._least = np.empty((photos, classes), np.float32), np.empty((photos, classes), np.float32)
        for photo in range(photos):
            block = np.asarray(self._cube[photo])
            block.max(axis=1, out=self._most[photo])
            block.min(axis=1, out=self._least[photo])

    def choose(self) -> list[int]:
        sums = self.sums.astype(np.float32)
        hits = np.zeros(self._allowed.shape, np.int32)
        open_in: dict[int, list[int]] = {}
        for bag, of_bag in enumerate(sums):
            safe = (of_bag + self._most < 0).all(axis=1)
            lost = (of_bag + self._least >= 0).any(axis=1)
            hits[bag] += safe.sum(dtype=np.int32)
            for photo in np.flatnonzero(~safe & ~lost).tolist():
                open_in.setdefault(photo, []).append(bag)
        classes, members = self._cube.shape[1:]
        room, highest = np.empty((classes, members), np.float32), np.empty(members, np.float32)
        for photo in sorted(open_in):
            block = np.asarray(self._cube[photo])
            for bag in open_in[photo]:
                np.add(block, sums[bag, photo][:, None], out=room)
                np.maximum.reduce(room, axis=0, out=highest)
                hits[bag] += highest < 0
        hits[~self._allowed] = -1
        return [self._break_tie(bag, np.flatnonzero(of_bag == of_bag.max())) for bag, of_bag in enumerate(hits)]

    def _break_tie(self, bag: int, places: np.ndarray) -> int:
        return int(places[np.argmax(self._loss.gains(bag, places))])

    def add(self, picks: list[int]) -> list[float]:
        self._loss.add(picks)
        for bag, pick in enumerate(picks):
            self.sums[bag] += self._excess(pick)
        return [float((of_bag < 0).all(axis=1).mean()) for of_bag in self.sums]
