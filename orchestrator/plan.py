"""Study → plan: the exact trials with ids, seeds and (where they do not depend on results) parameters. Pure.

A trial's seed and its random parameters derive from the study's seed and the trial's id alone, so trial 7 is the same
trial in a search of 8 and in one of 800, on one worker or on a hundred.
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
from orchestrator.study import Algorithm, Study
from tasks.api import Resources, Space


@dataclass(frozen=True)
class Node:
    """A machine that can hold trials."""

    name: str
    cpus: float
    gpus: float

    def holds(self, need: Resources) -> int:
        """How many trials of this size fit at once. A fraction of a GPU never spans two cards."""
        by_cpu = math.floor(self.cpus / need.cpus + 1e-9)
        if need.gpus == 0:
            return by_cpu
        by_gpu = int(self.gpus) * math.floor(1 / need.gpus + 1e-9) if need.gpus < 1 else int(self.gpus // need.gpus)
        return min(by_cpu, by_gpu)


@dataclass(frozen=True)
class PlannedTrial:
    """One run of the task. ``params`` holds what the search chose; None until the searcher proposes it."""

    id: str
    seed: int
    params: dict[str, Any] | None


@dataclass(frozen=True)
class Plan:
    study: Study
    trials: tuple[PlannedTrial, ...]
    concurrent: int
    notes: tuple[str, ...]

    def to_plain(self, seconds_per_trial: float | None = None) -> dict[str, Any]:
        """What ``plan --json`` prints. The times are None until a trial of this study has been timed."""
        resources, waves = self.study.resources, math.ceil(len(self.trials) / self.concurrent)
        hours = None if seconds_per_trial is None else waves * seconds_per_trial / 3600
        gpu_hours = None if seconds_per_trial is None else len(self.trials) * seconds_per_trial * resources.gpus / 3600
        return {
            "study": self.study.name,
            "task": self.study.task,
            "concurrent": self.concurrent,
            "resources": asdict(resources),
            "estimate": {
                "waves": waves,
                "seconds_per_trial": seconds_per_trial,
                "hours": hours,
                "gpu_hours": gpu_hours,
            },
            "notes": list(self.notes),
            "trials": [asdict(trial) for trial in self.trials],
        }  # fmt: skip


def make_plan(study: Study, nodes: Sequence[Node]) -> Plan:
    """The plan of a study on these nodes. Raises `DoesNotFit` when no node can hold one trial."""
    check_fits(study.resources, nodes)
    capacity = sum(node.holds(study.resources) for node in nodes)
    chosen = _chosen(study)
    concurrent = min(study.search.concurrent or capacity, capacity, len(chosen))
    trials = tuple(
        PlannedTrial(trial_id(i), derive_seed(study.seed, trial_id(i)), params) for i, params in enumerate(chosen)
    )
    return Plan(study, trials, concurrent, tuple(_notes(study, concurrent, capacity)))


def trial_id(index: int) -> str:
    return f"t{index:04d}"


def derive_seed(study_seed: int, *identity: str) -> int:
    """A 31-bit seed from the study's seed and an identity (SHA-256, so that near seeds give unrelated streams)."""
    digest = hashlib.sha256("/".join((str(study_seed), *identity)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def check_fits(need: Resources, nodes: Sequence[Node]) -> None:
    """Raise `DoesNotFit` unless some node holds one trial, naming what is asked for and what the largest has."""
    if any(node.holds(need) for node in nodes):
        return
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus) if need.gpus else (node.cpus, node.gpus))
    raise DoesNotFit(
        f"a trial asks for {_amount(need.cpus, need.gpus)}, "
        f"but the largest of {len(nodes)} node(s), {largest.name}, has {_amount(largest.cpus, largest.gpus)}",
        f"set resources.cpus={min(need.cpus, largest.cpus):g} resources.gpus={min(need.gpus, largest.gpus):g}, "
        "or use a cluster with larger nodes",
    )


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
        points = list(itertools.islice(grid(search.space), search.trials))
        return list(points)
    assert search.trials is not None  # `build` asks for it
    if not search.space and search.trials > 1:
        raise StudyError(
            "an empty space has one trial only", "search.trials", "set search.trials=1 or add search.space"
        )
    if search.algorithm is Algorithm.TPE and search.space:
        return [None] * search.trials
    return [sample(search.space, study.seed, trial_id(i)) for i in range(search.trials)]


def _notes(study: Study, concurrent: int, capacity: int) -> Iterator[str]:
    wanted = study.search.concurrent
    if wanted and wanted > capacity:
        yield f"search.concurrent={wanted}, but the nodes hold {capacity} at once"
    if study.search.algorithm is Algorithm.TPE and concurrent > 1:
        yield (
            f"tpe with {concurrent} at once: proposals depend on which trial ends first, "
            "so two runs differ; search.concurrent=1 makes them repeat"
        )
    elif study.search.scheduler.kind != "none" and concurrent > 1:
        yield "asha with several trials at once: which ones are pruned depends on which reports first"


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU(s) and {gpus:g} GPU(s)" if gpus else f"{cpus:g} CPU(s)"
