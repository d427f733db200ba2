"""What one machine is like: the facts of `doctor`, gathered in seconds with the standard library alone.

It runs on machines where half of the packages is broken, too: nothing is imported to learn its version. Facts are
plain values for JSON, and hold no secret: of a token only a salted hash, of a tracker's address no password.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.history import environment
from orchestrator.probe import gpus, procfs, trackercheck

Facts = dict[str, Any]
_PATIENCE = 2.0
_FEW = 100  # entries of a folder that are looked at one by one
_SOURCE = Path(__file__).resolve().parents[1]


class Mark(StrEnum):
    """A small file in the folder of runs shows whether two machines mean the same folder by its path."""

    NONE = "none"
    LEAVE = "leave"
    FIND = "find"
    REMOVE = "remove"


@dataclass(frozen=True)
class Question:
    """What to look for on a machine. ``salt`` lets two machines' tokens be compared and nobody guess them later."""

    asked_at: float
    salt: str
    runs: str | None = None  # a path
    data: tuple[str, ...] = ()  # the places where it may be: the first that exists is meant
    ports: tuple[int, ...] = ()
    head: str | None = None  # host:port of Ray's head, to see whether it can be reached from there
    tracker: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # for the tracker: MLFLOW_TRACKING_…
    mark: Mark = Mark.NONE
    marker: str = ""  # the file's name, to REMOVE it its path

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Question:
        given = {**plain, "data": tuple(plain.get("data", ())), "ports": tuple(plain.get("ports", ()))}
        return cls(**{**given, "mark": Mark(plain.get("mark", Mark.NONE))})


def probe(question: Question) -> Facts:
    """The facts of this machine, by section; a section that could not be looked at is None and said in ``failed``."""
    began = time.time()
    if question.mark is Mark.REMOVE:
        Path(question.marker).unlink(missing_ok=True)
        return {}
    failed: dict[str, str] = {}
    facts: Facts = {"failed": failed}
    for section, look in _SECTIONS.items():
        try:
            facts[section] = look(question)
        except Exception as error:  # whatever is wrong with this machine, the rest of it can be looked at
            facts[section], failed[section] = None, f"{type(error).__name__}: {error}"
    facts["clock"] = {"asked_at": question.asked_at, "began": began, "ended": time.time()}
    return facts


def _host(question: Question) -> Facts:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:  # nothing is sent: only a route is looked up
        try:
            outward.connect(((question.head or "192.0.2.1:9").rpartition(":")[0], 9))
            address = outward.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    return {"name": platform.node(), "address": address, "system": platform.platform(), "cpus": os.cpu_count()}


def _python(question: Question) -> Facts:
    return {"version": platform.python_version(), "executable": sys.executable, "source": str(_SOURCE)}


def _versions(question: Question) -> dict[str, str | None]:
    """None is missing."""
    return {"orchestrator": __version__, **{name: environment.version(name) for name in environment.PACKAGES}}


def _code(question: Question) -> Facts:
    """Hashes of the project's own modules, and of the list of its packages."""
    together = hashlib.sha256()
    for package in ("orchestrator", "tasks"):
        for path in sorted((_SOURCE / package).rglob("*.py")):
            together.update(f"{path.relative_to(_SOURCE)}\0".encode() + path.read_bytes() + b"\0")
    return {"sha256": together.hexdigest()[:12], "lock_sha256": environment.sha256(_SOURCE / "requirements.lock")}


def _token(question: Question) -> Facts:
    """Ray's token where Ray looks for it, in its order: ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``, the home folder.

    ``place`` is a path or ``RAY_AUTH_TOKEN``; ``mode`` the file's permissions as in ``0600``.
    """
    found: Facts = {"auth_mode": os.environ.get("RAY_AUTH_MODE"), "mode": None, "fingerprint": None, "trouble": None}
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        return {**found, "place": "RAY_AUTH_TOKEN", "fingerprint": _fingerprint(question.salt, token)}
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    found["place"] = str(path)
    try:
        found["mode"] = f"{path.stat().st_mode & 0o7777:04o}"
        token = path.read_text()
    except FileNotFoundError:
        return found
    except (OSError, UnicodeDecodeError) as error:
        return {**found, "trouble": error.strerror if isinstance(error, OSError) else "it is not text"}
    return {**found, "fingerprint": _fingerprint(question.salt, token) if token.strip() else None}


def _fingerprint(salt: str, token: str) -> str:
    return hashlib.sha256(f"{salt}\0{token.strip()}".encode()).hexdigest()[:12]


def _ray(question: Question) -> Facts:
    return {"servers": procfs.ray_servers(), "ports": procfs.holders(question.ports), "head": _reach(question.head)}


def _reach(address: str | None) -> str | None:
    """``open``, or why there is no way; None when nobody asks."""
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return error.strerror or str(error)
    return "open"


def _disks(question: Question) -> dict[str, Facts]:
    """Bytes, by what the disk is used for."""
    places = {"home": Path.home(), "Ray's temporary files": Path("/tmp/ray")}  # noqa: S108 - it is Ray's choice
    if question.runs:
        places["runs"] = Path(question.runs).expanduser()
    sizes = {use: (path, shutil.disk_usage(_existing(path))) for use, path in places.items()}
    return {use: {"path": str(path), "total": size.total, "free": size.free} for use, (path, size) in sizes.items()}


def _memory(question: Question) -> Facts:
    """Bytes; ``total`` is a container's limit where there is one; shared memory is None where there is no /dev/shm."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    shared = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 - Ray's object store
    return {"total": total, "shm": shared and shared.total, "shm_free": shared and shared.free}


def _limits(question: Question) -> Facts:
    """Open files: Ray raises the soft limit to the hard one itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"files": sys.maxsize if hard == resource.RLIM_INFINITY else hard, "files_now": soft}


def _runs(question: Question) -> Facts | None:
    """Whether studies can be written there. What does not exist yet is made by the first study: its parent counts."""
    if question.runs is None:
        return None
    root = Path(question.runs).expanduser()
    there = _existing(root)
    marker = there / question.marker
    found = {"path": str(root), "there": str(there), "trouble": None, "marker": str(marker)}
    scratch = there / f".orchestrator-doctor-{question.salt}-{platform.node()}-{os.getpid()}"
    try:
        scratch.touch(exist_ok=False)
        scratch.unlink()
        if question.mark is Mark.LEAVE:
            marker.touch(exist_ok=False)
    except OSError as error:
        found["trouble"] = error.strerror
    return {**found, "marked": marker.is_file() if question.mark is not Mark.NONE else None}


def _data(question: Question) -> Facts | None:
    """Whether it is there and can be read, and what it looks like: names and sizes, to compare machines by."""
    if not question.data:
        return None
    path = next((p for p in map(_home, question.data) if p.exists()), _home(question.data[0]))
    found: Facts = {"path": str(path), "exists": path.exists(), "trouble": None, "fingerprint": None, "entries": None}
    try:
        if path.is_dir():
            names = sorted(name for name in os.listdir(path) if not name.startswith("."))
            seen = "\n".join(f"{name} {_size(path / name)}" for name in names[:_FEW])
            found["entries"] = len(names)
        elif path.exists():
            with path.open("rb") as file:
                seen = f"{path.stat().st_size} {hashlib.sha256(file.read(1_000_000)).hexdigest()}"
        else:
            return found
    except OSError as error:
        return {**found, "trouble": error.strerror}
    return {**found, "fingerprint": hashlib.sha256(f"{found['entries']}\n{seen}".encode()).hexdigest()[:12]}


def _home(path: str) -> Path:
    return Path(path).expanduser()


def _size(path: Path) -> int:
    """Of a file its bytes, of a folder its entries: a folder's own bytes differ between two copies of it."""
    return len(os.listdir(path)) if path.is_dir() else path.stat().st_size


def _existing(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _tracker(question: Question) -> Facts | None:
    return trackercheck.ask(question.tracker, question.environment) if question.tracker else None


_SECTIONS: dict[str, Callable[[Question], Any]] = {
    "host": _host,
    "python": _python,
    "versions": _versions,
    "code": _code,
    "token": _token,
    "ray": _ray,
    "disks": _disks,
    "memory": _memory,
    "limits": _limits,
    "runs": _runs,
    "data": _data,
    "gpus": lambda question: gpus.describe(),
    "tracker": _tracker,
}
