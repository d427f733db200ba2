"""Checks of what the machines offer: disks, memory, ports, the folder of runs, the data, the tracker."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from urllib.parse import urlsplit

from orchestrator.health.findings import Examined, Expected, Finding, Hosts, Level
from orchestrator.probe.trackercheck import Answer

GCS_PORT = 6379
HEAD_PORTS = {GCS_PORT: "head", 8265: "dashboard and job server", 10001: "client server"}
_DISK_BREAKS, _DISK_WARNS = 200e6, 5e9  # bytes; launch refuses to start a study below the first
_DISK_FULL = 0.05  # Ray stops writing objects to a disk of which less is left
_STORE = 0.3  # of memory: Ray's object store
_STORE_MOST = 200e9
_FILES = 4096
_SHM = "/dev/shm"  # noqa: S108 - where Ray's object store is


def disks(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    for host in hosts:
        for use, disk in (host.section("disks") or {}).items():
            path, free, total = disk["path"], disk["free"], disk["total"]
            is_tight = free < _DISK_WARNS or (use.startswith("Ray") and free < _DISK_FULL * total)
            if not is_tight:
                continue
            what = f"{free / 1e9:.1f} GB of {total / 1e9:.0f} GB are left for {use} ({path})"
            level = Level.BREAKS if free < _DISK_BREAKS and use != "home" else Level.WARNS
            why = "Ray stops working above 95 %" if free < _DISK_FULL * total and use.startswith("Ray") else ""
            yield Finding(level, host.host, what, why, host.typed("du", "-xh", "--max-depth=1", path))


def memory(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Shared memory holds Ray's objects and what torch's loaders hand over. In a container it is 64 MB by default."""
    for host in hosts:
        memory = host.section("memory")
        if not memory or memory["shm"] is None:
            continue
        wanted = min(_STORE * memory["total"], _STORE_MOST)
        gigabytes = f"{wanted / 1e9:.0f}G" if wanted >= 1e9 else f"{wanted / 1e6:.0f}M"
        larger = host.typed("sudo", "mount", "-o", f"remount,size={gigabytes}", _SHM)
        if memory["shm"] < wanted:
            what = f"{_SHM} has {memory['shm'] / 1e9:.2g} GB, Ray's object store wants {wanted / 1e9:.2g} GB"
            why = f"Ray takes the disk instead, and torch's loaders may die; in Docker: --shm-size={gigabytes.lower()}"
            yield Finding(Level.WARNS, host.host, what, why, larger)
        elif memory["shm_free"] < 0.05 * memory["shm"]:
            what = f"{_SHM} is full: {memory['shm_free'] / 1e6:.0f} MB of {memory['shm'] / 1e9:.2g} GB are free"
            yield Finding(Level.WARNS, host.host, what, "left by a process that died?", host.typed("ls", "-lS", _SHM))


def open_files(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    for host in hosts:
        limits = host.section("limits")
        if limits and limits["files"] < _FILES:
            what = f"a process may open {limits['files']} files"
            why = "Ray holds a few for each worker and each connection"
            fix = host.typed("sudo", "sh", "-c", "echo '* - nofile 65536' > /etc/security/limits.d/ray.conf")
            yield Finding(Level.WARNS, host.host, what, why, fix)


def ports(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """On the head Ray's ports are free or Ray's; a worker can reach the head."""
    if not expected.joined or hosts[0].host != expected.head:
        return
    head, ray = hosts[0], hosts[0].section("ray") or {"servers": [], "ports": {}}
    for port, holder in ray["ports"].items():
        if holder["is_ray"] or (ray["servers"] and holder["pid"] is None):
            continue
        who = f"{holder['command']}, process {holder['pid']}" if holder["pid"] else "a process of another user"
        what = f"port {port}, of Ray's {HEAD_PORTS.get(int(port), 'servers')}, is taken by {who}"
        fix = head.typed("kill", str(holder["pid"])) if holder["pid"] else head.typed("sudo", "ss", "-ltnp")
        yield Finding(Level.BREAKS if port == str(GCS_PORT) else Level.WARNS, head.host, what, "", fix)
    gcs = ray["ports"].get(str(GCS_PORT))
    listens = bool(gcs and gcs["is_ray"])
    for host in hosts[1:]:
        reached = (host.section("ray") or {}).get("head")
        if reached in (None, "open") or (reached == "refused" and not listens):  # no Ray yet: what answers is the head
            continue
        what = f"cannot reach port {GCS_PORT} of {head.host}: {reached}"
        if reached == "refused":
            why = f"it listens at {', '.join(gcs['addresses'])} only" if gcs else ""
            fix = expected.up(head.typed("ray", "start", "--head", f"--node-ip-address={head.host}"))
        else:
            why = "a firewall between them, or no route"
            fix = head.typed("sudo", "ufw", "allow", "from", (host.section("host") or {}).get("address", host.host))
        yield Finding(Level.BREAKS, host.host, what, why, fix)


def runs(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Every machine can write there."""
    for host in hosts:
        folder = host.section("runs")
        if folder and folder["trouble"]:
            what = f"cannot write runs in {folder['path']}: {folder['there']}: {folder['trouble']}"
            fix = host.typed("sudo", "sh", "-c", _given(folder["path"]))
            yield Finding(Level.BREAKS, host.host, what, "trials keep their results there", fix)


def one_folder(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Every machine finds there what the head has left."""
    head = hosts[0]
    for host in hosts[1:]:
        folder = host.section("runs")
        if folder and folder["marked"] is False and not folder["trouble"]:
            what = f"{folder['path']} is not the folder that {head.host} sees"
            why = (
                "what a trial saves there would be lost; mount one folder on all hosts, or keep runs in an object store"
            )
            fix = host.typed("sudo", "mount", "-t", "nfs", f"{head.host}:{folder['path']}", folder["path"])
            yield Finding(Level.BREAKS, host.host, what, why, fix)


def _given(path: str) -> str:
    return f"mkdir -p {shlex.quote(path)} && chown $SUDO_USER {shlex.quote(path)}"


def data(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Every machine reads the study's data, and the same."""
    first: Examined | None = None
    for host in hosts:
        data = host.section("data")
        if data is None:
            continue
        other = next((h for h in hosts if h is not host and (h.section("data") or {}).get("fingerprint")), None)
        if data["trouble"]:
            what = f"cannot read the data at {data['path']}: {data['trouble']}"
            fix = host.typed("sudo", "chmod", "-R", "a+rX", data["path"])
            yield Finding(Level.BREAKS, host.host, what, "", fix)
        elif not data["exists"]:
            what = f"there is no data at {data['path']}"
            yield Finding(Level.BREAKS, host.host, what, "trials there would fail", _copied(data["path"], other, host))
        elif first is None:
            first = host
        elif data["fingerprint"] != first.section("data")["fingerprint"]:
            what = f"the data at {data['path']} is not that of {first.host}"
            why = "names or sizes differ: trials there would see other data"
            yield Finding(Level.BREAKS, host.host, what, why, _copied(data["path"], first, host))


def _copied(path: str, source: Examined | None, to: Examined) -> str:
    """What copies the data from a machine that has it."""
    if source is None:
        return "orchestrator run STUDY data=PATH"
    from_ = source.section("data")["path"]
    return source.typed("rsync", "-a", f"{from_}/", f"{to.host}:{path}/")


def tracker(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """The tracker answers the machine that talks to it: the head's driver."""
    for host in hosts:
        asked = host.section("tracker")
        if asked is None or asked["answer"] == Answer.OK:
            continue
        answer = Answer(asked["answer"])
        why, fix = _remedy(answer, asked["uri"], host, expected)
        what = f"the tracker {asked['uri']} is of no use from here: {_SAID[answer]} ({asked['detail']})"
        yield Finding(Level.BREAKS, host.host, what, why, fix)


def _remedy(answer: Answer, uri: str, host: Examined, expected: Expected) -> tuple[str, str]:
    name, port = urlsplit(uri).hostname or "", urlsplit(uri).port or 5000
    allowed = shlex.quote(f"{name},{name}:*,localhost,localhost:*")
    serve = f"mlflow server --host {name} --port {port} --allowed-hosts {allowed}"
    look = host.typed("curl", "-v", f"{uri}/health")
    return {
        Answer.UNRESOLVED: ("a wrong name, or a missing line in /etc/hosts", host.typed("getent", "hosts", name)),
        Answer.REFUSED: ("its server is down, or listens at 127.0.0.1 of its own machine only", serve),
        Answer.TIMEOUT: ("a firewall between them, or a server that hangs", look),
        Answer.HOST_REFUSED: (f"its server answers to the names it was told only; {name} is none of them", serve),
        Answer.UNAUTHORIZED: ("it wants a user and a password", _login(expected)),
        Answer.FORBIDDEN: ("this user may not see experiments", _login(expected)),
        Answer.FAILED: ("", look),
        Answer.NOT_MLFLOW: ("another server has this address", host.typed("curl", f"{uri}/version")),
    }[answer]


_SAID = {
    Answer.UNRESOLVED: "its name is unknown",
    Answer.REFUSED: "it refuses the connection",
    Answer.TIMEOUT: "it does not answer",
    Answer.HOST_REFUSED: "its list of allowed hosts refuses us",
    Answer.UNAUTHORIZED: "it refuses our login",
    Answer.FORBIDDEN: "it forbids what we ask",
    Answer.FAILED: "asking it fails",
    Answer.NOT_MLFLOW: "it is not MLflow",
}


def _login(expected: Expected) -> str:
    if expected.cluster is None:
        return "export MLFLOW_TRACKING_USERNAME=NAME MLFLOW_TRACKING_PASSWORD=PASSWORD"
    values = "{MLFLOW_TRACKING_USERNAME: NAME, MLFLOW_TRACKING_PASSWORD: PASSWORD}"
    return f"in {expected.cluster}, below metadata.orchestrator: environment: {values}"
