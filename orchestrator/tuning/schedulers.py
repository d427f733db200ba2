"""When trials stop early, wait for others, or take over another's state.

Every decision follows from what the journal holds: told the same reports and shown the same record, a scheduler made
anew for a resumed study decides as the one that died. None of them knows a clock, a worker or a global random state.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from orchestrator.history.events import Cause
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import derive_seed, trial_id
from orchestrator.studies.study import SchedulerKind, Study
from tasks.api import Choice, Dimension, Goal, IntRange, Space


@dataclass(frozen=True)
class Go:
    trial: str


@dataclass(frozen=True)
class Prune:
    trial: str
    reason: str


@dataclass(frozen=True)
class Mutate:
    """The trial takes over its parent's checkpoint and goes on with these parameters, all of them."""

    trial: str
    parent: str
    params: dict[str, Any]


Move = Go | Prune | Mutate


class Scheduler(Protocol):
    """Where one says nothing else, trials run to their own end."""

    def pause_at(self, trial: TrialRecord) -> int | None:
        """The next step beyond the trial's last after which it waits for others; None: it never waits."""
        return None

    def on_report(self, trial: str, step: int, value: float) -> bool:
        """Whether the trial goes on after this report of the study's metric. Asked in each trial's step order."""
        return True

    def moves(self, record: Record) -> list[Move]:
        """What happens to the trials that wait, mutations first; none of those that still have to."""
        return [Go(trial.id) for trial in _waiting(record)]


class Fifo(Scheduler):
    """Every trial runs to its own end."""


# ------------------------------------------------------------------------------------------- asynchronous: nobody waits


@dataclass
class _Rung:
    step: int
    rewards: list[float] = field(default_factory=list)  # sorted
    trials: set[str] = field(default_factory=set)

    def enter(self, trial: str, reward: float, quantile: float) -> bool:
        """Whether the reward is no worse than that quantile of those who came before."""
        passes = not self.rewards or reward >= _quantile(self.rewards, quantile)
        insort(self.rewards, reward)
        self.trials.add(trial)
        return passes


class Asha(Scheduler):
    """Asynchronous successive halving (Li et al. 2018, A System for Massively Parallel Hyperparameter Tuning, section
    3.2) in the variant that stops trials instead of promoting them; it decides as Ray Tune's ``ASHAScheduler``.

    Rungs stand at ``grace * reduction**k`` without end. At a rung a trial goes on if it is among the best
    1/``reduction`` (interpolated) of those that came there before it. A report counts for the highest rung at or below
    its step that the trial has not been to: one that skips rungs by reporting seldom makes up for the lower ones later.
    A value that is not finite stops the trial and enters no rung.
    """

    def __init__(self, goal: Goal, grace: int, reduction: int) -> None:
        self._sign, self._reduction = _sign(goal), reduction
        self._quantile = (1 - 1 / reduction) * 100 / 100  # by way of per cent, so that it rounds as Tune's does
        self._rungs = [_Rung(grace)]

    def on_report(self, trial: str, step: int, value: float) -> bool:
        if not math.isfinite(value):
            return False
        while self._rungs[-1].step * self._reduction <= step:
            self._rungs.append(_Rung(self._rungs[-1].step * self._reduction))
        for rung in reversed(self._rungs):
            if rung.step <= step and trial not in rung.trials:
                return rung.enter(trial, self._sign * value, self._quantile)
        return True


@dataclass
class _Running:
    """What a trial has reported so far, as rewards: the best of all, and the sum since the grace period."""

    step: int = 0
    best: float = -math.inf
    total: float = 0.0
    count: int = 0


class Median(Scheduler):
    """Median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2, there against completed trials only).

    From step ``grace`` on a trial stops when its best value so far is worse than the median, over at least
    ``min_trials`` others that have reported this step, of their running averages from ``grace`` up to this step.

    Where every trial reports every step it decides as Ray Tune's ``MedianStoppingRule`` with ``hard_stop``. It differs
    otherwise: an other that skipped this very step but went beyond does not count here; nobody is paused to wait for
    others (``min_time_slice``); a trial that ends does not have its last result counted twice; and an average is never
    taken for better than the best it averages, so that rounding does not make equal trials stop each other.
    """

    def __init__(self, goal: Goal, grace: int, min_trials: int) -> None:
        self._sign, self._grace, self._min_trials = _sign(goal), grace, max(1, min_trials)
        self._running: dict[str, _Running] = {}
        self._averages: dict[int, list[float]] = {}  # by step, sorted: of every trial that has reported it

    def on_report(self, trial: str, step: int, value: float) -> bool:
        running = self._running.setdefault(trial, _Running())
        if not math.isfinite(value):
            return False
        if step <= running.step:  # told twice
            return True
        reward = self._sign * value
        running.step, running.best = step, max(running.best, reward)
        if step < self._grace:
            return True
        running.total, running.count = running.total + reward, running.count + 1
        averages = self._averages.setdefault(step, [])
        goes_on = len(averages) < self._min_trials or running.best >= _median(averages)
        insort(averages, min(running.total / running.count, running.best))
        return goes_on


# ----------------------------------------------------------------------------------------- synchronous: trials wait


@dataclass(frozen=True, eq=False)
class Bracket:
    """Successive halving of these trials. At the last rung nobody waits any more."""

    trials: tuple[str, ...]
    reduction: int
    rungs: tuple[int, ...]

    def size_at(self, rung: int) -> int:
        """How many run up to a rung."""
        return max(1, len(self.trials) // self.reduction**rung)


def brackets(max_steps: int, reduction: int, trials: int) -> Iterator[Bracket]:
    """The brackets of Hyperband's Algorithm 1, over and over, until they hold all trials; the last may be smaller."""
    most = 0  # s_max, in whole numbers: a logarithm can be off by one at a power of the reduction
    while reduction ** (most + 1) <= max_steps:
        most += 1
    ids = map(trial_id, range(trials))
    for s in itertools.cycle(range(most, -1, -1)):
        size = -(-(most + 1) * reduction**s // (s + 1))  # rounded up
        rungs = tuple(max(1, round(max_steps / reduction ** (s - i))) for i in range(s + 1))
        members = tuple(itertools.islice(ids, size))
        if not members:
            return
        yield Bracket(members, reduction, rungs)


class Hyperband(Scheduler):
    """Synchronous Hyperband (Li et al. 2017, Hyperband: A Novel Bandit-Based Approach, Algorithm 1).

    Trials are dealt to brackets by index. Once every member of a bracket has come to a rung or is over, the best
    1/``reduction`` of the number planned for that rung go on. A trial that finished before keeps its place in the
    ranking with its last report; one that failed or was stopped has none. Values are those of the rung even for trials
    that are past it, so one that comes late, after a retry, is judged as if it had been in time. After ``max_steps`` a
    trial runs on to its own end.
    """

    def __init__(self, goal: Goal, max_steps: int, reduction: int, trials: int) -> None:
        self._goal = goal
        self._bracket_of = {id: bracket for bracket in brackets(max_steps, reduction, trials) for id in bracket.trials}

    def pause_at(self, trial: TrialRecord) -> int | None:
        bracket = self._bracket_of.get(trial.id)
        return next((rung for rung in bracket.rungs[:-1] if rung > trial.steps), None) if bracket else None

    def moves(self, record: Record) -> list[Move]:
        waiting = [trial.id for trial in _waiting(record)]
        strangers = [Go(id) for id in waiting if id not in self._bracket_of]
        concerned = dict.fromkeys(self._bracket_of[id] for id in waiting if id in self._bracket_of)
        return [*strangers, *(move for bracket in concerned for move in self._moves_in(bracket, record))]

    def _moves_in(self, bracket: Bracket, record: Record) -> Iterator[Move]:
        alive = [record.trials[id] for id in bracket.trials if id in record.trials]
        stages: list[float] = [*bracket.rungs[:-1], math.inf]
        yield from (Go(trial.id) for trial in alive if _waits(trial) and trial.steps < stages[0])  # by older rungs
        for i, (rung, following) in enumerate(itertools.pairwise(stages)):
            if (i == 0 and len(alive) < len(bracket.trials)) or not all(_has_come(trial, rung) for trial in alive):
                return
            ranked = _ranked(
                self._goal, (t for t in alive if t.is_open or t.state in (State.FINISHED, State.PRUNED)), rung
            )
            # Those whom this rung has ended already are counted for the others' places, but do not go on.
            able = [trial for trial in ranked if trial.state is not State.PRUNED or trial.steps >= following]
            alive = able[: bracket.size_at(i + 1)]
            best = {trial.id for trial in alive}
            for place, trial in enumerate(ranked, 1):
                if _waits(trial) and trial.id not in best:
                    yield Prune(trial.id, f"hyperband: {_ordinal(place)} of {len(ranked)} at step {rung:g}")
                elif _waits(trial) and trial.steps < following:
                    yield Go(trial.id)


class Pbt(Scheduler):
    """Population-based training (Jaderberg et al. 2017, section 3; truncation selection of 4.1), synchronous.

    Every trial waits at each multiple of ``interval``, its barrier. Once all planned trials have come there or are
    over, each of the worst ``quantile`` takes over the checkpoint of one drawn from the best ``quantile`` (*exploit*)
    and its parameters, perturbed (*explore*). Who has no checkpoint at the barrier cannot be a parent.
    """

    def __init__(
        self, goal: Goal, interval: int, quantile: float, resample: float, space: Space, seed: int, trials: int
    ) -> None:
        self._goal, self._interval, self._quantile, self._resample = goal, interval, quantile, resample
        self._space, self._seed = space, seed
        self._planned = {trial_id(i): None for i in range(trials)}

    def pause_at(self, trial: TrialRecord) -> int | None:
        return self._barrier(trial.steps) + self._interval if trial.id in self._planned else None

    def moves(self, record: Record) -> list[Move]:
        waiting = _waiting(record)
        barriers = [self._barrier(trial.steps) for trial in waiting if trial.id in self._planned]
        barrier = min((step for step in barriers if step), default=None)
        strangers = [Go(t.id) for t in waiting if t.id not in self._planned or t.steps < self._interval]
        planned = [record.trials[id] for id in self._planned if id in record.trials]
        if barrier is None or len(planned) < len(self._planned) or not all(_has_come(t, barrier) for t in planned):
            return [*strangers]
        here = [t for t in waiting if t.id in self._planned and self._barrier(t.steps) == barrier]
        # Who went on already still counts: a driver that died between two moves leaves the same decision behind.
        population = _ranked(self._goal, (t for t in planned if t.is_open or t.steps > barrier), barrier)
        count = min(math.floor(self._quantile * len(population) + 1e-9), len(population) // 2)
        parents = [trial for trial in population[:count] if self._can_be_parent(trial, barrier)]
        worst = {trial.id for trial in population[len(population) - count :]} if parents else set()
        losers = {t.id: t for t in here if t.id in worst and not self._has_mutated(t, barrier)}
        # Mutations first: a parent that goes on writes over its checkpoint.
        mutations = [self._mutate(trial, parents, barrier) for trial in losers.values()]
        return [*mutations, *strangers, *(Go(trial.id) for trial in here if trial.id not in losers)]

    def _barrier(self, step: int) -> int:
        return step // self._interval * self._interval

    def _can_be_parent(self, trial: TrialRecord, barrier: int) -> bool:
        is_here = _waits(trial) and self._barrier(trial.steps) == barrier
        return is_here and trial.saved == trial.steps and math.isfinite(_reward(self._goal, trial, barrier))

    def _has_mutated(self, trial: TrialRecord, barrier: int) -> bool:
        return bool(trial.mutations) and self._barrier(trial.mutations[-1].step) >= barrier

    def _mutate(self, trial: TrialRecord, parents: list[TrialRecord], barrier: int) -> Mutate:
        parent = parents[self._rng(trial.id, barrier).integers(len(parents))]
        return Mutate(trial.id, parent.id, self._explored(trial.id, parent, barrier))

    def _explored(self, trial: str, parent: TrialRecord, barrier: int) -> dict[str, Any]:
        """The parent's parameters with each searched dimension perturbed; conditions are judged anew."""
        before: dict[str, Any] = {}
        chosen: dict[str, Any] = {}
        for name, dimension in self._space.items():
            rng = self._rng(trial, barrier, name)
            was_active = dimension.active(before)
            if was_active:
                before[name] = parent.now[name]
            if not dimension.active(chosen):
                continue
            if not was_active or rng.random() < self._resample:
                chosen[name] = dimension.at(rng.random())
            else:
                chosen[name] = _perturbed(dimension, before[name], rng)
        return {**parent.now, **chosen}

    def _rng(self, trial: str, barrier: int, *name: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, trial, "pbt", str(barrier), *name))


def make_scheduler(study: Study, trials: int) -> Scheduler:
    """The scheduler of a study whose search has this many trials planned."""
    search, options = study.search, study.search.scheduler
    match options.kind:
        case SchedulerKind.ASHA:
            return Asha(search.goal, options.grace, options.reduction)
        case SchedulerKind.MEDIAN:
            return Median(search.goal, options.grace, options.min_trials)
        case SchedulerKind.HYPERBAND:
            assert options.max_steps is not None  # the study asks for it
            return Hyperband(search.goal, options.max_steps, options.reduction, trials)
        case SchedulerKind.PBT:
            interval, quantile, resample = options.interval, options.quantile, options.resample
            return Pbt(search.goal, interval, quantile, resample, search.space, study.seed, trials)
    return Fifo()


def _perturbed(dimension: Dimension, value: Any, rng: np.random.Generator) -> Any:
    """A number times 0.8 or 1.2 within its bounds (a whole one always moves), a neighbour of an option."""
    up = rng.random() < 0.5
    if isinstance(dimension, Choice):
        return _beside(dimension.options, value, up) if value in dimension.options else dimension.at(rng.random())
    moved = min(dimension.high, max(dimension.low, value * (1.2 if up else 0.8)))
    if not isinstance(dimension, IntRange):
        return float(moved)
    return round(moved) if round(moved) != value else _beside(range(dimension.low, dimension.high + 1), value, up)


def _beside(options: Sequence[Any], value: Any, up: bool) -> Any:
    """The next option in a direction, or in the other one at an end."""
    at = options.index(value)
    sides = (at + 1, at - 1) if up else (at - 1, at + 1)
    return next((options[i] for i in sides if 0 <= i < len(options)), value)


def _sign(goal: Goal) -> int:
    """What makes a value a reward: higher is better."""
    return 1 if goal is Goal.MAX else -1


def _quantile(ordered: list[float], quantile: float) -> float:
    """Of sorted values, interpolated linearly; rounds as ``numpy.quantile`` does."""
    position = (len(ordered) - 1) * quantile
    below = int(position)
    if below >= len(ordered) - 1:
        return ordered[-1]
    low, high, weight = ordered[below], ordered[below + 1], position - below
    return high - (high - low) * (1 - weight) if weight >= 0.5 else low + (high - low) * weight


def _median(ordered: list[float]) -> float:
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _waits(trial: TrialRecord) -> bool:
    return trial.state is State.PENDING and trial.cause is Cause.PAUSED


def _waiting(record: Record) -> list[TrialRecord]:
    """In the order of their ids, t9999 before t10000."""
    return sorted(filter(_waits, record.trials.values()), key=lambda trial: (len(trial.id), trial.id))


def _has_come(trial: TrialRecord, step: float) -> bool:
    """Whether others need wait no longer for it there: it waits there too, has gone on from there, or is over.

    A trial that runs at this very step does not count yet: its checkpoint, or its end, may still be on the way.
    """
    return not trial.is_open or trial.steps > step or trial.paused >= step or (trial.steps == step and _waits(trial))


def _ranked(goal: Goal, trials: Iterable[TrialRecord], step: float) -> list[TrialRecord]:
    """Best first as of a step; equals stay in the order of their ids, in which they are given."""
    return sorted(trials, key=lambda trial: -_reward(goal, trial, step))


def _reward(goal: Goal, trial: TrialRecord, step: float) -> float:
    """What it reported first at or beyond a step, or last before it; the worst of all where that is no number."""
    curve = trial.curve
    if not curve:
        return -math.inf
    value = curve.values[min(bisect_left(curve.steps, step), len(curve) - 1)]
    return _sign(goal) * value if math.isfinite(value) else -math.inf


def _ordinal(place: int) -> str:
    last = 0 if place % 100 in (11, 12, 13) else place % 10
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
