"""A data set from its URLs to a folder that tasks read: there as a whole or not at all, brought once however many ask.

What is under way is in ``ROOT/.downloads``; a file that lies there already under its own name is used, which is the
way for a machine without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Protocol

from orchestrator import failures
from orchestrator.datasets import layout
from orchestrator.datasets.catalogue import DataSet, Source
from orchestrator.datasets.fetch import NotFetched, fetch
from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.objectstore.locks import locked

RECORD = ".source.json"
"""In a data set's folder: what it is and what it was made of. A name with a dot is no class of photos."""


class Watcher(Protocol):
    """Whoever shows how far it is."""

    def say(self, line: str) -> None: ...
    def moved(self, name: str, done: int, of: int) -> None: ...


def get(data: DataSet, root: Path, watcher: Watcher) -> Path:
    """The folder ``root/<name>`` with the data set in it, downloaded unless it is there.

    Raises `UserError` when something else is in that place, and `EnvironmentProblem` when a file cannot be had (it says
    what to put where) or the disk is full.
    """
    target, downloads = root / data.name, root / ".downloads" / data.name
    if not is_here(data, root):
        try:
            with locked(downloads.with_suffix(".lock"), lambda: watcher.say("another process is at it: waiting")):
                if not is_here(data, root):  # whoever held the lock has brought it
                    downloads.mkdir(parents=True, exist_ok=True)
                    _check_room(data, downloads)
                    _bring(data, downloads, target, watcher)
        except OSError as error:
            if not failures.is_full_disk(error):
                raise EnvironmentProblem(f"{error.filename or root}: {error.strerror or error}", _ELSEWHERE) from error
            hint = f"make room, then type this again; what has come is kept in {downloads}"
            raise EnvironmentProblem(f"the disk of {root} is full", hint) from error
    return target


_ELSEWHERE = "give another folder: --to FOLDER"


def is_here(data: DataSet, root: Path) -> bool:
    """Whether it is in its place. Raises `UserError` when something else is."""
    target = root / data.name
    if not target.exists():
        return False
    if not (target / RECORD).exists():
        raise UserError(f"{target} is there already, and did not come from here", _ELSEWHERE)
    return True


def _bring(data: DataSet, downloads: Path, target: Path, watcher: Watcher) -> None:
    for source in data.files:
        _fetch(data, source, downloads, watcher)
    aside, scratch = (downloads.with_name(f"{data.name}.{what}") for what in ("new", "scratch"))
    for left in (aside, scratch):
        shutil.rmtree(left, ignore_errors=True)
    watcher.say("laying it out")
    aside.mkdir()
    getattr(layout, data.layout)(downloads, aside, scratch, data.unpacked)
    (aside / RECORD).write_text(json.dumps({**data.to_plain(), "at": time.time()}, indent=2), encoding="utf-8")
    os.replace(aside, target)
    for path in (scratch, downloads):
        shutil.rmtree(path, ignore_errors=True)


def _fetch(data: DataSet, source: Source, downloads: Path, watcher: Watcher) -> None:
    try:
        fetch(source, downloads, lambda done: watcher.moved(source.name, done, source.size))
    except NotFetched as error:
        raise EnvironmentProblem(
            f"{source.name} of {data.name} does not come: {error}", _by_hand(data, downloads)
        ) from error


def _by_hand(data: DataSet, downloads: Path) -> str:
    """What to put where, on a machine without a network."""
    wanted = [source for source in data.files if not (downloads / source.name).exists()]
    lines = [f"{source.urls[0]}" + _renamed(source) for source in wanted]
    return "\n    ".join((f"type this again, or put into {downloads} by hand, and then type this again:", *lines))


def _renamed(source: Source) -> str:
    return "" if source.urls[0].endswith(f"/{source.name}") else f"   as {source.name}"


def _check_room(data: DataSet, downloads: Path) -> None:
    here = sum(path.stat().st_size for path in downloads.iterdir())
    needed, free = max(0, data.size - here) + data.unpacked, shutil.disk_usage(downloads).free
    if needed > free:
        raise EnvironmentProblem(
            f"{data.name} needs {needed / 1e9:.1f} GB, the disk of {downloads} has {free / 1e9:.1f} GB left",
            "make room, or give a folder on another disk: --to FOLDER",
        )
