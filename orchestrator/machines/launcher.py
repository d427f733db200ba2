"""Brings a cluster up and down with Ray's cluster launcher, and says how its hosts are.

Ray's launcher starts the head and leaves the workers to a monitor there, which says nothing when one does not come.
Here every host of the file is followed until it has joined, and one that does not is asked for the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem
from orchestrator.history.folder import user_cache
from orchestrator.machines import ssh
from orchestrator.machines.clusterfile import LOCAL, ClusterFile
from orchestrator.machines.headnode import HeadNode
from orchestrator.machines.requests import Do

TOKEN = Path("~/.ray/auth_token")
_LOG, _LOG_LINES = "cluster-{}.log", 15
_LOOK_SECONDS = 3.0


class Presence(StrEnum):
    """Whether a host is part of its cluster."""

    JOINED = "joined"
    LOST = "lost"  # it was
    MISSING = "missing"


@dataclass(frozen=True)
class HostState:
    """One host: what it has, what of that is in use, and, unless it has joined, why not."""

    address: str
    role: str
    presence: Presence
    reason: str | None = None
    cpus: float = 0
    gpus: float = 0
    memory_bytes: float = 0
    cpus_used: float = 0
    gpus_used: float = 0
    memory_used_bytes: float = 0

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def up(cluster: ClusterFile, patience: float, say: Callable[[str], None]) -> list[HostState]:
    """Set the hosts up, start Ray on them, and wait up to ``patience`` seconds until all have joined.

    Raises `EnvironmentProblem` when the head does not come up; a worker that does not join is in what is returned.
    """
    make_token()
    say(f"setting the hosts of {cluster.name} up (log: {user_cache() / _LOG.format(cluster.name)})")
    _ray(cluster, "up", "--no-config-cache", "--disable-usage-stats")
    joined: set[str] = set()
    deadline = time.monotonic() + patience
    while True:
        states = status(cluster, reasons=False)
        for state in states:
            if state.presence is Presence.JOINED and state.address not in joined:
                joined.add(state.address)
                say(f"{state.address} has joined ({len(joined)} of {max(len(states), len(joined))})")
        if all(state.presence is Presence.JOINED for state in states) or time.monotonic() > deadline:
            return status(cluster)
        time.sleep(_LOOK_SECONDS)


def down(cluster: ClusterFile) -> dict[str, str | None]:
    """Stop Ray on every host; returns for each why it may still run there, None where it does not.

    Ray's launcher would stop the head alone; workers notice after a while, or never when they are cut off.
    """
    said = dict(zip([host.address for host in cluster.hosts], _each(cluster, Do.STOP_RAY), strict=True))
    try:
        _ray(cluster, "down")
    except EnvironmentProblem:
        if not any(said.values()):  # else it failed at the same host, whose reason says more
            raise
    return said


def head(cluster: ClusterFile) -> HeadNode:
    """The head of a cluster. Raises `EnvironmentProblem` when the provider has none."""
    return HeadNode(cluster, _head_host(cluster))


def status(cluster: ClusterFile, reasons: bool = True) -> list[HostState]:
    """The hosts of the file first, the head before the others, then what else has joined."""
    host = _head_host(cluster)
    nodes = HeadNode(cluster, host).ask(["cluster", "nodes", "--json"], RAY_ADDRESS="auto")
    # Ray knows nodes by number, the file may know hosts by name. What a cloud's head is called outside is no node.
    expected = [host, *cluster.workers] if cluster.provider == LOCAL else []
    names = {number: each.address for each in expected for number in _numbers(each.address)}
    known = {names.get(node["address"], node["address"]): node for node in nodes if node["alive"]}
    lost = {names.get(node["address"], node["address"]): node["reason"] for node in nodes if not node["alive"]}
    addresses = dict.fromkeys([*(each.address for each in expected), *known])
    states = [_state(address, known.get(address), lost) for address in addresses]
    absent = [state for state in states if state.presence is not Presence.JOINED]
    if not reasons or not absent:
        return states
    answers = _each(cluster, Do.WHY_NOT_JOINED, [state.address for state in absent])
    why = dict(zip((state.address for state in absent), answers, strict=True))
    return [HostState(s.address, s.role, s.presence, why[s.address] or s.reason) if s in absent else s for s in states]


def make_token() -> None:
    """Make the token that all hosts will share, unless there is one: readable by its owner alone."""
    path = TOKEN.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.chmod(0o600)  # Ray makes it readable by all
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def _numbers(address: str) -> set[str]:
    """The addresses that a host's name stands for, itself among them."""
    with contextlib.suppress(OSError):
        return {address, *socket.gethostbyname_ex(address)[2]}
    return {address}


def _state(address: str, node: Mapping[str, Any] | None, lost: Mapping[str, str]) -> HostState:
    if node is None:
        presence = Presence.LOST if address in lost else Presence.MISSING
        return HostState(address, "worker", presence, lost.get(address) or None)
    has, used = node["resources"], node["used"]
    return HostState(
        address=address,
        role="head" if node["head"] else "worker",
        presence=Presence.JOINED,
        cpus=has.get("CPU", 0),
        gpus=has.get("GPU", 0),
        memory_bytes=has.get("memory", 0),
        cpus_used=used.get("CPU", 0),
        gpus_used=used.get("GPU", 0),
        memory_used_bytes=used.get("memory", 0),
    )


def _each(cluster: ClusterFile, do: Do, addresses: Sequence[str] | None = None) -> list[str | None]:
    """What each host says to a request, all asked at once; why it cannot be asked where it cannot."""
    hosts = [cluster.at(address) for address in addresses] if addresses is not None else list(cluster.hosts)
    line = json.dumps({"do": do, "environment": {"RAY_AUTH_MODE": "token"}}).encode() + b"\n"

    def one(host: ssh.Host) -> str | None:
        answer = ssh.ask(host, cluster.command, line)
        if answer.unreachable:
            return f"it cannot be reached: {answer.unreachable}"
        if answer.status:
            words = (answer.err.strip() or answer.out.strip()).splitlines()
            return f"the project does not work there: {words[-1] if words else 'no reason was given'}"
        said: str | None = json.loads(answer.out)
        return said

    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(one, hosts))


def _head_host(cluster: ClusterFile) -> ssh.Host:
    if cluster.head is not None:
        return cluster.head
    done = subprocess.run([_ray_command(), "get-head-ip", str(cluster.path)], capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentProblem(
            f"{cluster.name} has no head: {(done.stderr.strip() or 'Ray gives no reason').splitlines()[-1]}",
            f"start it: orchestrator cluster up {cluster.path}",
        )
    return cluster.at(done.stdout.strip().splitlines()[-1])


def _ray(cluster: ClusterFile, *words: str) -> None:
    """Run Ray's launcher in the folder of the cluster's file, where its relative paths begin; it writes to a log.

    Raises `EnvironmentProblem` with the end of that log when it fails.
    """
    log = user_cache() / _LOG.format(cluster.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    file = cluster.path.resolve()
    with log.open("w") as out:
        command = [_ray_command(), words[0], "-y", "--log-style=pretty", "--log-color=false", *words[1:], str(file)]
        done = subprocess.run(command, cwd=file.parent, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    if done.returncode:
        said = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise EnvironmentProblem(
            f"Ray's launcher failed; {log} ends with:\n{said}", f"orchestrator doctor --cluster {file}"
        )


def _ray_command() -> str:
    return str(Path(sys.executable).with_name("ray"))
