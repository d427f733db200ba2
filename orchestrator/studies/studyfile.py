"""The only reader of study files and of ``key=value`` overrides; every mistake is named with file, line and key.

>>> study = build({"task": "dogs", "search": {"algorithm": "random", "trials": 8}})
>>> study.search.trials, study.name
(8, 'dogs')
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.datasets import catalogue
from orchestrator.errors import DataProblem, StudyError, did_you_mean
from orchestrator.history.folder import TAKEN, data_root
from orchestrator.history.record import Record
from orchestrator.notification import Notify
from orchestrator.objectstore.data import DataUrl, localized, pinned
from orchestrator.objectstore.storage import is_url
from orchestrator.studies import registry, yamlfile
from orchestrator.studies.sources import Sources, apply, validated
from orchestrator.studies.study import (
    BUILTIN,
    NAME,
    NO_DATA,
    Algorithm,
    Budget,
    Failures,
    Finalists,
    Inputs,
    Scheduler,
    SchedulerKind,
    Search,
    Study,
    Tracking,
    check_dimension,
    dimension_of,
    settled,
    why_fixed,
)
from tasks.api import InputError, Placement, Resources, Task


def load_study(ref: str, overrides: Sequence[str] = (), check_data: bool = True) -> Study:
    """A study by the name of a shipped one or by the path of a YAML file, with ``key=value`` overrides.

    Raises `UnknownName` or `StudyError`, which name the file, line and key, and `DataProblem`; that not without
    ``check_data``, for whoever only reads what the study asks.
    """
    path = registry.study_path(ref)
    raw, lines = yamlfile.load(path)
    raw.setdefault("name", path.stem)
    sources = Sources(path, lines)
    for override in overrides:
        keys = apply(raw, override, sources)
        if len(keys) == 2 and keys[0] == "params":  # a searched parameter that is given a value is searched no longer
            search = raw.get("search")
            space = search.get("space") if isinstance(search, dict) else None
            if isinstance(space, dict):  # what it is otherwise is refused below
                space.pop(keys[1], None)
    return build(raw, sources) if check_data else _built(raw, sources)


def build(raw: Mapping[str, Any], sources: Sources | None = None) -> Study:
    """A study from plain values; what is missing comes from the task. Raises `StudyError` or `DataProblem`."""
    return _with_data_checked(_built(raw, sources or Sources(None, {})))


def change_study(record: Record, overrides: Sequence[str]) -> Study:
    """The study of a resumed run: the one in its journal, with ``key=value`` changes that keep its trials comparable.

    More trials, resources, budgets, retries, finalists and the tracker can change; see `Study.fixed` for what cannot.
    Raises `StudyError`, which says why a change is refused and how to start it as a new study, and `DataProblem`.
    """
    study, sources = _journaled(record), Sources(None, {})
    for override in overrides:
        study = _changed(study, override, record, sources)
    return _with_data_checked(study)


def imagined(record: Record, overrides: Sequence[str]) -> Study:
    """The study of a record with ``key=value`` changes, to reason about and not to run: its data may be gone."""
    raw = _plain(record) | {"data": BUILTIN, "finalists": None}
    sources = Sources(None, {})
    for override in overrides:
        apply(raw, override, sources)
    return _built(raw, sources)


def _journaled(record: Record) -> Study:
    raw = _plain(record)
    if (data := raw.get("data", BUILTIN)) not in (BUILTIN, NO_DATA) and not is_url(data) and not Path(data).exists():
        hint = "put it back, or start a new study: orchestrator run STUDY data=PATH name=NEW"
        raise StudyError(f"its data is no longer at {data}", hint=hint)
    return _built(raw, Sources(None, {}))


def _plain(record: Record) -> dict[str, Any]:
    """The journal's study as `build` reads it."""
    if not record.study:
        hint = "start it again: orchestrator run STUDY"
        raise StudyError("the journal holds no study: it ended before it began", hint=hint)
    raw = copy.deepcopy(dict(record.study))
    scheduler = raw["search"].get("scheduler", {"kind": "none"})
    used = ("kind", *SchedulerKind(scheduler["kind"]).keys)  # journals of version 1 have more
    raw["search"]["scheduler"] = {key: value for key, value in scheduler.items() if key in used}
    return raw


def _changed(study: Study, override: str, record: Record, sources: Sources) -> Study:
    """The study with one override. Raises `StudyError` when what has run would not compare with what will."""
    raw = {**study.to_plain(), "notify": study.notify}
    keys = apply(raw, override, sources)
    fixed = study.fixed()
    if keys[0] == "params" and set(keys[1:]) & set(study.search.space):
        raise _refused(override, ".".join(keys), "it is searched; fixed, it would make another search")
    try:
        changed = _built(raw, sources)
    except StudyError as error:
        ends = [".".join(keys[:end]) for end in range(len(keys), 0, -1)]
        if key := next((key for key in ends if key in fixed), None):
            raise _refused(override, key, why_fixed(key, fixed[key])) from error
        raise
    new = changed.fixed()
    for key in fixed | new:
        if fixed.get(key) != new.get(key):
            raise _refused(override, key, why_fixed(key, fixed.get(key)))
    _check_trials(study, changed, record, override)
    if changed.search.seeds < study.search.seeds:
        raise _refused(override, "search.seeds", f"each point was planned on {study.search.seeds} seeds")
    _check_finalists_kept(study, changed, record, override)
    return changed


def _check_trials(old: Study, new: Study, record: Record, override: str) -> None:
    if old.search.trials == new.search.trials:
        return
    kind, started = old.search.scheduler.kind, sum(trial.of is None for trial in record.trials.values())
    if kind.is_synchronous:
        raise _refused(override, "search.trials", f"{kind} shares its trials out when it begins")
    if new.search.trials is not None and new.search.trials < started:
        why = f"{started} trials have started already, more than {new.search.trials}"
        raise _refused(override, "search.trials", why)


def _check_finalists_kept(old: Study, new: Study, record: Record, override: str) -> None:
    started = sum(trial.of is not None for trial in record.trials.values())
    if not started or old.finalists is None:
        return
    if new.finalists is None:
        raise _refused(override, "finalists", f"{started} of their runs have started already")
    for key in ("top", "seeds"):
        was, asked = getattr(old.finalists, key), getattr(new.finalists, key)
        if asked < was:
            why = f"{started} runs of finalists have started already, planned with {key}={was}, more than {asked}"
            raise _refused(override, f"finalists.{key}", why)


def _refused(override: str, key: str, why: str) -> StudyError:
    name = "" if key == "name" else " name=NEW"
    message = why if override.startswith(f"{key}=") else f"{key}: {why}"
    return StudyError(message, override, f"start it as a new study: orchestrator run STUDY '{override}'{name}")


def _with_data_checked(study: Study) -> Study:
    try:
        registry.task(study.task).check(study.params_of({}), localized(study.data))
    except InputError as error:
        raise DataProblem(str(error)) from error
    return study


def _built(raw: Mapping[str, Any], sources: Sources) -> Study:
    """The study, before its task has looked at the data."""
    raw = dict(raw)
    unknown = set(raw) - set(Study.model_fields)
    for key in sorted(unknown, key=str):
        raise sources.error((str(key),), f"unknown key '{key}'", did_you_mean(str(key), Study.model_fields))
    if not isinstance(raw.get("task"), str):
        raise sources.error(("task",), "a study names its task", "add 'task: NAME'; `orchestrator tasks` lists them")
    task = registry.task(raw["task"], sources.where(("task",)))
    raw["name"] = _check_name(raw.get("name", task.name), sources)
    raw["question"] = raw.get("question") or task.question
    raw["inputs"] = _check_inputs(task, raw.get("inputs"), sources)
    raw["data"] = _resolve_data(task, raw.get("data", BUILTIN), sources)
    given = _mapping(raw.get("params"), ("params",), sources)
    raw["params"] = _check_params(task, given, sources)
    raw["search"] = _check_search(task, raw["params"], set(given), raw.get("search"), sources)
    raw["resources"] = _check_resources(task, raw.get("resources"), sources)
    raw["finalists"] = _check_finalists(raw["search"], raw.get("finalists"), sources)
    parts: dict[str, type[BaseModel]] = {"failures": Failures, "budget": Budget, "tracking": Tracking}
    for part, model in parts.items():
        raw[part] = validated(model, raw.get(part), (part,), sources)
    if (notify := raw.get("notify")) is not None and not isinstance(notify, Notify):
        with sources.named(("notify",)):
            raw["notify"] = Notify(notify)
    return validated(Study, raw, (), sources)


def _check_inputs(task: Task, raw: Any, sources: Sources) -> Inputs | None:
    key = ("inputs",)
    if raw is None:
        return None
    if not task.reads_inputs:
        raise sources.error(key, f"task '{task.name}' reads no earlier study", "leave inputs out")
    return validated(Inputs, {"from": raw} if isinstance(raw, str | list) else raw, key, sources)


def _check_name(name: Any, sources: Sources) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        hint = "use letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise sources.error(("name",), f"{name!r} cannot be a study's name", hint)
    if name in TAKEN:
        raise sources.error(("name",), f"'{name}' is taken: the runs folder has it for something else")
    return name


def _resolve_data(task: Task, value: Any, sources: Sources) -> Path | DataUrl | None:
    """A path, a name below `data_root`, or a URL; None for ``builtin``, and for tasks that read none."""
    if value in (None, BUILTIN, NO_DATA):
        return None
    if not task.reads_data:
        raise sources.error(("data",), f"task '{task.name}' reads no data", "leave data out")
    if not isinstance(value, str | Path):
        raise sources.error(("data",), f"expected a path or '{BUILTIN}', got {value!r}")
    if is_url(str(value)):
        with sources.named(("data",)):
            return pinned(str(value))
    tried = [Path(os.path.expanduser(value)), data_root() / value]
    for path in tried:
        if os.path.exists(path):  # and not path.exists(), which raises for a name that is too long
            return path.resolve()
    places = " nor ".join(dict.fromkeys(str(path.absolute()) for path in tried))
    hint = f"give data=PATH, or data={BUILTIN} for the built-in data set"
    if str(value) in catalogue.ALL:
        hint = f"get it: orchestrator data get {value}; or {hint}"
    raise sources.error(("data",), f"there is no data at {places}", hint)


def _check_params(task: Task, raw: Any, sources: Sources) -> dict[str, Any]:
    """The study's own parameters, checked against the task's; all of the task's, in its order."""
    return validated(task.params, raw, ("params",), sources).model_dump(mode="json")


def _check_search(task: Task, params: dict[str, Any], given: set[str], raw: Any, sources: Sources) -> dict[str, Any]:
    """The search; without a space of its own it takes the task's, less the parameters that the study fixes."""
    raw = dict(_mapping(raw, ("search",), sources))
    raw["scheduler"] = _check_scheduler(raw.get("scheduler"), sources)
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
    raw["space"] = _check_space(task, params, asked, sources)
    search = validated(Search, raw, ("search",), sources)
    if search.algorithm is Algorithm.GRID:
        for name, dimension in search.space.items():
            with sources.named((*key, name)):
                dimension.grid()
    elif search.trials is None:
        raise sources.error(("search", "trials"), "a search says how many trials it runs", "add search.trials=16")
    if search.scheduler.kind is SchedulerKind.PBT:
        _check_population(search, sources)
    if search.seeds > 1 and search.algorithm is not Algorithm.GRID:
        message = f"it repeats each point of a grid; '{search.algorithm}' has none"
        hint = "set search.algorithm=grid, or run the best again on fresh seeds: finalists.seeds=5"
        raise sources.error(("search", "seeds"), message, hint)
    return dict(search)


def _check_scheduler(raw: Any, sources: Sources) -> Scheduler:
    """``asha``, ``{asha: {grace: 3}}`` or ``{kind: asha, grace: 3}``; only with keys that this kind uses."""
    key: tuple[str, ...] = ("search", "scheduler")
    options = {"kind": raw} if isinstance(raw, str) else dict(_mapping(raw, key, sources))
    kind = options.pop("kind", None)
    if kind is None and len(options) == 1:
        kind, below = options.popitem()
        key = (*key, str(kind))
        options = dict(_mapping(below, key, sources))
    elif kind is None and options:
        raise sources.error(key, f"no kind is named beside {', '.join(map(str, options))}", "write {asha: {grace: 3}}")
    kinds = list(SchedulerKind)
    if kind is not None and kind not in kinds:
        raise sources.error(key, f"there is no scheduler {kind!r}", did_you_mean(str(kind), kinds))
    kind = SchedulerKind(kind or SchedulerKind.NONE)
    for name in options:
        if name not in kind.keys:
            has = f"its keys: {', '.join(kind.keys)}" if kind.keys else "it has none"
            raise sources.error((*key, str(name)), f"scheduler '{kind}' has no key '{name}'; {has}")
    return validated(Scheduler, {"kind": kind, **options}, key, sources)


def _check_population(search: Search, sources: Sources) -> None:
    if not search.space:
        message = "pbt moves the searched parameters, and there are none"
        raise sources.error(("search", "scheduler"), message, "add search.space, or take another scheduler")
    points = math.prod(len(d.grid()) for d in search.space.values()) if search.algorithm is Algorithm.GRID else math.inf
    if (trials := min(search.trials or math.inf, points)) < 2:
        raise sources.error(("search", "trials"), f"pbt needs a population of 2 or more trials, got {trials}")


def _check_finalists(search: Mapping[str, Any], raw: Any, sources: Sources) -> Finalists | None:
    if raw is None:
        return None
    key, scheduler = ("finalists",), search["scheduler"].kind
    if scheduler is SchedulerKind.PBT:
        message = "what pbt finds is a schedule of parameters, not one point that could be run again"
        raise sources.error(key, message, "leave finalists out, or take another scheduler")
    if search["seeds"] > 1:
        raise sources.error(key, "search.seeds runs every point again already", "leave one of the two out")
    return validated(Finalists, raw, key, sources)


def _mapping(raw: Any, key: tuple[str, ...], sources: Sources) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise sources.error(key, f"expected keys and values, got {raw!r}")
    return raw


def _check_space(task: Task, params: Mapping[str, Any], asked: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    key, space = ("search", "space"), {}
    for name, value in asked.items():
        with sources.named((*key, str(name))):
            space[name] = dimension_of(name, value)
    for name in space:
        with sources.named((*key, str(name))):
            check_dimension(task, params, space, name)
    return settled(space, params)


def _check_resources(task: Task, raw: Any, sources: Sources) -> Resources:
    key = ("resources",)
    raw = _mapping(raw, key, sources)
    names = [f.name for f in fields(Resources)]
    for name, value in raw.items():
        if name not in names:
            raise sources.error((*key, str(name)), f"unknown key '{name}'", did_you_mean(str(name), names))
        if name == "placement":
            if value not in list(Placement):
                hint = did_you_mean(str(value), list(Placement))
                raise sources.error((*key, name), f"there is no placement {value!r}", hint)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise sources.error((*key, name), f"expected a number, got {value!r}")
    try:
        need = Resources(**{**{n: getattr(task.resources, n) for n in names}, **raw})
    except ValueError as error:
        raise sources.error(key, str(error)) from error
    if need.processes > 1 and not task.distributed:
        message = f"task '{task.name}' runs in one process: {need.processes} would compute the same thing each"
        raise sources.error((*key, "processes"), message, "leave it out, or let the task's Task say distributed=True")
    return need
