"""What is wrong with a cluster, judged from the facts of its machines; pure. `checkup` gathers them.

A check is a function of all machines and of what is expected of them; it yields a `Finding` for each thing that is not
as it should be, with something to type. The first machine, the head, is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.health import checks_places, checks_software
from orchestrator.health.findings import Expected, Finding, Hosts, Level


@dataclass(frozen=True)
class _Check:
    """``section`` is the facts it judges; without them nothing was checked, and nothing is said to be fine."""

    judge: Callable[[Hosts, Expected], Iterator[Finding]]
    section: str
    fine: str
    compares: bool = False  # with the head: means nothing for a machine alone


_CHECKS = (
    _Check(checks_software.tokens, "token", "Ray's token is hidden from others, and the same everywhere"),
    _Check(checks_software.modes, "token", "Ray asks for its token", compares=True),
    _Check(checks_software.versions, "versions", "every package is there, and in the same version"),
    _Check(checks_software.code, "code", "the project's code is the same", compares=True),
    _Check(checks_software.clocks, "clock", "the clocks agree", compares=True),
    _Check(checks_software.gpus, "gpus", "GPUs, where there are any, have a driver that torch can use"),
    _Check(checks_places.disks, "disks", "there is room on the disks"),
    _Check(checks_places.memory, "memory", "shared memory holds Ray's object store"),
    _Check(checks_places.open_files, "limits", "enough files can be open at once"),
    _Check(checks_places.ports, "ray", "Ray's ports are free or Ray's own; the head can be reached", compares=True),
    _Check(checks_places.runs, "runs", "the folder of runs can be written"),
    _Check(checks_places.one_folder, "runs", "the folder of runs is one and the same", compares=True),
    _Check(checks_places.data, "data", "the data can be read, and looks the same"),
    _Check(checks_places.tracker, "tracker", "the tracker answers"),
)


def findings(hosts: Hosts, expected: Expected) -> list[Finding]:
    """All that is wrong, the worst first, and after it what is fine. Those that do not answer do not hide the rest."""
    there = [host for host in hosts if host.facts is not None]
    found, fine = [*_silent(hosts, expected), *_unseen(there)], []
    with_head = expected.joined and there and there[0].host == expected.head
    for check in _CHECKS if there else ():
        wrong = list(check.judge(there, expected))
        found += wrong
        seen = [host for host in there if host.section(check.section) is not None]
        if not wrong and seen and (with_head or not check.compares):
            fine.append(Finding(Level.FINE, seen[0].host if len(seen) == 1 else f"{len(seen)} hosts", check.fine))
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level)) + fine


def count_breaking(found: list[Finding]) -> int:
    return sum(finding.level is Level.BREAKS for finding in found)


def to_plain(hosts: Hosts, found: list[Finding]) -> dict[str, Any]:
    """What ``--json`` prints: ``{breaks, findings, hosts}``."""
    return {
        "breaks": count_breaking(found),
        "findings": [finding.to_plain() for finding in found],
        "hosts": [{"host": host.host, "trouble": host.trouble or None, "facts": host.facts} for host in hosts],
    }


def _silent(hosts: Hosts, expected: Expected) -> Iterator[Finding]:
    """Machines that gave no facts."""
    for host in hosts:
        if host.facts is None and not host.reached:
            yield Finding(
                Level.BREAKS, host.host, f"cannot be reached: {host.trouble}", fix=host.fix or host.typed("hostname")
            )
        elif host.facts is None:
            source = next((checks_software.source_of(other) for other in hosts if other.facts is not None), ".")
            fix = expected.up(host.typed("make", "-C", source, "install"))
            yield Finding(Level.BREAKS, host.host, f"cannot run this project: {host.trouble}", fix=fix)


def _unseen(hosts: Hosts) -> Iterator[Finding]:
    for host in hosts:
        for section, why in (host.facts or {})["failed"].items():
            fix = host.typed(host.section("python")["executable"], "-m", "orchestrator.cli", "doctor")
            yield Finding(Level.WARNS, host.host, f"its {section} could not be looked at: {why}", fix=fix)
