"""A study's data where it is read: a path, or a copy of what is at a URL.

A URL is pinned when a study is made: to the names, sizes and versions of all that is there. Each machine downloads it
once, however many trials want it, to a folder of that name; a copy is there complete or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DataProblem
from orchestrator.objectstore.locks import locked
from orchestrator.objectstore.storage import Entry, Mirror, cache_root, slug

_OPENED = 100  # files of which `digest_of` reads the beginning
_PINNED = re.compile(r"(.+)#([0-9a-f]{16})")


@dataclass(frozen=True)
class DataUrl:
    """Data at a URL as it was at one time, written ``s3://bucket/photos#0123456789abcdef``.

    ``digest`` is of the listing: data that is changed in place has another.
    """

    url: str
    digest: str

    def __str__(self) -> str:
        return f"{self.url}#{self.digest}"

    @property
    def folder(self) -> Path:
        """Where its copy is on this machine."""
        return cache_root() / "data" / f"{slug(self.url)}-{self.digest}"


def pinned(text: str) -> DataUrl:
    """What is at a URL now. Raises `DataProblem` when that is nothing, or not what the URL is pinned to already."""
    found = _PINNED.fullmatch(text)
    url = Mirror(found[1] if found else text).url
    data = DataUrl(url, _digest(_listing(url)))
    if found and data.digest != found[2]:
        raise _changed(data)
    return data


def localized(data: Path | DataUrl | None) -> Path | None:
    """The data as a path of this machine: downloaded, if that has not been done yet.

    Raises `DataProblem` when it has changed since it was pinned, `StorageProblem` when it cannot be reached, and
    OSError when the disk is full.
    """
    if not isinstance(data, DataUrl):
        return data
    folder = data.folder
    if not folder.exists():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():  # whoever held the lock has brought it
                _download(data, folder)
    name = data.url.rpartition("/")[2]
    return folder / name if (folder / ".file").exists() else folder


def digest_of(data: Path | DataUrl) -> str:
    """16 hex digits that tell data from other data without reading all of it.

    They are the SHA-256 over each file's path below ``data`` and its size, and the first 4 kB of at most a hundred of
    the files, evenly spaced by name. A change inside one of many files that leaves its size may go unnoticed. Of a URL
    it is the digest that it is pinned to.
    """
    if isinstance(data, DataUrl):
        return data.digest
    files = sorted(_walk(data)) if data.is_dir() else [("", data.stat().st_size)]
    found = hashlib.sha256("\n".join(f"{name}\t{size}" for name, size in files).encode())
    for name, _ in files[:: -(-len(files) // _OPENED) or 1]:
        with contextlib.suppress(OSError), (data / name if name else data).open("rb") as file:  # not for us to read
            found.update(file.read(4096))
    return found.hexdigest()[:16]


def _walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Each file with its size; links are followed, but no folder is entered twice."""
    seen = set()
    for root, below, names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            path = os.path.join(root, name)
            with contextlib.suppress(OSError):  # a link to nowhere, or it has just gone
                yield os.path.relpath(path, folder), os.stat(path).st_size


def _download(data: DataUrl, folder: Path) -> None:
    mirror, aside = Mirror(data.url).patient(), folder.with_name(f"{folder.name}.part")
    files = _listing(data.url)
    if _digest(files) != data.digest:
        raise _changed(data)
    aside.mkdir(parents=True, exist_ok=True)
    single = list(files) == [mirror.root]
    places = {path: aside / (data.url.rpartition("/")[2] if single else mirror.relative(path)) for path in files}
    wanted = sum(entry.size for entry in files.values())
    had = sum(place.stat().st_size for place in places.values() if place.exists())
    if wanted - had > (free := shutil.disk_usage(aside).free):
        raise DataProblem(
            f"{data.url} is {wanted / 1e9:.1f} GB; the disk of {cache_root()} has {free / 1e9:.1f} GB left",
            "make room there, or set ORCHESTRATOR_MIRROR to a folder on another disk",
        )
    mirror.copy(places, files)
    if _digest(_listing(data.url)) != data.digest:
        shutil.rmtree(aside)
        raise _changed(data)
    if single:
        (aside / ".file").touch()
    os.replace(aside, folder)


def _listing(url: str) -> Mapping[Path, Entry]:
    mirror = Mirror(url)
    files = mirror.listing(mirror.root)
    if not files:
        raise DataProblem(f"there is no data at {url}", "correct the URL, or put the data there")
    return files


def _digest(files: Mapping[Path, Entry]) -> str:
    """Of the names below the URL, the sizes and the versions."""
    top = Path(os.path.commonpath(files))
    lines = [f"{path.relative_to(top).as_posix()}\t{size}\t{version}" for path, (size, version) in files.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _changed(data: DataUrl) -> DataProblem:
    return DataProblem(
        f"the data at {data.url} has changed since the study began: what has finished would not compare with the rest",
        f"put it back, or start a new study: orchestrator run STUDY data={data.url} name=NEW",
    )
