"""Files at a URL and their copies here: the only importer of fsspec.

A `Mirror` stands for a URL by a local folder on each machine. Whoever makes a file publishes it, whoever needs it
obtains it; all else works on local paths. Which version of an object a local file is, is kept beside the files in
``.versions``. Credentials come from the environment and the usual files of s3fs, gcsfs and the like, never from a URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orchestrator import failures
from orchestrator.errors import StorageProblem, UserError

QUICK_SECONDS = 10.0  # how long a command tries to reach a store
_PATIENT_SECONDS = 120.0  # how long a running study does; ORCHESTRATOR_STORAGE_SECONDS sets it
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.2, 10.0
_PUTS_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"}  # objects appear whole or not
_VERSION_KEYS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime")
_PACKAGES = {"s3": "'orchestrator[s3]'", "s3a": "'orchestrator[s3]'", "gs": "'orchestrator[gs]'"}
_PACKAGES |= {"gcs": _PACKAGES["gs"], "abfs": "adlfs", "az": "adlfs"}
_REFUSED = ("NoCredentials", "PartialCredentials", "TokenRetrieval", "ProfileNotFound", "UnauthorizedSSO")
_TOGETHER = 500  # files that are asked for at once
_T = TypeVar("_T")


class Entry(NamedTuple):
    """A file at a URL. ``version`` changes when its content does."""

    size: int
    version: str


def is_url(text: str) -> bool:
    return "://" in text


def check_url(url: str) -> str:
    """The URL without a slash at its end. Raises `UserError`, which does not repeat what it may give away."""
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise UserError(
            f"the {scheme}:// URL holds credentials, which would be written into journals and logs",
            "leave them out of it and set them in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
        )
    if not re.fullmatch(r"[a-z][a-z0-9+.\-]*", scheme) or not rest.strip("/"):
        raise UserError(f"{url!r} is no URL of a folder", "write it as s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
    return url.rstrip("/")


def slug(url: str) -> str:
    """A folder's name for a URL, which one can read and no other URL has."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', url)[:60].strip('-')}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def cache_root() -> Path:
    """Where this machine keeps copies: ``$ORCHESTRATOR_MIRROR``, or ``~/.cache/orchestrator``."""
    return Path(os.environ.get("ORCHESTRATOR_MIRROR", "~/.cache/orchestrator")).expanduser().absolute()


@dataclass(frozen=True)
class Mirror:
    """A URL and the folder that stands for it on whichever machine this is.

    ``patience`` is for how many seconds a store that does not answer is tried again. Every method that talks to it
    raises `StorageProblem` after that, or at once where trying again is of no use; and OSError when the disk is full.
    """

    url: str
    patience: float = field(default=QUICK_SECONDS, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", check_url(self.url))

    @property
    def root(self) -> Path:
        return cache_root() / "runs" / slug(self.url)

    def patient(self) -> Mirror:
        """The same, for those who lose something when they give up."""
        return replace(self, patience=float(os.environ.get("ORCHESTRATOR_STORAGE_SECONDS", _PATIENT_SECONDS)))

    def relative(self, path: Path) -> Path:
        """What of a local path is the same on all machines; ``root / relative`` is the path on each."""
        return path.relative_to(self.root)

    def url_of(self, path: Path) -> str:
        relative = self.relative(path).as_posix()
        return self.url if relative == "." else f"{self.url}/{relative}"

    # -------------------------------------------------------------------------------------------- files and folders

    def publish(self, path: Path, exact: bool = False) -> None:
        """Bring a file, or what is in a folder, to its place at the URL as far as it is new or has changed.

        ``exact``: what is no longer in the folder is removed there too, last.
        """
        for file in _files(path):
            stat = _stat(file)
            if stat is None or ((known := self._known(file)) is not None and known[1] == stat):
                continue
            with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile, as temporary files are
                self._put(file)
                self._know(file, self._entry(file), stat)
        if exact:
            gone = [file for file in self.listing(path) if not file.exists()]
            for file in gone:
                self.remove(file)

    def obtain(self, path: Path, exact: bool = False) -> None:
        """Bring a file, or all in a folder, here as far as it is missing or another version.

        What was changed here since it was published or obtained stays, unless it has changed there too. ``exact``: here
        is as it is there, whatever was here.
        """
        there = self.listing(path)
        for file, entry in there.items():
            known, stat = self._known(file), _stat(file)
            same = known is not None and known[0] == entry.version
            if not (same and stat is not None and (stat == (known or ("", ()))[1] or not exact)):
                self._get(file, entry)
        if exact:
            for file in _files(path):
                if file not in there:
                    file.unlink(missing_ok=True)

    def listing(self, path: Path) -> dict[Path, Entry]:
        """The files at the URL of a local path: itself, or all that are below it."""
        target, root = self._target(path), self._target(self.root)
        found: dict[str, Any] = self._tried(path, lambda store: store.find(target, detail=True))
        return {
            self.root / name.removeprefix(root).lstrip("/"): Entry(int(info["size"]), _version(info))
            for name, info in sorted(found.items())
            if not info["name"].endswith(_ASIDE)
        }

    def folders(self) -> list[str]:
        """The names of the folders at the URL itself."""
        target = self._target(self.root)
        try:
            found = self._tried(self.root, lambda store: list(store.ls(target, detail=True)))
        except FileNotFoundError:
            return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory")

    def remove(self, path: Path) -> None:
        """Remove a file, or all in a folder, at the URL; here it stays."""
        for file in self.listing(path):
            target = self._target(file)
            with contextlib.suppress(FileNotFoundError):
                self._tried(file, partial(_remove, target))

    def copy(self, places: Mapping[Path, Path], entries: Mapping[Path, Entry]) -> None:
        """Bring many files to other places, each to its own, but for those that are there with their size."""
        missing = [file for file, place in places.items() if (_stat(place) or (-1,))[0] != entries[file].size]
        for start in range(0, len(missing), _TOGETHER):
            files = missing[start : start + _TOGETHER]
            for file in files:
                places[file].parent.mkdir(parents=True, exist_ok=True)
            sources, targets = [self._target(file) for file in files], [str(places[file]) for file in files]
            self._tried(self.root, partial(_get_all, sources, targets))

    # ------------------------------------------------------------------------------------------------ single objects

    def read(self, path: Path) -> bytes | None:
        """The content of an object, None when there is none. Nothing is kept here."""
        target = self._target(path)
        try:
            content: bytes = self._tried(path, lambda store: store.cat_file(target))
            return content
        except FileNotFoundError:
            return None

    def write(self, path: Path, content: bytes, create: bool = False) -> None:
        """Make an object of bytes. With ``create`` raises FileExistsError when there is one."""
        target = self._target(path)

        def put(store: Any) -> None:
            if create or _is_whole(store):
                store.pipe_file(target, content, mode="create" if create else "overwrite")
                return
            with _aside(store, target) as aside:
                store.pipe_file(aside, content)

        self._tried(path, put)

    def entry(self, path: Path) -> Entry | None:
        try:
            return self._entry(path)
        except FileNotFoundError:
            return None

    # ------------------------------------------------------------------------------------------------------- inside

    def _target(self, path: Path) -> str:
        from fsspec.core import strip_protocol

        try:
            return str(strip_protocol(self.url_of(path)))
        except (ImportError, ValueError) as error:
            raise _lasting(self.url, error) or error from error

    def _entry(self, path: Path) -> Entry:
        target = self._target(path)
        info = self._tried(path, lambda store: store.info(target))
        return Entry(int(info["size"]), _version(info))

    def _put(self, path: Path) -> None:
        target = self._target(path)

        def put(store: Any) -> None:
            if _is_whole(store):
                store.put_file(str(path), target)
                return
            with _aside(store, target) as aside:
                store.put_file(str(path), aside)

        self._tried(path, put)

    def _get(self, path: Path, entry: Entry) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        target, aside = self._target(path), path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}{_ASIDE}")
        try:
            self._tried(path, lambda store: store.get_file(target, str(aside)))
            if aside.stat().st_size != entry.size:  # it was replaced after it was listed
                entry = self._entry(path)
            stat = _stat(aside)
            os.replace(aside, path)
            self._know(path, entry, stat)
        except FileNotFoundError:  # it was removed after it was listed
            pass
        finally:
            aside.unlink(missing_ok=True)

    def _sidecar(self, path: Path) -> Path:
        return self.root / ".versions" / self.relative(path)

    def _known(self, path: Path) -> tuple[str, tuple[int, int]] | None:
        """Which version at the URL a local file was when it had this size and time."""
        try:
            version, *stat = json.loads(self._sidecar(path).read_text(encoding="utf-8"))
            return version, (stat[0], stat[1])
        except (OSError, ValueError, IndexError):
            return None

    def _know(self, path: Path, entry: Entry, stat: tuple[int, int] | None) -> None:
        sidecar = self._sidecar(path)
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        aside = sidecar.with_name(f"{sidecar.name}-{uuid.uuid4().hex[:8]}{_ASIDE}")
        aside.write_text(json.dumps([entry.version, *(stat or ())]), encoding="utf-8")
        os.replace(aside, sidecar)

    def _tried(self, path: Path, action: Callable[[Any], _T]) -> _T:
        """Do it, again and again while it may help. FileNotFoundError and FileExistsError are answers."""
        deadline, wait = time.monotonic() + self.patience, _FIRST_WAIT_SECONDS
        while True:
            try:
                return action(_store(self.url))
            except FileExistsError:
                raise
            except FileNotFoundError as error:
                if "bucket does not exist" in str(error):
                    raise StorageProblem(f"{self.url}: {error}", "create the bucket, or correct the URL") from error
                raise
            except Exception as error:
                if isinstance(error, OSError) and failures.is_full_disk(error):
                    raise
                lasting = _lasting(self.url, error)
                if lasting is not None:
                    raise lasting from error
                if time.monotonic() + wait > deadline:
                    what = f"{self.url_of(path)} did not answer for {self.patience:g} s: {_line(error)}"
                    raise StorageProblem(what, "check the network and the store's address, then try again") from error
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


_ASIDE = ".part"


def _get_all(sources: list[str], targets: list[str], store: Any) -> None:
    store.get(sources, targets)


def _remove(target: str, store: Any) -> None:
    store.rm_file(target)


def _store(url: str) -> Any:
    """fsspec's file system of a URL; it keeps one for each kind. Listings are never taken from a cache."""
    from fsspec.core import url_to_fs

    kind = url.partition("://")[0]
    options = {"auto_mkdir": True} if kind in ("file", "local") else {}
    return url_to_fs(url, use_listings_cache=False, **options)[0]


def _lasting(url: str, error: Exception) -> StorageProblem | None:
    """What to say of an error that trying again does not mend."""
    kind = url.partition("://")[0]
    if isinstance(error, ImportError):
        return StorageProblem(f"{url}: {_line(error)}", f"pip install {_PACKAGES.get(kind, f'the package for {kind}')}")
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return StorageProblem(f"{url}: {_line(error)}", "s3://, gs:// and what else fsspec knows can be used")
    if isinstance(error, PermissionError) or type(error).__name__.startswith(_REFUSED):
        hint = "set credentials that may read and write it (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        return StorageProblem(f"{url} is forbidden: {_line(error)}", f"{hint}, or AWS_PROFILE), on every machine")
    return None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _version(info: dict[str, Any]) -> str:
    known = next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
    return f"{info['size']} {info.get('ino', '')} {known}"


def _is_whole(store: Any) -> bool:
    kinds: Iterable[str] = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    return not _PUTS_WHOLE.isdisjoint(kinds)


@contextlib.contextmanager
def _aside(store: Any, target: str) -> Iterator[str]:
    """A name to write to, which becomes the target when all went well."""
    aside = f"{target}-{uuid.uuid4().hex[:8]}{_ASIDE}"
    try:
        store.makedirs(target.rpartition("/")[0], exist_ok=True)
        yield aside
        store.mv(aside, target)
    except BaseException:
        with contextlib.suppress(Exception):  # the error that is under way says more
            store.rm_file(aside)
        raise


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.endswith((".tmp", _ASIDE)))
    return [path] if path.exists() else []


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns
