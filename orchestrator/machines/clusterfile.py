"""``cluster.yaml`` as this package reads it: Ray's cluster launcher's file, of which it needs hosts, login and runs.

Ray ignores what is below ``metadata``; there stand the things that Ray does not know of.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import StudyError
from orchestrator.machines.ssh import Host
from orchestrator.studies import yamlfile

LOCAL = "local"
PYTHON = "~/orchestrator/.venv/bin/python"


@dataclass(frozen=True)
class ClusterFile:
    """A cluster's hosts, and where it keeps studies.

    ``runs`` is a folder that every host sees, or the URL of an object store; ``environment`` is what studies find set;
    ``python`` is the interpreter on each host.
    ``head`` is None where the provider hands machines out: `launcher` then asks Ray for its address.
    """

    path: Path
    name: str
    provider: str
    head: Host | None
    workers: tuple[Host, ...]
    login: Host  # without an address
    runs: str
    environment: Mapping[str, str]
    python: str = PYTHON

    @property
    def command(self) -> str:
        """What is run on a host, in the words of its shell: fixed, but for the interpreter's path."""
        return f"{_quoted(self.python)} -m orchestrator.remote"

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The head first."""
        return ((self.head,) if self.head else ()) + self.workers

    def at(self, address: str) -> Host:
        return Host(address, self.login.user, self.login.key, self.login.proxy)


def load(path: Path) -> ClusterFile:
    """Read a cluster's file. Raises `StudyError` with file, line and key for what is missing or wrong."""
    raw, lines = yamlfile.load(path, "a cluster's file", "cluster_name: NAME")

    def wrong(key: tuple[str, ...], message: str, hint: str | None = None) -> StudyError:
        known = next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), None)
        return StudyError(f"{'.'.join(key)}: {message}", f"{path}:{known}" if known else str(path), hint)

    def text(key: tuple[str, ...], default: str | None = None) -> str:
        value: Any = raw
        for name in key:
            value = value.get(name) if isinstance(value, dict) else None
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            said = "is missing" if value is None else f"expected text, got {value!r}"
            raise wrong(key, said, "see the cluster.yaml that ships with this project")
        return value

    provider = text(("provider", "type"))
    key = text(("auth", "ssh_private_key"), "")
    proxy = text(("auth", "ssh_proxy_command"), "") or None
    login = Host("", text(("auth", "ssh_user")), Path(key).expanduser() if key else None, proxy)
    if login.key is not None and not login.key.is_file():
        raise wrong(("auth", "ssh_private_key"), f"there is no key at {login.key}", "make one: ssh-keygen -t ed25519")
    head, workers = None, []
    if provider == LOCAL:
        head = Host(text(("provider", "head_ip")), login.user, login.key, login.proxy)
        addresses = raw["provider"].get("worker_ips")
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise wrong(("provider", "worker_ips"), f"expected a list of addresses, got {addresses!r}")
        workers = [Host(address, login.user, login.key, login.proxy) for address in addresses]
        if twice := {h.address for h in workers if h == head or workers.count(h) > 1}:
            raise wrong(("provider", "worker_ips"), f"named twice: {', '.join(sorted(twice))}")
    runs = text(("metadata", "orchestrator", "runs"))
    if "://" not in runs and not runs.startswith(("/", "~")):
        raise wrong(("metadata", "orchestrator", "runs"), f"expected an absolute path or a URL, got {runs!r}")
    python = text(("metadata", "orchestrator", "python"), PYTHON)
    environment = raw["metadata"]["orchestrator"].get("environment") or {}
    if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
        raise wrong(("metadata", "orchestrator", "environment"), "expected names and texts (quote numbers)")
    return ClusterFile(path, text(("cluster_name",)), provider, head, tuple(workers), login, runs, environment, python)


def _quoted(path: str) -> str:
    """As a shell's word that still means the home folder when it begins with ``~/``."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)
