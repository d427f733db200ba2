"""A study: what is asked, validated. The only reader of study files and of ``key=value`` overrides.

>>> study = build({"task": "dogs", "search": {"algorithm": "random", "trials": 8}})
>>> study.search.trials, study.name
(8, 'dogs')
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator import registry, yamlfile
from orchestrator.errors import DataProblem, StudyError, did_you_mean
from tasks.api import Choice, Dimension, Goal, InputError, IntRange, LogUniform, Params, Resources, Task, Uniform

BUILTIN = "builtin"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_DIMENSIONS: dict[str, type[Dimension]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_range": IntRange,
}


_Model = TypeVar("_Model", bound=BaseModel)


class Algorithm(StrEnum):
    RANDOM = "random"
    GRID = "grid"
    TPE = "tpe"


class SchedulerKind(StrEnum):
    NONE = "none"
    ASHA = "asha"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Scheduler(_Part):
    """When to stop a trial early. ``grace`` reports are given to each; then the best 1/``reduction`` go on."""

    kind: SchedulerKind = SchedulerKind.NONE
    grace: int = Field(default=1, ge=1)
    reduction: int = Field(default=3, ge=2)


class Search(_Part):
    """What is tried: the algorithm, how many trials, how many at once, what is better, and where to look."""

    algorithm: Algorithm = Algorithm.RANDOM
    scheduler: Scheduler = Scheduler()
    trials: int | None = Field(default=None, ge=1, le=1_000_000)
    concurrent: int | None = Field(default=None, ge=1)  # None: as many as the nodes hold
    metric: str
    goal: Goal
    space: dict[str, Any]


class Tracking(_Part):
    """Where MLflow is: None is the store embedded in the runs folder (or ``MLFLOW_TRACKING_URI``)."""

    uri: str | None = None


class Study(_Part):
    """One question put to one task. ``data`` is None for the task's built-in data set."""

    task: str
    name: str
    question: str
    data: Path | None
    params: dict[str, Any]
    search: Search
    seed: int = Field(default=0, ge=0, lt=2**32)
    resources: Resources
    tracking: Tracking = Tracking()

    def params_of(self, chosen: Mapping[str, Any]) -> Params:
        """The full parameters of a trial: the task's defaults, this study's, and what the search chose."""
        return registry.task(self.task).params(**{**self.params, **chosen})

    def to_plain(self) -> dict[str, Any]:
        """Plain values that `build` turns into an equal study: what ``study.yaml`` holds."""
        plain = self.model_dump(mode="json")
        plain["data"] = str(self.data) if self.data else BUILTIN
        plain["search"]["concurrent"] = self.search.concurrent or "auto"
        plain["search"]["space"] = {name: _plain_dimension(d) for name, d in self.search.space.items()}
        return plain


def load_study(ref: str, overrides: Sequence[str] = ()) -> Study:
    """A study by the name of a shipped one or by the path of a YAML file, with ``key=value`` overrides.

    Raises `UnknownName` or `StudyError`, which name the file, line and key.
    """
    path = registry.study_path(ref)
    raw, lines = yamlfile.load(path)
    raw.setdefault("name", path.stem)
    sources = _Sources(path, lines)
    for override in overrides:
        _apply(raw, override, sources)
    return build(raw, sources)


def build(raw: Mapping[str, Any], sources: _Sources | None = None) -> Study:
    """A study from plain values; what is missing comes from the task."""
    sources = sources or _Sources(None, {})
    raw = dict(raw)
    unknown = set(raw) - set(Study.model_fields)
    for key in sorted(unknown, key=str):
        raise sources.error((str(key),), f"unknown key '{key}'", did_you_mean(str(key), Study.model_fields))
    if not isinstance(raw.get("task"), str):
        raise sources.error(("task",), "a study names its task", "add 'task: NAME'; `orchestrator tasks` lists them")
    task = registry.task(raw["task"], sources.where(("task",)))
    raw["name"] = _check_name(raw.get("name", task.name), sources)
    raw["question"] = raw.get("question") or task.question
    raw["data"] = _resolve_data(raw.get("data", BUILTIN), sources)
    given = _mapping(raw.get("params"), ("params",), sources)
    raw["params"] = _check_params(task, given, sources)
    raw["search"] = _check_search(task, raw["params"], set(given), raw.get("search"), sources)
    raw["resources"] = _check_resources(task, raw.get("resources"), sources)
    study = _validated(Study, raw, (), sources)
    try:
        task.check(study.params_of({}), study.data)
    except InputError as error:
        raise DataProblem(str(error)) from error
    return study


class _Sources:
    """Where each key came from: a line of the file, or an override."""

    def __init__(self, path: Path | None, lines: yamlfile.Lines) -> None:
        self.path, self.lines = path, lines
        self.overrides: dict[tuple[str, ...], str] = {}

    def where(self, key: tuple[str, ...]) -> str | None:
        """The nearest known place of a key: itself, or the closest key above it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.overrides:
                return self.overrides[key[:end]]
            if key[:end] in self.lines:
                return f"{self.path}:{self.lines[key[:end]]}"
        return str(self.path) if self.path else None

    def error(self, key: tuple[str, ...], message: str, hint: str | None = None) -> StudyError:
        dotted, where = ".".join(key), self.where(key)
        said = dotted in message or (where or "").startswith(f"{dotted}=")
        return StudyError(message if said else f"{dotted}: {message}", where, hint)


def _apply(raw: dict[str, Any], override: str, sources: _Sources) -> None:
    """Set one dotted ``key=value``. A searched parameter that is given a value is searched no longer."""
    key, equals, text = override.partition("=")
    keys = tuple(key.split("."))
    if not equals or not all(keys):
        raise StudyError("an override is written key=value", override, "for example params.epochs=5")
    at = raw
    for name in keys[:-1]:
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
        if not isinstance(at, dict):
            raise StudyError(f"'{name}' has no keys below it", override)
    at[keys[-1]] = yamlfile.parse_value(text, override)
    sources.overrides[keys] = override
    if len(keys) == 2 and keys[0] == "params":
        space = (raw.get("search") or {}).get("space") or {}
        space.pop(keys[1], None)


def _validated(model: type[_Model], raw: Any, key: tuple[str, ...], sources: _Sources) -> _Model:
    """Build a pydantic model; its first error becomes a `StudyError` with file, line and key."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise sources.error(key, f"expected keys and values, got {raw!r}")
    try:
        return model(**raw)
    except ValidationError as error:
        first = error.errors()[0]
        loc = (*key, *(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(loc[-1], model.model_fields)
            raise sources.error(loc, f"unknown key '{loc[-1]}' in {'.'.join(key)}", hint) from error
        raise sources.error(loc, f"{first['msg']}, got {first['input']!r}") from error


def _check_name(name: Any, sources: _Sources) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        hint = "use letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise sources.error(("name",), f"{name!r} cannot be a study's name", hint)
    return name


def _resolve_data(value: Any, sources: _Sources) -> Path | None:
    """A path, or a name under ``$ORCHESTRATOR_DATA``; None for ``builtin``."""
    if value in (None, BUILTIN):
        return None
    if not isinstance(value, str | Path):
        raise sources.error(("data",), f"expected a path or '{BUILTIN}', got {value!r}")
    tried = [Path(value).expanduser()]
    if root := os.environ.get("ORCHESTRATOR_DATA"):
        tried.append(Path(root).expanduser() / value)
    for path in tried:
        if path.exists():
            return path.resolve()
    places = " nor ".join(str(path.absolute()) for path in tried)
    hint = f"give data=PATH, or data={BUILTIN} for the built-in data set"
    raise sources.error(("data",), f"there is no data at {places}", hint)


def _check_params(task: Task, raw: Any, sources: _Sources) -> dict[str, Any]:
    """The study's own parameters, checked against the task's; all of the task's, in its order."""
    return _validated(task.params, raw, ("params",), sources).model_dump(mode="json")


def _check_search(task: Task, params: dict[str, Any], given: set[str], raw: Any, sources: _Sources) -> dict[str, Any]:
    """The search; without a space of its own it takes the task's, less the parameters that the study fixes."""
    raw = dict(_mapping(raw, ("search",), sources))
    if isinstance(raw.get("scheduler"), str):
        raw["scheduler"] = {"kind": raw["scheduler"]}
    elif isinstance(raw.get("scheduler"), Mapping) and "kind" not in raw["scheduler"] and len(raw["scheduler"]) == 1:
        kind, options = next(iter(raw["scheduler"].items()))
        raw["scheduler"] = {"kind": kind, **_mapping(options, ("search", "scheduler"), sources)}
    if raw.get("concurrent") == "auto":
        raw["concurrent"] = None
    raw.setdefault("metric", task.metric)
    raw.setdefault("goal", task.goal)
    if raw["metric"] not in task.reports:
        hint = did_you_mean(str(raw["metric"]), task.reports)
        raise sources.error(("search", "metric"), f"task '{task.name}' does not report '{raw['metric']}'", hint)
    key = ("search", "space")
    if "space" in raw:
        asked = _mapping(raw["space"], key, sources)
    else:
        asked = {name: dimension for name, dimension in task.space.items() if name not in given}
    raw["space"] = {name: _dimension(name, value, (*key, str(name)), sources) for name, value in asked.items()}
    _check_space(task, params, raw["space"], sources)
    raw["space"] = _settled(raw["space"], params)
    search = _validated(Search, raw, ("search",), sources)
    if search.algorithm is Algorithm.GRID:
        for name, dimension in search.space.items():
            try:
                dimension.grid()
            except ValueError as error:
                raise sources.error((*key, name), str(error)) from error
    elif search.trials is None:
        raise sources.error(("search", "trials"), "a search says how many trials it runs", "add search.trials=16")
    return dict(search)


def _mapping(raw: Any, key: tuple[str, ...], sources: _Sources) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise sources.error(key, f"expected keys and values, got {raw!r}")
    return raw


def _dimension(name: str, value: Any, key: tuple[str, ...], sources: _Sources) -> Dimension:
    """``{log_uniform: [1e-4, 1e-1], when: {head: glu}}`` as a `Dimension`."""
    if isinstance(value, Choice | Uniform | LogUniform | IntRange):
        return value
    kinds = [kind for kind in _DIMENSIONS if isinstance(value, Mapping) and kind in value]
    if len(kinds) != 1:
        hint = f"write it as {name}: {{log_uniform: [1e-4, 1e-1]}}; kinds: {', '.join(_DIMENSIONS)}"
        raise sources.error(key, f"'{name}' needs exactly one kind of range, got {value!r}", hint)
    kind = _DIMENSIONS[kinds[0]]
    bounds = value[kinds[0]]
    options = {option: v for option, v in value.items() if option != kinds[0]}
    allowed = {f.name for f in fields(kind)} - {"low", "high", "options"}
    if unknown := set(options) - allowed:
        raise sources.error(key, f"'{name}' has an unknown key '{sorted(unknown)[0]}'", f"allowed: {sorted(allowed)}")
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or (kind is not Choice and len(bounds) != 2):
        raise sources.error(key, f"'{name}' expects a list of {'options' if kind is Choice else 'two bounds'}")
    if kind is not Choice and not all(isinstance(b, int | float) and not isinstance(b, bool) for b in bounds):
        raise sources.error(key, f"the bounds of '{name}' must be numbers, got {bounds!r}")
    try:
        return kind(*bounds, **options)
    except (ValueError, TypeError) as error:
        raise sources.error(key, str(error)) from error


def _check_space(task: Task, params: dict[str, Any], space: dict[str, Any], sources: _Sources) -> None:
    """Every searched name is a parameter, every end of a range is a valid value, every condition can be judged."""
    seen: set[str] = set()
    for name, dimension in space.items():
        key = ("search", "space", name)
        if name not in task.params.model_fields:
            hint = did_you_mean(name, task.params.model_fields)
            raise sources.error(key, f"task '{task.name}' has no parameter '{name}'", hint)
        for value in dimension.ends():
            try:
                task.params(**{**params, name: value})
            except ValidationError as error:
                raise sources.error(key, f"{name}={value!r} is not valid: {error.errors()[0]['msg']}") from error
        for parent in dimension.when or {}:
            if parent not in task.params.model_fields:
                hint = did_you_mean(parent, task.params.model_fields)
                raise sources.error(key, f"'{name}' depends on '{parent}', which is no parameter", hint)
            if parent in space and parent not in seen:
                hint = f"put '{parent}' above '{name}'"
                raise sources.error(key, f"'{name}' depends on '{parent}', which stands below it", hint)
        seen.add(name)


def _settled(space: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The space with conditions on fixed parameters judged: their dimensions are searched always, or never."""
    settled: dict[str, Any] = {}
    for name, dimension in space.items():
        fixed = {parent: value for parent, value in (dimension.when or {}).items() if parent not in space}
        searched = {parent: value for parent, value in (dimension.when or {}).items() if parent in space}
        if all(params[parent] == value for parent, value in fixed.items()) and set(searched) <= set(settled):
            settled[name] = dimension.conditioned(searched or None) if fixed else dimension
    return settled


def _check_resources(task: Task, raw: Any, sources: _Sources) -> Resources:
    key = ("resources",)
    raw = _mapping(raw, key, sources)
    names = [f.name for f in fields(Resources)]
    for name, value in raw.items():
        if name not in names:
            raise sources.error((*key, str(name)), f"unknown key '{name}'", did_you_mean(str(name), names))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise sources.error((*key, name), f"expected a number, got {value!r}")
    try:
        return Resources(**{**{n: getattr(task.resources, n) for n in names}, **raw})
    except ValueError as error:
        raise sources.error(key, str(error)) from error


def _plain_dimension(dimension: Dimension) -> dict[str, Any]:
    kind = next(name for name, cls in _DIMENSIONS.items() if type(dimension) is cls)
    bounds = list(dimension.ends())
    rest = {f.name: getattr(dimension, f.name) for f in fields(dimension) if f.name not in ("low", "high", "options")}
    return {kind: bounds, **{name: value for name, value in rest.items() if value}}
