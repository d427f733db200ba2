"""The words of `doctor`: a finding, a machine that was examined, and what is expected of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    BREAKS = "breaks"  # a run would not start, or not end well
    WARNS = "warns"
    FINE = "fine"


@dataclass(frozen=True)
class Finding:
    """``fix`` is something to type; only what is fine has none."""

    level: Level
    host: str
    what: str
    why: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        if self.level is not Level.FINE and not self.fix:
            raise ValueError(f"a finding needs a fix: {self.what}")

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Examined:
    """A machine and what was seen of it: its facts (see `probe`), or why there are none.

    ``login`` is what to type before a command for it to run there: empty on this machine. ``received`` is when its
    facts arrived, by the clock that asked.
    """

    host: str
    facts: Mapping[str, Any] | None
    received: float = 0.0
    login: tuple[str, ...] = ()
    reached: bool = True
    trouble: str = ""
    fix: str = ""  # what to type to learn why there are no facts

    def section(self, name: str) -> Any:
        """One section of its facts; None when it could not be looked at, or was not asked for."""
        return (self.facts or {}).get(name)

    def typed(self, *command: str) -> str:
        """What to type here for a command to run there."""
        return shlex.join([*self.login, shlex.join(command)] if self.login else command)


@dataclass(frozen=True)
class Expected:
    """What the machines are for. ``cluster`` is the path of the cluster's file, if it was given."""

    cluster: str | None = None
    head: str = ""  # the machine that the others join
    joined: bool = False  # they are, or will be, one Ray cluster
    gpus: float = 0.0  # of a trial

    def up(self, otherwise: str) -> str:
        """What brings every machine of a cluster's file to the same state."""
        return f"orchestrator cluster up {shlex.quote(self.cluster)}" if self.cluster else otherwise


Hosts = Sequence[Examined]
