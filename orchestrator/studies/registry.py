"""Finds tasks (every module or package in ``tasks/`` that has a ``TASK``) and the studies that ship with them."""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from pathlib import Path

import tasks as tasks_package
from orchestrator.errors import StudyError, UnknownName, did_you_mean
from tasks.api import Task

# A folder of one's own tasks joins the package: ``ORCHESTRATOR_TASKS=DIR`` (several are separated as in PATH).
tasks_package.__path__.extend(filter(None, os.environ.get("ORCHESTRATOR_TASKS", "").split(os.pathsep)))
NOT_TASKS = ("api", "logits", "serving", "space", "studies")
STUDIES = Path(tasks_package.__path__[0]) / "studies"


def task_names() -> list[str]:
    """Names of all modules in ``tasks/`` that may hold a task; none is imported."""
    return sorted(m.name for m in pkgutil.iter_modules(tasks_package.__path__) if m.name not in NOT_TASKS)


@cache
def task(name: str, where: str | None = None) -> Task:
    """The task of a name. Raises `UnknownName` with the nearest, or `StudyError` when its file has no ``TASK``."""
    if name not in task_names():
        error = UnknownName("task", name, task_names())
        raise StudyError(str(error), where, error.hint) if where else error
    found = getattr(importlib.import_module(f"tasks.{name}"), "TASK", None)
    if not isinstance(found, Task):
        raise StudyError(f"tasks/{name} has no TASK", where, "end the module with TASK = Task(...)")
    return found


def study_names() -> list[str]:
    """Names of the studies that ship with the tasks."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def study_path(ref: str) -> Path:
    """The file of a shipped study's name, or the path itself when ``ref`` looks like one."""
    if ref.endswith((".yaml", ".yml")) or "/" in ref:
        path = Path(os.path.expanduser(ref))
        if not os.path.isfile(path):  # and not path.is_file(), which raises for a name that is too long
            raise StudyError("there is no such study file", ref, did_you_mean(path.stem, study_names()))
        return path
    if ref not in study_names():
        raise UnknownName("study", ref, study_names())
    return STUDIES / f"{ref}.yaml"
