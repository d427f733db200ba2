"""The contract between science and machinery: all that a task needs to know, and all that is known of it.

A task is a function ``run(params, context)`` plus a description of what it takes and what it reports. It never learns
whether it runs alone in a test or as one of a thousand trials on a cluster.

>>> class Guess(Params):
...     x: float = Field(0.0, ge=-1, le=1)
...     '''The guess.'''
>>> def run(params, context):
...     return {"loss": (params.x - 0.5) ** 2}
>>> task = Task(name="guess", question="Where is the minimum?", params=Guess, metric="loss", goal=Goal.MIN,
...             reports={"loss": "squared distance to the answer"}, space={"x": Uniform(-1, 1)}, run=run)
>>> task.run(Guess(x=0.5), None)
{'loss': 0.0}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.space import Choice, Dimension, IntRange, LogUniform, Space, Uniform

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

__all__ = [
    "Choice", "Context", "Dimension", "Field", "Goal", "Handle", "Input", "InputError", "IntRange", "LogUniform",
    "Model", "Params", "Placement", "Resources", "Results", "Row", "Space", "Support", "Task", "Uniform", "UserPath",
    "Verdict",
]  # fmt: skip


class InputError(ValueError):
    """Something that the user gave a task (data, weights, a name) cannot be used: says what, where and what to do."""


class Params(BaseModel):
    """Base of a task's parameters: frozen, typed, bounded, each field documented by the string below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""


UserPath = Annotated[str, AfterValidator(_absolute)]
"""A parameter that is a path, or empty. Absolute once it is read: a resume may begin in another folder."""


class Goal(StrEnum):
    """Which way the metric is better."""

    MIN = "min"
    MAX = "max"


# ------------------------------------------------------------------------------------------------ running and ending


class Placement(StrEnum):
    """Where the processes of one trial are: all on one node, on as few nodes as can be, or on as many."""

    STRICT_PACK = "strict_pack"
    PACK = "pack"
    SPREAD = "spread"


@dataclass(frozen=True)
class Resources:
    """What one trial holds while it runs. ``gpus`` may be a fraction: with 0.5, two trials share a card.

    Each of them sees that one card, and may take no more than its fraction of the card's memory. A trial of several
    ``processes`` holds ``cpus`` and ``gpus`` for each; its task must be ``distributed``.
    """

    cpus: float = 1
    gpus: float = 0
    processes: int = 1
    placement: Placement = Placement.STRICT_PACK

    def __post_init__(self) -> None:
        if self.processes != int(self.processes) or self.processes < 1:
            raise ValueError(f"processes must be a whole number of 1 or more, got {self.processes}")
        object.__setattr__(self, "processes", int(self.processes))
        object.__setattr__(self, "placement", Placement(self.placement))
        if not self.cpus > 0 or not math.isfinite(self.cpus):
            raise ValueError(f"cpus must be above 0, got {self.cpus}")
        if not self.gpus >= 0 or not math.isfinite(self.gpus):
            raise ValueError(f"gpus must be 0 or more, got {self.gpus}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus above 1 must be whole, got {self.gpus}")


T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Handle(Protocol[R_co]):
    """One result of a `Context.map`, where its worker left it: small to hand on, read where it is needed."""

    def load(self) -> R_co:
        """The result. Arrays in it are read-only and mapped from the disk: only what is looked at is read."""


class Results(Protocol[R_co]):
    """The results of a `Context.map` in the order of its items; each is read when it is asked for."""

    @property
    def handles(self) -> Sequence[Handle[R_co]]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> R_co: ...
    def __iter__(self) -> Iterator[R_co]: ...


@dataclass(frozen=True)
class Input:
    """A finished trial of an earlier study, as a later one reads it."""

    study: str
    trial: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    seed: int
    artifacts: Path
    """The folder with what it left behind by `Context.artifact`."""


class Context(Protocol):
    """What a running task is given besides its parameters."""

    seed: int
    """Derived from the study's seed and the trial's id; the only source of randomness."""
    device: str
    """``"cpu"`` or ``"cuda"``."""
    data: Path | None
    """The user's data, or None for the task's built-in data set."""
    inputs: Sequence[Input]
    """The trials of the earlier studies that this one is chained to, each study's best first; empty without any."""
    rank: int
    """Which of the trial's processes this is, from 0 on. What rank 0 reports, saves and returns is the trial's."""
    processes: int
    """How many processes the trial has. With more than one, the environment holds what ``torchrun`` sets, so that
    ``torch.distributed.init_process_group(init_method="env://")`` works; each process sees its own GPUs alone."""
    cache: Path
    """A folder shared by all trials of all studies; what is written there must be safe to share and to delete."""

    def report(self, step: int, /, **metrics: float) -> None:
        """Hand over metrics at a step (counted from 1, increasing). Ends the trial as diverged when the study's
        metric is NaN or infinite. May not return: a trial that the scheduler stops ends here."""

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Keep a checkpoint: nested dicts, lists, tuples of tensors and plain values; atomic.

        Report a step before saving it: a resumed trial begins behind its last checkpoint. To end like one that was
        never cut off it needs all that its future depends on: model, optimizer, schedule, generators, the order of the
        data. May not return, as `report`.
        """

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        """The last checkpoint as ``(step, state)``, or None at a fresh start.

        Under population-based training it may be another trial's: parameters that are searched come from ``params``,
        never from the checkpoint.
        """

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        name: str | None = None,
        keys: Sequence[str] | None = None,
    ) -> Results[R]:
        """``function`` of each item: in this process or, under Ray, all over the cluster. For tasks that ``maps``.

        ``function`` is a pure function of its item, defined at a module's top, and so are the results' bits: they do
        not depend on who computes what. An item may hold handles of an earlier map; ``function`` loads them, so that
        data goes from worker to worker. A result that is finished is kept for a resume. With ``keys``, one for each
        item (a digest of all that its result depends on), it is kept in `cache` for every trial of every study.
        ``name`` tells the maps of one trial apart; it is the function's name unless given. Raises what an item raised,
        with the item in its message.
        """

    def artifact(self, name: str) -> Path:
        """A path (``curves.csv``, ``model/head.safetensors``) whose content reaches the tracker."""

    def figure(self, name: str, figure: Figure) -> None:
        """Keep a matplotlib figure as the artifact ``<name>.png``."""


@dataclass(frozen=True)
class Row:
    """A trial that ended with a result: what `Task.conclude` judges, best first."""

    trial: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    seed: int = 0
    """Equal for the k-th runs of all points of a search that repeats each on several seeds: they compare in pairs."""


class Support(StrEnum):
    """What a verdict says of the claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """Whether the measurement supports the claim, in one sentence with its interval."""

    support: Support
    sentence: str


@dataclass(frozen=True)
class Model:
    """How a trial's outcome becomes a model that others load.

    export: ``(artifacts folder, target folder) -> input example``; writes a folder that is complete in itself.
    load: ``(folder) -> predict``, where ``predict`` maps a batch of inputs to a batch of outputs.
    packages: what must be installed where it is loaded.
    """

    export: Callable[[Path, Path], np.ndarray]
    load: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
    packages: tuple[str, ...]


def _no_check(params: Any, data: Path | None) -> None:
    if data is not None and not data.exists():
        raise InputError(f"{data} does not exist")


@dataclass(frozen=True)
class Task:
    """One experiment. ``run(params, context)`` returns the final metrics, of which ``metric`` must be one.

    A metric ``m`` may come with its 95 % interval as ``m_low`` and ``m_high``; leaderboards then show it.
    ``check(params, data)`` looks at the user's data before anything starts and raises `InputError`.
    ``conclude(rows)`` gives the verdict; it is pure, and its rows come best first. So is ``figures(rows)``, which draws
    what only all trials together show. A task that ``maps`` does its work in `Context.map`: an item of that takes
    ``resources``, the trial itself next to nothing. ``reads_data`` is False where there is no data at all, not even
    built-in; ``reads_inputs`` is True where a study may be chained to earlier ones. A ``distributed`` task may run as
    several processes, each of which calls ``run`` with the same parameters and seed and a `Context` of its own rank.
    They end together: when one fails, the trial does.
    """

    name: str
    question: str
    params: type[Params]
    metric: str
    goal: Goal
    reports: Mapping[str, str]
    space: Space
    run: Callable[[Any, Any], Mapping[str, float]]
    resources: Resources = Resources()
    conclude: Callable[[Sequence[Row]], Verdict] | None = None
    check: Callable[[Any, Path | None], None] = _no_check
    model: Model | None = None
    figures: Callable[[Sequence[Row]], Mapping[str, Figure]] | None = None
    maps: bool = False
    reads_data: bool = True
    reads_inputs: bool = False
    distributed: bool = False

    def __post_init__(self) -> None:
        if self.distributed and self.maps:
            raise ValueError(
                f"task {self.name}: what maps leaves the distribution to that; it cannot be distributed too"
            )
        if self.metric not in self.reports:
            raise ValueError(f"task {self.name}: its metric '{self.metric}' is not among what it reports")
        unknown = set(self.space) - set(self.params.model_fields)
        if unknown:
            raise ValueError(f"task {self.name}: the space names {sorted(unknown)}, which are no parameters of it")
        self.params()  # the defaults must be valid
