"""Checks of what runs on the machines: Ray's token, versions and code, clocks, the GPUs' driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.health.findings import Examined, Expected, Finding, Hosts, Level

_SKEW_WARNS, _SKEW_BREAKS = 2.0, 30.0  # seconds
_ALIKE = ("ray", "orchestrator")  # other packages may differ, and then so do numbers
_TOKEN = ".ray/auth_token"  # noqa: S105 - a path, below the home folder


def tokens(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Every node of a cluster has the head's token; a machine alone makes one when it needs it."""
    seen = [(host, host.section("token")) for host in hosts if host.section("token")]
    for host, token in seen:
        if token["trouble"]:
            what = f"Ray's token at {token['place']} cannot be read: {token['trouble']}"
            yield Finding(Level.BREAKS, host.host, what, fix=host.typed("ls", "-ld", token["place"]))
        elif token["mode"] is not None and int(token["mode"], 8) & 0o077:
            what = f"Ray's token can be read by others: {token['place']} has mode {token['mode']}"
            why = "who has it can run any code on the cluster"
            yield Finding(Level.WARNS, host.host, what, why, host.typed("chmod", "600", token["place"]))
    if not expected.joined or not seen:
        return
    head, reference = seen[0]
    if reference["trouble"]:
        return
    if reference["fingerprint"] is None:
        what, why = f"has no Ray token at {reference['place']}", "a cluster without one runs anybody's code"
        yield Finding(
            _missing(head), head.host, what, why, expected.up(head.typed("ray", "get-auth-token", "--generate"))
        )
        return
    for host, token in seen[1:]:
        fix = expected.up(f"scp ~/{_TOKEN} {host.host}:{_TOKEN}")
        if token["fingerprint"] is None and not token["trouble"]:
            why = "Ray refuses a node without it"
            yield Finding(Level.BREAKS, host.host, f"has no Ray token at {token['place']}", why, fix)
        elif token["fingerprint"] not in (None, reference["fingerprint"]):
            why = "Ray refuses a node with another one"
            yield Finding(Level.BREAKS, host.host, f"Ray's token differs from that of {head.host}", why, fix)


def _missing(head: Examined) -> Level:
    """Without a token Ray starts all the same, open to everybody, unless it was told to ask for one."""
    return Level.BREAKS if _mode(head) == "token" else Level.WARNS


def modes(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Whether Ray asks for the token, as its processes were started, or as they would be."""
    if not expected.joined:
        return
    modes = [(host, _mode(host)) for host in hosts if host.section("token")]
    reference = modes[0][1] if modes else None
    fix = expected.up("export RAY_AUTH_MODE=token")
    for index, (host, mode) in enumerate(modes):
        if index and mode != reference:
            what = f"Ray's authentication is '{mode}', on {modes[0][0].host} it is '{reference}'"
            yield Finding(Level.BREAKS, host.host, what, "they would refuse each other", fix)
        elif mode == "disabled" and host.section("token")["fingerprint"] is not None:  # without one see `tokens`
            what = "Ray's authentication is disabled"
            yield Finding(Level.WARNS, host.host, what, "who reaches its ports can run any code there", fix)


def _mode(host: Examined) -> str:
    """As Ray's processes were started: one that asks for a token has it said. Else what Ray would choose: what
    ``RAY_AUTH_MODE`` says, or a token if there is one."""
    token, ray = host.section("token"), host.section("ray") or {"servers": []}
    running = [server["auth_mode"] or "disabled" for server in ray["servers"] if server["readable"]]
    chosen = token["auth_mode"] or ("token" if token["fingerprint"] else "disabled")
    return str(running[0] if running else chosen).lower()


def versions(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Each machine has what the head has."""
    head = hosts[0]
    for name, version in (head.section("versions") or {}).items():
        if version is None:
            fix = expected.up(head.typed("make", "-C", source_of(head), "install"))
            yield Finding(Level.BREAKS, head.host, f"has no {name}", "the project needs it", fix)
    for host in hosts[1:]:
        python, reference = host.section("python"), head.section("python")
        if python and reference and python["version"] != reference["version"]:
            minor = [version["version"].rpartition(".")[0] for version in (python, reference)]
            what = f"has Python {python['version']}, {head.host} has {reference['version']}"
            why = "Ray refuses another minor version" if minor[0] != minor[1] else ""
            fix = expected.up(host.typed("make", "-C", source_of(host), "clean", "install", f"PYTHON=python{minor[1]}"))
            yield Finding(Level.BREAKS if minor[0] != minor[1] else Level.WARNS, host.host, what, why, fix)
        yield from _packages(host, head, expected)


def _packages(host: Examined, head: Examined, expected: Expected) -> Iterator[Finding]:
    has = host.section("versions") or {}
    for name, wanted in (head.section("versions") or {}).items():
        if name not in has or has[name] == wanted or wanted is None:
            continue
        interpreter = (host.section("python") or {}).get("executable", "python3")
        fix = expected.up(host.typed(interpreter, "-m", "pip", "install", f"{name}=={wanted.partition('+')[0]}"))
        if has[name] is None:
            yield Finding(Level.BREAKS, host.host, f"has no {name}, {head.host} has {wanted}", "trials need it", fix)
            continue
        what = f"has {name} {has[name]}, {head.host} has {wanted}"
        if name in _ALIKE:
            yield Finding(Level.BREAKS, host.host, what, "nodes of one cluster must have the same", fix)
        else:
            yield Finding(Level.WARNS, host.host, what, "the same trial may give other numbers there", fix)


def code(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """The project's own modules are those of the head."""
    head, reference = hosts[0], hosts[0].section("code")
    for host in hosts[1:] if reference else ():
        there, source = host.section("code"), source_of(head)
        copy = ["rsync", "-a", "--exclude", ".venv", f"{source}/", f"{host.host}:{source}/"]
        fix = expected.up(head.typed(*copy))
        if there and there["sha256"] != reference["sha256"]:
            what = f"the project's code differs from that of {head.host}"
            yield Finding(Level.BREAKS, host.host, what, "trials would run other code there", fix)
        elif there and there["lock_sha256"] != reference["lock_sha256"]:
            what = f"requirements.lock differs from that of {head.host}"
            yield Finding(Level.WARNS, host.host, what, "its packages may differ after the next install", fix)


def clocks(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Each machine's clock against the head's; what the way there and back leaves open is no finding."""
    head, open_of_head = _offset(hosts[0])
    for host in hosts[1:]:
        offset, left_open = _offset(host)
        skew = offset - head
        sure = abs(skew) - left_open - open_of_head
        if sure <= _SKEW_WARNS:
            continue
        what = f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} that of {hosts[0].host}"
        level = Level.BREAKS if sure > _SKEW_BREAKS else Level.WARNS
        why = "times in journals and trackers would not compare, and what expires would expire wrongly"
        yield Finding(level, host.host, what, why, host.typed("sudo", "timedatectl", "set-ntp", "true"))


def _offset(host: Examined) -> tuple[float, float]:
    """How far a clock is ahead of the asker's, and how wrong that may be: half of the time spent on the way."""
    clock = host.section("clock")
    ahead = (clock["began"] - clock["asked_at"] + clock["ended"] - host.received) / 2
    return ahead, max(0.0, host.received - clock["asked_at"] - (clock["ended"] - clock["began"])) / 2


def gpus(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Where there are GPUs, their driver works and serves the CUDA that torch was built for."""
    needed = Level.BREAKS if expected.gpus else Level.WARNS
    for host in hosts:
        gpus: dict[str, Any] = host.section("gpus") or {"devices": 0, "names": []}
        if not gpus["devices"] and not gpus["names"]:
            continue
        if gpus["trouble"]:
            what = f"has {gpus['devices']} GPU device(s), but their driver does not answer: {gpus['trouble']}"
            why = "trials there see no GPU; after an update of the driver a restart is needed"
            yield Finding(needed, host.host, what, why, host.typed("sudo", "reboot"))
            continue
        yield from _cuda(host, gpus, needed)
        if gpus["busy"] and not (host.section("ray") or {"servers": []})["servers"]:
            holders = ", ".join(f"process {b['pid']} holds {b['mib']} MiB" for b in gpus["busy"])
            pids = ",".join(str(b["pid"]) for b in gpus["busy"])
            why = "trials would find less memory than the GPU has"
            yield Finding(Level.WARNS, host.host, f"its GPUs are in use: {holders}", why, host.typed("ps", "-fp", pids))


def _cuda(host: Examined, gpus: dict[str, Any], needed: Level) -> Iterator[Finding]:
    built, served = gpus["torch_cuda"], gpus["driver_cuda"]
    if built is None and (torch := (host.section("versions") or {}).get("torch")):
        interpreter = (host.section("python") or {}).get("executable", "python3")
        install = [interpreter, "-m", "pip", "install", "--force-reinstall", f"torch=={torch.partition('+')[0]}"]
        what, why = "has GPUs, but its torch is built without CUDA", "trials there run on the CPU"
        yield Finding(needed, host.host, what, why, host.typed(*install))
    elif (
        built and served and _major(built) > _major(served)
    ):  # within a major version newer builds run on older drivers
        what = f"its driver {gpus['driver']} serves CUDA up to {served}, torch is built for {built}"
        why = f"torch finds no GPU with it; the other way is a torch that is built for CUDA {_major(served)}"
        yield Finding(needed, host.host, what, why, host.typed("sudo", "apt-get", "install", "cuda-drivers"))


def _major(version: str) -> int:
    return int(version.split(".")[0])


def source_of(host: Examined) -> str:
    """Where the project's code is on a machine."""
    return (host.section("python") or {}).get("source", ".")
