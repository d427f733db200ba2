"""What Linux's ``/proc`` says of this machine's processes and listening ports; nothing on other systems."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_LISTENS = "0A"  # a socket's state in /proc/net/tcp
_RAY = re.compile(r"(^|/)(gcs_server|raylet)( |$)|^ray(::|-)|-packages/ray/|-m ray[. ]|/bin/ray ")
_SERVERS = ("gcs_server", "raylet")


def ray_servers() -> list[dict[str, Any]]:
    """Ray's processes of this machine, the head's first: ``{name, pid, auth_mode, readable}``.

    ``auth_mode`` is the ``RAY_AUTH_MODE`` that one was started with, None when it was not set or, with ``readable``
    False, when the process is another user's. Those of containers on this machine are other machines' processes.
    """
    found = []
    for pid in _pids():
        name = Path(_words(pid)[0]).name if _words(pid) else ""
        if name in _SERVERS and _network(pid) in (None, _network(os.getpid())):
            environment = _environment(pid)
            mode = None if environment is None else environment.get("RAY_AUTH_MODE")
            found.append({"name": name, "pid": pid, "auth_mode": mode, "readable": environment is not None})
    return sorted(found, key=lambda server: (_SERVERS.index(server["name"]), server["pid"]))


def ray_processes() -> list[str]:
    """All that is Ray's and this user's on this machine, workers and agents too, as ``name (pid)``."""
    found = []
    for pid in _pids():
        words = _words(pid)
        if _RAY.search(" ".join(words)) and _owner(pid) == os.getuid() and _network(pid) == _network(os.getpid()):
            found.append(f"{Path(words[0]).name} ({pid})")
    return found


def holders(ports: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Who listens at these ports: ``{port: {addresses, pid, command, is_ray}}``; a free port is left out.

    ``pid`` is None for a process that this user may not look into.
    """
    listening: dict[int, dict[str, str]] = {}
    for port, address, inode in _listening():
        if port in ports:
            listening.setdefault(port, {})[inode] = address
    owners = _owners({inode for inodes in listening.values() for inode in inodes})
    found = {}
    for port, inodes in listening.items():
        pid = next((owners[inode] for inode in inodes if inode in owners), None)
        command = " ".join(_words(pid))[:200] if pid is not None else ""
        found[str(port)] = {
            "addresses": sorted(set(inodes.values())),
            "pid": pid,
            "command": Path(command.split(" ")[0]).name,  # further words may hold what is not for others
            "is_ray": bool(_RAY.search(command)),
        }
    return found


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.glob("[0-9]*")]


def _words(pid: int) -> list[str]:
    """A process's command line; empty when it has ended meanwhile, or is one of the kernel's."""
    try:
        return (_PROC / str(pid) / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _owner(pid: int) -> int | None:
    try:
        return (_PROC / str(pid)).stat().st_uid
    except OSError:
        return None


def _network(pid: int) -> str | None:
    """The network that it sees; None when this user may not know."""
    try:
        return os.readlink(_PROC / str(pid) / "ns" / "net")
    except OSError:
        return None


def _environment(pid: int) -> dict[str, str] | None:
    try:
        text = (_PROC / str(pid) / "environ").read_text(errors="replace")
    except OSError:
        return None
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def _listening() -> Iterator[tuple[int, str, str]]:
    """Port, address and inode of each listening socket."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENS:
                address, port = fields[1].split(":")
                yield int(port, 16), _readable(address), fields[9]


def _readable(address: str) -> str:
    """``0100007F`` is 127.0.0.1, in this machine's order of bytes; of IPv6 only what doctor asks of it."""
    if set(address) == {"0"}:
        return "every address"
    if len(address) == 8:
        return ".".join(str(part) for part in reversed(bytes.fromhex(address)))
    return "::1" if address == "0" * 24 + "01000000" else address


def _owners(inodes: set[str]) -> dict[str, int]:
    """The processes that hold these sockets, as far as this user may see."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    for pid in _pids() if wanted else []:
        try:
            for descriptor in os.scandir(_PROC / str(pid) / "fd"):
                if (inode := wanted.get(os.readlink(descriptor.path))) is not None:
                    found[inode] = pid
        except OSError:  # another user's, or it has just ended
            continue
        if len(found) == len(wanted):
            break
    return found
