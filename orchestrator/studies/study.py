"""A study: what is asked, as values that hold nothing but what is valid. `studyfile` reads them from files.

>>> Scheduler(kind="asha", grace=2).to_plain()
{'kind': 'asha', 'grace': 2, 'reduction': 3}
>>> dimension_of("lr", {"log_uniform": [1e-4, 1e-1]})
LogUniform(when=None, low=0.0001, high=0.1, points=None)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.errors import StudyError, did_you_mean
from orchestrator.notification import Notify
from orchestrator.objectstore.data import DataUrl
from orchestrator.redaction import has_credentials
from orchestrator.studies import registry
from tasks.api import Choice, Dimension, Goal, IntRange, LogUniform, Params, Resources, Task, Uniform

BUILTIN = "builtin"
NO_DATA = "none"  # of a task that reads none
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_DIMENSIONS: dict[str, type[Dimension]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_range": IntRange,
}
_MANY = 10**9


class Algorithm(StrEnum):
    RANDOM = "random"
    GRID = "grid"
    TPE = "tpe"


class SchedulerKind(StrEnum):
    NONE = "none"
    ASHA = "asha"
    MEDIAN = "median"
    HYPERBAND = "hyperband"
    PBT = "pbt"

    @property
    def keys(self) -> tuple[str, ...]:
        """What can be set of this kind, besides the kind itself."""
        return _SCHEDULER_KEYS[self]

    @property
    def is_synchronous(self) -> bool:
        """Whether trials wait for each other, which fixes their number and makes the result repeat."""
        return self in (SchedulerKind.HYPERBAND, SchedulerKind.PBT)


_SCHEDULER_KEYS = {
    SchedulerKind.NONE: (),
    SchedulerKind.ASHA: ("grace", "reduction"),
    SchedulerKind.MEDIAN: ("grace", "min_trials"),
    SchedulerKind.HYPERBAND: ("max_steps", "reduction"),
    SchedulerKind.PBT: ("interval", "quantile", "resample"),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Scheduler(_Part):
    """When to stop a trial early, or (pbt) to let it go on from a better one. Steps are those a task reports at."""

    kind: SchedulerKind = SchedulerKind.NONE
    grace: int = Field(default=1, ge=1, le=_MANY)
    """asha, median: reports that each trial may give before it is judged."""
    reduction: int = Field(default=3, ge=2, le=1000)
    """asha, hyperband: of the trials at a rung, the best 1/``reduction`` go on."""
    min_trials: int = Field(default=3, ge=1, le=1_000_000)
    """median: how many others must have come as far before a trial is compared with their median."""
    max_steps: int | None = Field(default=None, ge=1, le=_MANY)
    """hyperband: the step at which a whole trial ends."""
    interval: int = Field(default=1, ge=1, le=_MANY)
    """pbt: steps between two comparisons."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """pbt: the share at the bottom that is replaced by as many from the top."""
    resample: float = Field(default=0.25, ge=0, le=1)
    """pbt: how often a parameter is drawn anew, instead of being moved a little."""

    @model_validator(mode="after")
    def _check_whole(self) -> Scheduler:
        if self.kind is SchedulerKind.HYPERBAND and self.max_steps is None:
            raise ValueError("hyperband needs max_steps, the step at which a whole trial ends")
        return self

    def to_plain(self) -> dict[str, Any]:
        """The kind, and what it uses."""
        return self.model_dump(mode="json", include={"kind", *self.kind.keys})


class Search(_Part):
    """What is tried: the algorithm, how many trials, how many at once, what is better, and where to look."""

    algorithm: Algorithm = Algorithm.RANDOM
    scheduler: Scheduler = Scheduler()
    trials: int | None = Field(default=None, ge=1, le=1_000_000)
    seeds: int = Field(default=1, ge=1, le=1000)
    """grid: on how many seeds each point is run, the same ones for all points, so that they compare in pairs."""
    concurrent: int | None = Field(default=None, ge=1)  # None: as many as the nodes hold
    metric: str
    goal: Goal
    space: dict[str, Any]


class Tracking(_Part):
    """Where MLflow is: None is the store embedded in the runs folder (or ``MLFLOW_TRACKING_URI``)."""

    uri: str | None = None

    @field_validator("uri")
    @classmethod
    def _check_nothing_secret(cls, uri: str | None) -> str | None:
        """What a study holds is written down in many places: the journal, the page, the tracker itself."""
        if uri is not None and has_credentials(uri):
            raise ValueError(
                "a tracker's password does not belong in a study: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment; for a database, all of MLFLOW_TRACKING_URI"
            )
        return uri


class Failures(_Part):
    """What happens to a trial that fails, and when to give the whole study up."""

    retries: int = Field(default=1, ge=0, le=1000)
    """How often a failing trial is tried again, from its last checkpoint."""
    max_failures: int | None = Field(default=None, ge=0, le=1_000_000)
    """How many trials may fail for good; one more, and the study fails. None: any number."""
    stall_minutes: float | None = Field(default=None, gt=0, le=1_000_000)
    """After how many minutes without a report a trial is stopped and tried again. None: never."""


class Budget(_Part):
    """What a study may use; on reaching one of these it ends in order, with its verdict. None: no limit."""

    hours: float | None = Field(default=None, gt=0, le=1_000_000)
    """Time that drivers have worked on it, pauses between them left out."""
    gpu_hours: float | None = Field(default=None, gt=0, le=_MANY)
    """Time of all attempts of all trials, times the GPUs each holds."""
    trials: int | None = Field(default=None, ge=1, le=1_000_000)
    """Trials that have started, the runs of finalists among them."""
    failures: int | None = Field(default=None, ge=1, le=1_000_000)
    """Failed attempts, those that were tried again too."""


class Finalists(_Part):
    """The best are run again on fresh seeds: the verdict is on those runs, not on the one that was lucky."""

    top: int = Field(default=3, ge=1, le=1000)
    """How many of the finished trials; the study's defaults come in besides."""
    seeds: int = Field(default=5, ge=2, le=1000)
    """On how many fresh seeds each: the same ones for all, so that runs can be compared in pairs."""


class Pinned(_Part):
    """The trials of an earlier study that a chained one reads: what it reads stays, whatever comes to that study."""

    study: str = Field(pattern=f"^{NAME.pattern}$")  # a path is made of it
    uid: str
    trials: tuple[str, ...] = Field(min_length=1)


class Inputs(_Part):
    """The earlier studies whose finished trials this one reads."""

    studies: tuple[str, ...] = Field(alias="from", min_length=1)
    top: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many of each study's finished trials, the best of them; None: all."""
    pinned: tuple[Pinned, ...] = ()
    """Which trials these are: written down when the study starts."""

    def __str__(self) -> str:
        return ", ".join(f"{pin.study} ({len(pin.trials)} trials)" for pin in self.pinned) or ", ".join(self.studies)

    @field_validator("studies", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


class Study(_Part):
    """One question put to one task. ``data`` is None for the task's built-in data set."""

    task: str
    name: str
    question: str
    data: Path | DataUrl | None
    inputs: Inputs | None = None
    params: dict[str, Any]
    search: Search
    finalists: Finalists | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    priority: int = Field(default=0, ge=-100, le=100)
    """On a shared cluster, free places go to the study of the highest; what runs is not ended for it."""
    resources: Resources
    failures: Failures = Failures()
    budget: Budget = Budget()
    tracking: Tracking = Tracking()
    notify: Notify | None = None
    """Who is told when it is over."""

    def params_of(self, chosen: Mapping[str, Any]) -> Params:
        """The full parameters of a trial: the task's defaults, this study's, and what the search chose."""
        return registry.task(self.task).params(**{**self.params, **chosen})

    @property
    def data_name(self) -> str:
        """The path, the URL with its digest, `BUILTIN` or `NO_DATA`."""
        if self.data is not None:
            return str(self.data)
        return BUILTIN if registry.task(self.task).reads_data else NO_DATA

    def to_plain(self) -> dict[str, Any]:
        """Plain values that `studyfile.build` turns into an equal study: what ``study.yaml`` holds.

        Equal but for a webhook's URL, of which only the host is in there.
        """
        plain = self.model_dump(mode="json", by_alias=True, exclude={"notify"})
        if self.inputs is None:
            del plain["inputs"]
        if self.notify is not None:
            plain["notify"] = str(self.notify)
        plain["data"] = self.data_name
        plain["search"]["scheduler"] = self.search.scheduler.to_plain()
        plain["search"]["concurrent"] = self.search.concurrent or "auto"
        plain["search"]["space"] = {name: plain_dimension(d) for name, d in self.search.space.items()}
        return plain

    def fixed(self) -> dict[str, Any]:
        """What a study that goes on must keep, by dotted key: changed, what has finished would not compare."""
        search = self.search
        return {
            "task": self.task,
            "name": self.name,
            "data": self.data_name,
            "inputs": self.inputs,
            "seed": self.seed,
            **{f"params.{name}": value for name, value in self.params.items()},
            "search.metric": search.metric,
            "search.goal": search.goal.value,
            "search.seeds": "several seeds" if search.seeds > 1 else "one seed of its own",
            "search.algorithm": search.algorithm.value,
            "search.scheduler": search.scheduler,
            **{f"search.space.{name}": dimension for name, dimension in search.space.items()},
            "search.space": list(search.space),  # the order too: a grid follows it
        }


def why_fixed(key: str, value: Any) -> str:
    """Why a key of `Study.fixed`, which has this value, cannot change once trials have run."""
    part = key if key in _WHY_FIXED else key.rpartition(".")[0]
    if isinstance(value, Scheduler):
        value = value.kind.value
    elif isinstance(value, list):
        value = ", ".join(value) or "nothing"
    elif isinstance(value, Choice | Uniform | LogUniform | IntRange):
        value = plain_dimension(value)
    return _WHY_FIXED[part].format(value)


_WHY_FIXED = {
    "task": "what has run is task '{}'",
    "name": "its folder and its runs in MLflow are called '{}'",
    "inputs": "what finished read {}; with other inputs it would be incomparable",
    "data": "what finished was measured on {}; on other data it would be incomparable",
    "seed": "what finished drew its parameters and its randomness from seed {}, as the rest must",
    "params": "what finished ran with {}; with another value it would be incomparable",
    "search.metric": "what finished was judged by '{}'; by another metric it would be incomparable",
    "search.goal": "what finished was ranked by '{}'; another goal would make it incomparable",
    "search.seeds": "each point ran on {}; the rest would not compare in pairs",
    "search.algorithm": "what finished was chosen by '{}'; the rest would belong to another search",
    "search.scheduler": "what was stopped early was stopped by the rules of '{}'; others would have judged otherwise",
    "search.space": "what finished was chosen from {}; the rest would belong to another search",
}


# ---------------------------------------------------------------------------------------------------- search spaces


def dimension_of(name: str, value: Any) -> Dimension:
    """``{log_uniform: [1e-4, 1e-1], when: {head: glu}}`` as a `Dimension`. Raises `StudyError`."""
    if isinstance(value, Choice | Uniform | LogUniform | IntRange):
        return value
    kinds = [kind for kind in _DIMENSIONS if isinstance(value, Mapping) and kind in value]
    if len(kinds) != 1:
        hint = f"write it as {name}: {{log_uniform: [1e-4, 1e-1]}}; kinds: {', '.join(_DIMENSIONS)}"
        raise StudyError(f"'{name}' needs exactly one kind of range, got {value!r}", hint=hint)
    kind = _DIMENSIONS[kinds[0]]
    bounds = value[kinds[0]]
    options = {option: v for option, v in value.items() if option != kinds[0]}
    allowed = {f.name for f in fields(kind)} - {"low", "high", "options"}
    if unknown := set(options) - allowed:
        raise StudyError(f"'{name}' has an unknown key '{sorted(unknown)[0]}'", hint=f"allowed: {sorted(allowed)}")
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or (kind is not Choice and len(bounds) != 2):
        raise StudyError(f"'{name}' expects a list of {'options' if kind is Choice else 'two bounds'}")
    if kind is not Choice and not all(isinstance(b, int | float) and not isinstance(b, bool) for b in bounds):
        raise StudyError(f"the bounds of '{name}' must be numbers, got {bounds!r}")
    try:
        return kind(*bounds, **options)
    except (ValueError, TypeError) as error:
        raise StudyError(str(error)) from error


def plain_dimension(dimension: Dimension) -> dict[str, Any]:
    """The inverse of `dimension_of`."""
    kind = next(name for name, cls in _DIMENSIONS.items() if type(dimension) is cls)
    bounds = list(dimension.ends())
    rest = {f.name: getattr(dimension, f.name) for f in fields(dimension) if f.name not in ("low", "high", "options")}
    return {kind: bounds, **{name: value for name, value in rest.items() if value}}


def check_dimension(task: Task, params: Mapping[str, Any], space: Mapping[str, Any], name: str) -> None:
    """Raise `StudyError` unless this one is a parameter, both its ends are valid, and its conditions can be judged."""
    valid, dimension, above = task.params.model_fields, space[name], list(space)[: list(space).index(name)]
    if name not in valid:
        raise StudyError(f"task '{task.name}' has no parameter '{name}'", hint=did_you_mean(name, valid))
    for value in dimension.ends():
        try:
            task.params(**{**params, name: value})
        except ValidationError as error:
            raise StudyError(f"{name}={value!r} is not valid: {error.errors()[0]['msg']}") from error
    for parent in dimension.when or {}:
        if parent not in valid:
            message = f"'{name}' depends on '{parent}', which is no parameter"
            raise StudyError(message, hint=did_you_mean(parent, valid))
        if parent in space and parent not in above:
            message = f"'{name}' depends on '{parent}', which stands below it"
            raise StudyError(message, hint=f"put '{parent}' above '{name}'")


def settled(space: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The space with conditions on fixed parameters judged: their dimensions are searched always, or never."""
    kept: dict[str, Any] = {}
    for name, dimension in space.items():
        fixed = {parent: value for parent, value in (dimension.when or {}).items() if parent not in space}
        searched = {parent: value for parent, value in (dimension.when or {}).items() if parent in space}
        if all(params[parent] == value for parent, value in fixed.items()) and set(searched) <= set(kept):
            kept[name] = dimension.conditioned(searched or None) if fixed else dimension
    return kept
