"""One writer of a study among all machines: an object at its URL says who, and is renewed while that one lives.

Taking one that nobody holds is exclusive where the store can create an object only if there is none (S3, Google). One
that has gone stale is taken over by writing it and looking a moment later whose it is; who loses it finds out at its
next renewal, before it publishes anything more. The clocks of the machines are taken to be right within some seconds.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import FolderBusy, StorageProblem
from orchestrator.objectstore.storage import Mirror

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """Who writes a study; ``machine`` tells whether a process id means anything here."""

    token: str
    host: str
    pid: int
    machine: str
    renewed: float

    @property
    def is_here(self) -> bool:
        return self.machine == _machine()

    @property
    def is_live(self) -> bool:
        return time.time() - self.renewed < STALE_SECONDS and not (self.is_here and not _is_alive(self.pid))

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


class Lease:
    """The right to write a study. Take it with `take`, `renew` it every `RENEW_SECONDS`, `release` it."""

    def __init__(self, mirror: Mirror, path: Path, token: str) -> None:
        self._mirror, self._path, self._token = mirror, path, token
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Say that its holder lives, if that is due. Raises `StorageProblem` when it has been taken over."""
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        held = holder(self._mirror, self._path)
        if held is not None and held.token != self._token:
            raise LeaseLost(
                f"{self._path.parent.name} is written by {held} now: this process had not been heard of for a minute",
                f"see how it goes there: orchestrator show {self._path.parent.name}",
            )
        began = time.monotonic()
        self._mirror.write(self._path, _content(self._token))
        self._renewed = began

    def release(self) -> None:
        held = holder(self._mirror, self._path)
        if held is not None and held.token == self._token:
            self._mirror.remove(self._path)


class LeaseLost(StorageProblem):
    """Another process writes the study now: this one must not any more."""


def take(mirror: Mirror, path: Path) -> Lease:
    """The lease beside a journal. Raises `FolderBusy`, which names who holds it."""
    token, held = uuid.uuid4().hex, holder(mirror, path)
    if held is not None and held.is_live:
        raise _busy(path, held)
    if held is None:
        try:
            mirror.write(path, _content(token), create=True)
        except FileExistsError:
            pass  # somebody was faster; or an answer was lost and it was tried again
        else:
            return Lease(mirror, path, token)
    else:
        mirror.write(path, _content(token))
        time.sleep(_SETTLE_SECONDS)
    held = holder(mirror, path)
    if held is None or held.token != token:
        raise _busy(path, held)
    return Lease(mirror, path, token)


def holder(mirror: Mirror, path: Path) -> Holder | None:
    """Who holds it, or held it last."""
    return _parsed(mirror.read(path))


def keep_copy(mirror: Mirror, path: Path) -> None:
    """Bring what the store says to ``path``, for `last_seen`."""
    content = mirror.read(path)
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def last_seen(path: Path) -> Holder | None:
    """Who held it when `keep_copy` last looked."""
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(content: bytes | None) -> Holder | None:
    if content is None:
        return None
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):  # cut short by somebody's hand: as good as none
        return Holder("", "an unknown host", 0, "", 0.0)


def _busy(path: Path, held: Holder | None) -> FolderBusy:
    name = path.parent.name
    return FolderBusy(
        f"study '{name}' is being written by {held or 'another process'}",
        f"wait for it, or stop it there: orchestrator stop {name}; if that machine is gone, "
        f"try again in {STALE_SECONDS:g} s",
    )


def _content(token: str) -> bytes:
    return json.dumps(asdict(Holder(token, socket.gethostname(), os.getpid(), _machine(), time.time()))).encode()


def _machine() -> str:
    """What is the same for all processes whose ids can be compared, and for no others."""
    parts = [socket.gethostname()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:  # no Linux
        parts.append(str(uuid.getnode()))
    return " ".join(parts)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
