"""What travels to a cluster: this project with the study's file and the user's own tasks, and small folders of data.

Archives are gzipped tar. They are made of what is named here alone, and unpacking refuses whatever would land outside
its folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.history.environment import PROVENANCE, SOURCE, git_state

STUDY = "study"  # the folder of the study's file
OWN_TASKS = "own_tasks"  # the folders of ORCHESTRATOR_TASKS, numbered
JOB_WORDS = "ORCHESTRATOR_WORDS"
"""The variable that holds a job's command line, as JSON: no shell reads what a user wrote."""
LARGEST_DATA_BYTES = 2_000_000_000
_PACKAGES = ("orchestrator", "tasks")
_LEFT_OUT = ("__pycache__", ".git", ".venv", "runs", ".cache")


def pack_project(study: Path | None, file: IO[bytes]) -> None:
    """Write the archive of this project as it is here, its uncommitted changes too, and of a study's file."""
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, dereference=True) as archive:
        for package in _PACKAGES:
            _add(archive, SOURCE / package, package)
        if (SOURCE / "requirements.lock").exists():
            archive.add(SOURCE / "requirements.lock", "requirements.lock")
        for number, folder in enumerate(own_tasks()):
            _add(archive, folder, f"{OWN_TASKS}/{number}")
        if study is not None:
            archive.add(study, f"{STUDY}/{study.name}")
        state = json.dumps(git_state()).encode()
        member = tarfile.TarInfo(PROVENANCE)
        member.size = len(state)
        archive.addfile(member, io.BytesIO(state))


def own_tasks() -> list[Path]:
    """The folders of ``ORCHESTRATOR_TASKS``."""
    return [Path(folder) for folder in os.environ.get("ORCHESTRATOR_TASKS", "").split(os.pathsep) if folder]


def pack_data(folder: Path, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, dereference=True) as archive:
        _add(archive, folder, ".")


def data_name(folder: Path) -> str:
    """A name for a folder's content: what is the same has the same name. Raises `UserError` when it is too large."""
    digest, total = hashlib.sha256(), 0
    for path in _files(folder):
        total += path.stat().st_size
        if total > LARGEST_DATA_BYTES:
            raise UserError(
                f"{folder} holds more than {LARGEST_DATA_BYTES / 1e9:g} GB: too much to ship",
                "copy it to a folder that every host sees, or to an object store, and give data=THAT",
            )
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"{folder.resolve().name}-{digest.hexdigest()[:12]}"


def unpack(file: IO[bytes], folder: Path) -> None:
    """Unpack an archive into a new folder: all of it or nothing. Raises `EnvironmentProblem` for one that is not whole.

    Members that would leave the folder, links out of it and devices are refused (PEP 706).
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=file, mode="r|gz") as archive:
            archive.extractall(aside, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise EnvironmentProblem(f"the archive for {folder} did not arrive whole: {error}", "send it again") from error
    try:
        aside.rename(folder)
    except OSError:  # another has put the same there meanwhile
        shutil.rmtree(aside, ignore_errors=True)


def _add(archive: tarfile.TarFile, folder: Path, name: str) -> None:
    for path in _files(folder):
        archive.add(path, f"{name}/{path.relative_to(folder)}", recursive=False)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order, following links: what a link means on another machine is unknown."""
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        yield from (Path(root) / name for name in sorted(files))
