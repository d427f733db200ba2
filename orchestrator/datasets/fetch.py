"""One file from the first of its URLs that has it: resumed where it was cut off, and there only if its checksum is."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import web
from orchestrator.datasets.catalogue import Source
from orchestrator.errors import DataProblem

Moved = Callable[[int], None]
"""Called with the bytes that are here."""

_CHUNK = 1 << 18
_PAUSES_SECONDS = (0.0, 1.0, 4.0)  # before each try again without a byte in between
_SLACK = 1.05, 1_000_000  # of the size that is known: what sends more is not the file


class NotFetched(Exception):
    """Why a file did not come, from any of its URLs."""


def fetch(source: Source, folder: Path, moved: Moved) -> Path:
    """The file in a folder: what lies there already if it is the one, else downloaded as ``<name>.part``.

    Raises `NotFetched`, `DataProblem` when the file that was put there is another, OSError when the disk is full.
    """
    path, part = folder / source.name, folder / f"{source.name}.part"
    if path.exists():
        if (found := sha256_of(path)) != source.sha256:
            raise DataProblem(
                f"{path} is not the file that is meant: its SHA-256 is {found}, not {source.sha256}",
                f"remove it: rm {path}",
            )
        return path
    reasons: list[str] = []
    for url in source.urls:
        try:
            _download(url, source, part, moved)
            os.replace(part, path)
            return path
        except web.NoAnswer as error:
            reasons.append(str(error))
    raise NotFetched("; ".join(reasons))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, source: Source, part: Path, moved: Moved) -> None:
    """Bring all of it, from where an earlier try ended. Raises `web.NoAnswer`; what has come stays."""
    pauses = iter(_PAUSES_SECONDS)
    while True:
        had = _size(part)
        try:
            _continue(url, source, part, moved)
            break
        except web.PastTheEnd:
            if _is_right(part, source):
                return
            part.unlink()  # from another file: begin anew
        except web.NoAnswer as error:
            if _size(part) > had:
                pauses = iter(_PAUSES_SECONDS)
            pause = next(pauses, None) if error.again else None
            if pause is None:
                raise
            time.sleep(pause)
    if not _is_right(part, source):
        found = sha256_of(part)
        part.unlink()
        raise web.NoAnswer(url, f"what it sends has the SHA-256 {found}, not {source.sha256}", again=False)


def _continue(url: str, source: Source, part: Path, moved: Moved) -> None:
    """Append what is missing. Raises `web.NoAnswer` when the connection ends before the file does."""
    most = int(source.size * _SLACK[0]) + _SLACK[1]
    # A server that cannot begin in the middle begins at 0.
    with web.get(url, _size(part)) as body, part.open("ab" if body.start else "wb") as file:
        here = body.start
        while chunk := body.read(_CHUNK):
            here += len(chunk)
            if here > most:
                raise web.NoAnswer(url, f"it sends more than the {source.size} bytes there should be", again=False)
            file.write(chunk)
            moved(here)
    if body.size is not None and here < body.size:
        raise web.NoAnswer(url, f"the connection broke at {here} of {body.size} bytes", again=True)


def _is_right(part: Path, source: Source) -> bool:
    return part.exists() and sha256_of(part) == source.sha256


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
