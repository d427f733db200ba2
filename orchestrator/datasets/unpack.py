"""Archives taken apart, and nothing written but plain files inside one folder, of no more bytes than were expected.

Links, devices and names that lead out of the folder are refused, and so is what unpacks to more than it should: an
archive that holds any of these is not what it is said to be.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from orchestrator.errors import DataProblem
from orchestrator.history.folder import inside

_CHUNK = 1 << 20
_MOST_FILES = 500_000
_DAMAGED = (ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, RuntimeError)


def unpack(archive: Path, target: Path, most_bytes: int) -> None:
    """Unpack a ``.tar`` (also ``.tgz``, ``.tar.gz``), ``.zip`` or ``.gz`` (one file) into a new folder ``target``.

    Raises `DataProblem` for what is no such archive, is damaged, or holds what it should not; ``target`` is gone then.
    """
    target.mkdir(parents=True)
    try:
        left = most_bytes
        for number, (name, content) in enumerate(_entries(archive)):
            if number == _MOST_FILES:
                raise ValueError(f"it holds more than {_MOST_FILES} files")
            left -= _write(content, _place(target, name), left)
    except _DAMAGED as error:
        shutil.rmtree(target)
        hint = f"remove it and get it again: rm {archive}"
        raise DataProblem(f"{archive} cannot be unpacked: {error}", hint) from error
    except BaseException:
        shutil.rmtree(target)
        raise


def _entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Each plain file's name and content. Raises ValueError for what is neither a file nor a folder."""
    name = archive.name.lower()
    if name.endswith((".tar", ".tgz", ".tar.gz")):
        yield from _tar_entries(archive)
    elif name.endswith(".zip"):
        yield from _zip_entries(archive)
    elif name.endswith(".gz"):
        with gzip.open(archive) as content:
            yield archive.name[: -len(".gz")], content  # type: ignore[misc]
    else:
        raise ValueError("its name ends in none of .tar, .tgz, .tar.gz, .zip, .gz")


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            content = opened.extractfile(member) if member.isreg() else None
            if content is not None:
                with closing(content):
                    yield member.name, content
            elif not member.isdir():
                raise ValueError(f"{member.name!r} is neither a file nor a folder")


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = member.external_attr >> 28  # of Unix' file mode; a link's content would be where it leads
            if member.filename.endswith("/"):  # and not member.is_dir(), which breaks at an empty name
                continue
            if kind not in (0, 0o10):
                raise ValueError(f"{member.filename!r} is neither a file nor a folder")
            with opened.open(member) as content:
                yield member.filename, content


def _place(target: Path, name: str) -> Path:
    """Where a name is in the folder. Raises ValueError when that is outside, or taken."""
    if "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file")
    path = inside(target, name)
    if path.exists():
        raise ValueError(f"{name!r} is in it twice")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{name!r} is below a file") from None
    return path


def _write(content: IO[bytes], path: Path, most: int) -> int:
    """Returns how many bytes there were. Raises ValueError when there are more than ``most``."""
    written = 0
    with path.open("xb") as file:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise ValueError("it unpacks to more than it should")
            file.write(chunk)
    return written
