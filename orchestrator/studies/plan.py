"""Study → plan: the exact trials with ids, seeds and (where they do not depend on results) parameters. Pure.

A trial's seed and its random parameters derive from the study's seed and the trial's id alone, so trial 7 is the same
trial in a search of 8 and in one of 800, on one worker or on a hundred. Once the search is over, `finalists` plans the
runs of the best on fresh seeds.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.errors import DoesNotFit, StudyError
from orchestrator.history import checkpoint
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.study import Algorithm, SchedulerKind, Study
from tasks.api import Goal, Placement, Resources, Space

DEFAULTS = "defaults"  # what the runs of a study's own parameters, beside those of finalists, are runs of
_BEST_FIRST = (State.FINISHED, State.PRUNED, State.RUNNING, State.PENDING, State.STOPPED)


@dataclass(frozen=True)
class Node:
    """A machine that can hold trials."""

    name: str
    cpus: float
    gpus: float

    def holds(self, need: Resources) -> int:
        """How many processes of this size fit at once. A fraction of a GPU never spans two cards."""
        by_cpu = math.floor(self.cpus / need.cpus + 1e-9)
        if need.gpus == 0:
            return by_cpu
        by_gpu = int(self.gpus) * math.floor(1 / need.gpus + 1e-9) if need.gpus < 1 else int(self.gpus // need.gpus)
        return min(by_cpu, by_gpu)


@dataclass(frozen=True)
class PlannedTrial:
    """One run of the task. ``params`` holds what the search chose; None until the searcher proposes it.

    ``of`` names the trial that a finalist's run repeats, or `DEFAULTS`.
    """

    id: str
    seed: int
    params: dict[str, Any] | None
    of: str | None = None


@dataclass(frozen=True)
class Plan:
    """``trials`` are those of the search; the runs of finalists are not known before it is over."""

    study: Study
    trials: tuple[PlannedTrial, ...]
    concurrent: int
    notes: tuple[str, ...]

    @property
    def finalist_runs(self) -> int:
        """How many runs the finalists add when as many trials finish as are wanted; 0 without finalists."""
        return _finalist_runs(self.study, len(self.trials))

    @property
    def size(self) -> int:
        """All runs: the search's and the finalists'."""
        return len(self.trials) + self.finalist_runs

    def to_plain(self, seconds_per_trial: float | None = None, checkpoint_bytes: int | None = None) -> dict[str, Any]:
        """What ``plan --json`` prints.

        Times are None until a trial of this study has been timed (seconds), disk until one has kept a checkpoint
        (``checkpoint_bytes``: the largest). Schedulers and budgets may make it less.
        """
        return {
            "study": self.study.name,
            "task": self.study.task,
            "concurrent": self.concurrent,
            "resources": asdict(self.study.resources),
            "finalist_runs": self.finalist_runs,
            "estimate": self._estimate(seconds_per_trial, checkpoint_bytes),
            "notify": None if self.study.notify is None else str(self.study.notify),
            "notes": list(self.notes),
            "trials": [asdict(trial) for trial in self.trials],
        }

    def _estimate(self, seconds: float | None, checkpoint_bytes: int | None) -> dict[str, Any]:
        waves = sum(math.ceil(runs / self.concurrent) for runs in (len(self.trials), self.finalist_runs))
        gpus = self.study.resources.gpus * self.study.resources.processes
        return {
            "waves": waves,
            "seconds_per_trial": seconds,
            "hours": None if seconds is None else waves * seconds / 3600,
            "gpu_hours": None if seconds is None else self.size * seconds * gpus / 3600,
            "checkpoint_bytes": checkpoint_bytes,
            "disk_bytes": None if checkpoint_bytes is None else checkpoint.KEEP * checkpoint_bytes * self.size,
        }


def make_plan(study: Study, nodes: Sequence[Node]) -> Plan:
    """The plan of a study on these nodes. Raises `DoesNotFit` when no node can hold one trial."""
    check_fits(study.resources, nodes)
    most_at_once = capacity(study.resources, nodes)
    chosen = _chosen(study)
    most = max(len(chosen), _finalist_runs(study, len(chosen)))
    concurrent = min(study.search.concurrent or most_at_once, most_at_once, most)
    trials = tuple(map(PlannedTrial, map(trial_id, range(len(chosen))), _seeds(study, len(chosen)), chosen))
    return Plan(study, trials, concurrent, tuple(_notes(study, len(trials), concurrent, most_at_once)))


def finalists(study: Study, record: Record) -> list[PlannedTrial]:
    """The runs of the finalists and of the study's defaults on fresh seeds, those that have started too.

    Empty without finalists and until every trial of the search is over. The k-th run of each has the same seed, so that
    they compare in pairs, and comes before any (k+1)-th, so that a budget cuts all of them short alike. Trials whose
    parameters are the same as a better one's are left out: they are the same finalist.
    """
    search = [trial for trial in record.trials.values() if trial.of is None]
    if study.finalists is None or any(trial.is_open for trial in search) or len(search) < _search_size(study):
        return []
    distinct: dict[str, TrialRecord] = {}
    for trial in ranked(record):
        if trial.state is State.FINISHED and finite_value(trial, study.search.metric) is not None:
            distinct.setdefault(repr(sorted(trial.chosen.items())), trial)
    of = {trial.id: trial.chosen for trial in list(distinct.values())[: study.finalists.top]}
    if of and study.search.space:
        of[DEFAULTS] = {}
    return [
        PlannedTrial(f"{id}-s{k}", derive_seed(study.seed, "finalist", str(k)), chosen, id)
        for k in range(1, study.finalists.seeds + 1)
        for id, chosen in of.items()
    ]


def metric_of(record: Record) -> tuple[str, Goal]:
    search = record.study["search"]
    return search["metric"], Goal(search["goal"])


def finite_value(trial: TrialRecord, metric: str) -> float | None:
    """The metric's value; None where it is not finite, and for trials that failed."""
    value = trial.value(metric)
    return value if trial.state is not State.FAILED and math.isfinite(value) else None


def ranked(record: Record) -> list[TrialRecord]:
    """The search's trials, best first: the finished, the pruned (by their last report), those without a result."""
    metric, goal = metric_of(record)

    def order(trial: TrialRecord) -> tuple[int, float, str]:
        value = finite_value(trial, metric)
        if value is None:
            return (len(_BEST_FIRST), 0.0, trial.id)
        return (_BEST_FIRST.index(trial.state), -value if goal is Goal.MAX else value, trial.id)

    return sorted((trial for trial in record.trials.values() if trial.of is None), key=order)


def trial_id(index: int) -> str:
    return f"t{index:04d}"


def derive_seed(study_seed: int, *identity: str) -> int:
    """A 31-bit seed from the study's seed and an identity (SHA-256, so that near seeds give unrelated streams)."""
    digest = hashlib.sha256("/".join((str(study_seed), *identity)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def capacity(need: Resources, nodes: Sequence[Node]) -> int:
    """How many trials fit on these nodes at once."""
    places = [node.holds(need) for node in nodes]
    if need.placement is Placement.STRICT_PACK:
        return sum(of_node // need.processes for of_node in places)
    return sum(places) // need.processes


def check_fits(need: Resources, nodes: Sequence[Node]) -> None:
    """Raise `DoesNotFit` unless one trial fits, naming what is asked for and what the largest node has."""
    if capacity(need, nodes):
        return
    places = [node.holds(need) for node in nodes]
    if any(places):
        raise _too_many_processes(need, places)
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus) if need.gpus else (node.cpus, node.gpus))
    raise DoesNotFit(
        f"{'a trial' if need.processes == 1 else 'each process of a trial'} asks for {_amount(need.cpus, need.gpus)}, "
        f"but the largest of {len(nodes)} node(s), {largest.name}, has {_amount(largest.cpus, largest.gpus)}",
        f"set resources.cpus={min(need.cpus, largest.cpus):g} resources.gpus={min(need.gpus, largest.gpus):g}, "
        "or use a cluster with larger nodes",
    )


def _too_many_processes(need: Resources, places: Sequence[int]) -> DoesNotFit:
    asked = f"a trial asks for {need.processes} processes of {_amount(need.cpus, need.gpus)} each"
    if need.placement is not Placement.STRICT_PACK:
        message = f"{asked}, but all {len(places)} node(s) together hold {sum(places)}"
        return DoesNotFit(message, f"set resources.processes={sum(places)}, or use a larger cluster")
    hint = f"set resources.processes={max(places)}"
    if sum(places) >= need.processes:
        hint += ", or resources.placement=pack to use several nodes"
    return DoesNotFit(f"{asked} on one node, but no node holds more than {max(places)} of them", hint)


def sample(space: Space, study_seed: int, trial: str) -> dict[str, Any]:
    """One random point of a space for one trial, inactive dimensions left out.

    Every dimension has a random stream of its own, so adding one leaves the others as they were.
    """
    chosen: dict[str, Any] = {}
    for name, dimension in space.items():
        if dimension.active(chosen):
            rng = np.random.default_rng(derive_seed(study_seed, trial, "params", name))
            chosen[name] = dimension.at(rng.random())
    return chosen


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every point of a grid, the last dimension fastest; inactive dimensions left out, no point twice."""
    seen: set[str] = set()
    for values in itertools.product(*(dimension.grid() for dimension in space.values())):
        chosen: dict[str, Any] = {}
        for (name, dimension), value in zip(space.items(), values, strict=True):
            if dimension.active(chosen):
                chosen[name] = value
        if repr(chosen) not in seen:
            seen.add(repr(chosen))
            yield chosen


def _chosen(study: Study) -> list[dict[str, Any] | None]:
    """What the search chooses for each trial, None where it depends on results."""
    search = study.search
    if search.algorithm is Algorithm.GRID:
        return list(itertools.islice(_repeated_grid(study), search.trials))
    assert search.trials is not None  # `build` asks for it
    if not search.space and search.trials > 1:
        raise StudyError(
            "an empty space has one trial only", "search.trials", "set search.trials=1 or add search.space"
        )
    if search.algorithm is Algorithm.TPE and search.space:
        return [None] * search.trials
    return [sample(search.space, study.seed, trial_id(i)) for i in range(search.trials)]


def _repeated_grid(study: Study) -> Iterator[dict[str, Any]]:
    """All points on the first seed, then all on the second: a budget cuts all of them short alike."""
    for _ in range(study.search.seeds):
        yield from grid(study.search.space)


def _seeds(study: Study, trials: int) -> list[int]:
    """The trials' seeds; where points are repeated, the k-th runs of all points share one."""
    if study.search.seeds == 1:
        return [derive_seed(study.seed, trial_id(i)) for i in range(trials)]
    points = sum(1 for _ in grid(study.search.space))
    return [derive_seed(study.seed, "repeat", str(i // points)) for i in range(trials)]


def _search_size(study: Study) -> int:
    search = study.search
    if search.algorithm is Algorithm.GRID:
        return sum(1 for _ in itertools.islice(_repeated_grid(study), search.trials))
    assert search.trials is not None  # `build` asks for it
    return search.trials


def _finalist_runs(study: Study, trials: int) -> int:
    if study.finalists is None:
        return 0
    return (min(study.finalists.top, trials) + bool(study.search.space)) * study.finalists.seeds


def _notes(study: Study, trials: int, concurrent: int, capacity: int) -> Iterator[str]:
    search = study.search
    if search.concurrent and search.concurrent > capacity:
        yield f"search.concurrent={search.concurrent}, but the nodes hold {capacity} at once"
    at_once = min(concurrent, trials)
    if search.algorithm is Algorithm.TPE and at_once > 1:
        yield (
            f"tpe with {at_once} at once: proposals depend on which trial ends first, "
            "so two runs differ; search.concurrent=1 makes them repeat"
        )
    elif search.scheduler.kind in (SchedulerKind.ASHA, SchedulerKind.MEDIAN) and at_once > 1:
        yield f"{search.scheduler.kind} with several trials at once: which are pruned depends on which report first"
    if study.finalists is not None:
        best = f"the best {top}" if (top := min(study.finalists.top, trials)) > 1 else "the best"
        rest = " and the defaults" if search.space else ""
        runs = _finalist_runs(study, trials)
        yield f"then {best}{rest} again on {study.finalists.seeds} fresh seeds: {runs} more trials"
    if study.budget.gpu_hours is not None and not study.resources.gpus:
        yield f"budget.gpu_hours={study.budget.gpu_hours:g} is never reached: a trial holds no GPU"


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU(s) and {gpus:g} GPU(s)" if gpus else f"{cpus:g} CPU(s)"
