"""Who listens where: the TCP and UDP sockets of processes, from /proc."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TCP_LISTEN, _UDP_OPEN = "0A", "07"


class Listener(NamedTuple):
    """A socket that takes what anybody sends to ``address``:``port``."""

    protocol: str
    address: str
    port: int
    pid: int
    command: str

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listeners(pids: Iterable[int]) -> list[Listener]:
    """All listening TCP sockets and all unconnected UDP sockets of these processes."""
    owners: dict[str, tuple[int, str]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    owners[os.readlink(fd)] = (pid, command)
    found = []
    for protocol, open_state in (("tcp", _TCP_LISTEN), ("tcp6", _TCP_LISTEN), ("udp", _UDP_OPEN), ("udp6", _UDP_OPEN)):
        table = Path(f"/proc/net/{protocol}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            owner = owners.get(f"socket:[{fields[9]}]")
            if owner and fields[3] == open_state:
                address, port = fields[1].split(":")
                found.append(Listener(protocol, _address(address), int(port, 16), *owner))
    return found


def descendants(pid: int) -> list[int]:
    """A process and all that it started, and those started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _address(hexadecimal: str) -> str:
    """As the kernel writes it: words of four bytes, each the wrong way round."""
    raw = bytes.fromhex(hexadecimal)
    packed = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return str(ipaddress.ip_address(packed))
