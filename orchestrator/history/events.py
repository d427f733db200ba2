"""What can happen in a study: the lines of its journal, as values and as bytes.

One event a line, JSON, whose last key is the CRC-32 of what stands before it.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from orchestrator.history.states import State

# Of the journal: 1 had no resume, interruptions or mutations, 2 no maps, 3 no drains, 4 no samples. All are read.
VERSION = 5
_TAIL = len(',"crc":"00000000"}')


class Cause(StrEnum):
    """Why a trial that will go on was interrupted."""

    FAILED = "failed"  # its task raised, or its worker died
    STALLED = "stalled"  # it reported nothing for too long
    LOST = "lost"  # its worker could not start, or was needed elsewhere: not the trial's fault
    DRAINED = "drained"  # its node is to be taken away: it left at a checkpoint
    PAUSED = "paused"  # it waits at a rung for the others
    NO_SPACE = "no space"  # the disk of its folder is full
    NO_STORAGE = "no storage"  # the URL where its checkpoints go did not answer
    STOPPED = "stopped"  # the whole study stopped


@dataclass(frozen=True)
class Event:
    """Something that happened; ``at`` is Unix time in seconds."""

    kind: ClassVar[str]
    at: float = field(default_factory=time.time, kw_only=True)

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls


_KINDS: dict[str, type[Event]] = {}


@dataclass(frozen=True)
class StudyStarted(Event):
    """``uid`` tells this study's runs from those of every other study in any tracker.

    ``data_digest`` is what `objectstore.data.digest_of` said of its data then.
    """

    kind = "study_started"
    uid: str
    study: Mapping[str, Any]
    trials: int
    version: int = VERSION
    data_digest: str = ""


@dataclass(frozen=True)
class StudyResumed(Event):
    """A new driver goes on; the study may have been changed in ways that keep what has finished comparable."""

    kind = "study_resumed"
    study: Mapping[str, Any]
    trials: int
    version: int = VERSION
    data_digest: str = ""


@dataclass(frozen=True)
class TrialStarted(Event):
    """``of`` names the trial that a finalist's run repeats on a fresh seed."""

    kind = "trial_started"
    trial: str
    seed: int
    params: Mapping[str, Any]
    searched: tuple[str, ...]
    of: str | None = None


@dataclass(frozen=True)
class TrialContinued(Event):
    """The trial goes on in a new attempt: after an interruption, a retry or the death of the driver."""

    kind = "trial_continued"
    trial: str
    attempt: int


@dataclass(frozen=True)
class TrialPlaced(Event):
    """Where an attempt runs, as its worker says: host, process, Ray's id of the node."""

    kind = "trial_placed"
    trial: str
    node: str
    pid: int
    node_id: str = ""


@dataclass(frozen=True)
class Reported(Event):
    kind = "reported"
    trial: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Sampled(Event):
    """What the trial's process used of its machine, see `trial.sampling`. No sign of life: one that hangs uses too."""

    kind = "sampled"
    trial: str
    usage: Mapping[str, float]


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint is on disk."""

    kind = "saved"
    trial: str
    step: int


@dataclass(frozen=True)
class MapStarted(Event):
    """A trial maps a function over so many items; what was said of one of this name before does not count any more."""

    kind = "map_started"
    trial: str
    map: str
    items: int


@dataclass(frozen=True)
class ItemsDone(Event):
    """The results of the items from ``start`` up to ``stop`` are stored. ``node`` is None where they were before."""

    kind = "items_done"
    trial: str
    map: str
    start: int
    stop: int
    seconds: float
    node: str | None = None


@dataclass(frozen=True)
class Mutated(Event):
    """Population-based training: the trial takes over its parent's checkpoint and goes on with these parameters."""

    kind = "mutated"
    trial: str
    step: int
    parent: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class TrialInterrupted(Event):
    """An attempt ended and the trial is to go on from its last checkpoint."""

    kind = "trial_interrupted"
    trial: str
    cause: Cause
    reason: str
    traceback: str | None = None


@dataclass(frozen=True)
class TrialEnded(Event):
    """``metrics`` are the final ones, empty when there are none; ``reason`` says why it ended unless it finished.

    ``final`` says that trying again would end the same way (a divergence, say): such a trial is not retried.
    """

    kind = "trial_ended"
    trial: str
    state: State
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    traceback: str | None = None
    final: bool = False


@dataclass(frozen=True)
class StudyEnded(Event):
    kind = "study_ended"
    state: State
    verdict: Mapping[str, str] | None = None
    reason: str | None = None


def encode(event: Event) -> bytes:
    """One line: JSON whose last key is the checksum of all before it. NaN and infinities are kept."""
    body = json.dumps({"kind": event.kind, **vars(event)}, ensure_ascii=False, separators=(",", ":"))[:-1].encode()
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode(line: bytes) -> Event:
    """The event of a line. Raises ValueError when the line is not whole."""
    end = len(line) - _TAIL - line.endswith(b"\n")
    body, tail = line[:end], line[end : end + _TAIL]
    if tail != b',"crc":"%08x"}' % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    return from_plain(json.loads(body + b"}"))


def from_plain(values: dict[str, Any]) -> Event:
    """The event of plain values with a ``kind``, which it uses up."""
    cls = _KINDS[values.pop("kind")]
    if cls is not Reported and cls is not Sampled:  # the many: they hold nothing but plain values
        if "state" in values:
            values["state"] = State(values["state"])
        if "cause" in values:
            values["cause"] = Cause(values["cause"])
        if "searched" in values:
            values["searched"] = tuple(values["searched"])
    return cls(**values)
