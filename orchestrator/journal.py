"""The append-only record of a study, and its replay. The journal is the truth; everything else is made from it.

One event a line, JSON, each line ending in the CRC-32 of what stands before it. The driver is the only writer and holds
a lock on the file while it writes. A torn last line (the writer died in the middle of it) is dropped at the next
opening; damage anywhere else is an error, never skipped.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from orchestrator.errors import FolderBusy, JournalDamaged
from orchestrator.states import State

VERSION = 1
_TAIL = len(',"crc":"00000000"}')


# ------------------------------------------------------------------------------------------------------------ events


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
    """``uid`` tells this study's runs from those of every other study in any tracker."""

    kind = "study_started"
    uid: str
    study: Mapping[str, Any]
    trials: int
    version: int = VERSION


@dataclass(frozen=True)
class TrialStarted(Event):
    kind = "trial_started"
    trial: str
    seed: int
    params: Mapping[str, Any]
    searched: tuple[str, ...]


@dataclass(frozen=True)
class TrialPlaced(Event):
    """Where the trial runs, as its worker says."""

    kind = "trial_placed"
    trial: str
    node: str
    pid: int


@dataclass(frozen=True)
class Reported(Event):
    kind = "reported"
    trial: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TrialEnded(Event):
    """``metrics`` are the final ones, empty when there are none; ``reason`` says why it ended unless it finished."""

    kind = "trial_ended"
    trial: str
    state: State
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    traceback: str | None = None


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
    line = line.rstrip(b"\n")
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if tail != b',"crc":"%08x"}' % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    values = json.loads(body + b"}")
    return from_plain(values)


def from_plain(values: Mapping[str, Any]) -> Event:
    """The event of plain values with a ``kind``: what `encode` and workers write."""
    values = dict(values)
    cls = _KINDS[values.pop("kind")]
    if "state" in values:
        values["state"] = State(values["state"])
    if "searched" in values:
        values["searched"] = tuple(values["searched"])
    return cls(**values)


# ----------------------------------------------------------------------------------------------------------- journal


class Journal:
    """The open journal of a running study: one writer, locked. Close it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises `FolderBusy` when another process writes it and `JournalDamaged` when its middle is bad.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise FolderBusy(f"{path.parent} is being written by another process{owner(path)}") from error
        path.with_suffix(".pid").write_text(f"{os.getpid()}\n")
        ends = [0, *(end for _, end in read(path))]
        os.ftruncate(self._fd, ends[-1])  # drops a torn last line

    def append(self, event: Event) -> None:
        """Write one event; when this returns, the event survives the death of this process."""
        line = encode(event)
        written = 0
        while written < len(line):
            written += os.write(self._fd, line[written:])
        if not isinstance(event, Reported):
            os.fsync(self._fd)

    def close(self) -> None:
        self.path.with_suffix(".pid").unlink(missing_ok=True)
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Events from a byte offset on, each with the offset behind it. A torn last line ends it quietly.

    Raises `JournalDamaged` for any other line that is not whole.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            end = offset + len(line)
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                event = decode(line)
            except (ValueError, KeyError, TypeError) as error:
                if file.read(1):
                    raise JournalDamaged(
                        f"{path}: the line at byte {offset} is damaged ({error})",
                        "restore the file from a backup, or start the study anew under another name",
                    ) from error
                return
            yield event, end
            offset = end


def is_written(path: Path) -> bool:
    """Whether a live process holds the journal open for writing."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def owner(path: Path) -> str:
    try:
        return f" (pid {path.with_suffix('.pid').read_text().strip()})"
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------------------------ replay


@dataclass
class TrialRecord:
    """What the journal says of one trial."""

    id: str
    seed: int
    params: Mapping[str, Any]
    searched: tuple[str, ...]
    started: float
    state: State = State.RUNNING
    reason: str | None = None
    node: str | None = None
    pid: int | None = None
    ended: float | None = None
    final: Mapping[str, float] = field(default_factory=dict)
    traceback: str | None = None
    reports: list[Reported] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return self.reports[-1].step if self.reports else 0

    @property
    def metrics(self) -> Mapping[str, float]:
        """The final metrics, or the last reported ones while there are none."""
        return self.final or (self.reports[-1].metrics if self.reports else {})

    @property
    def chosen(self) -> dict[str, Any]:
        """The searched parameters alone."""
        return {name: self.params[name] for name in self.searched}

    def value(self, metric: str) -> float:
        """The metric's current value, NaN where there is none."""
        return self.metrics.get(metric, math.nan)


@dataclass
class Record:
    """What the journal says of a study. `apply` folds one event in."""

    uid: str = ""
    study: Mapping[str, Any] = field(default_factory=dict)
    planned: int = 0
    started: float = math.nan
    ended: float | None = None
    state: State = State.PENDING
    reason: str | None = None
    verdict: Mapping[str, str] | None = None
    trials: dict[str, TrialRecord] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        match event:
            case StudyStarted():
                self.uid, self.study, self.planned = event.uid, event.study, event.trials
                self.started, self.state = event.at, State.RUNNING
            case TrialStarted():
                self.trials[event.trial] = TrialRecord(
                    event.trial, event.seed, event.params, event.searched, started=event.at
                )
            case TrialPlaced():
                trial = self.trials[event.trial]
                trial.node, trial.pid = event.node, event.pid
            case Reported():
                self.trials[event.trial].reports.append(event)
            case TrialEnded():
                trial = self.trials[event.trial]
                trial.state, trial.reason, trial.traceback = event.state, event.reason, event.traceback
                trial.final, trial.ended = event.metrics, event.at
            case StudyEnded():
                self.state, self.verdict, self.reason, self.ended = event.state, event.verdict, event.reason, event.at

    def count(self, *states: State) -> int:
        return sum(trial.state in states for trial in self.trials.values())


def replay(events: Iterable[Event]) -> Record:
    """The state of a study after these events."""
    record = Record()
    for event in events:
        record.apply(event)
    return record


def load_record(path: Path) -> Record:
    """Replay a journal. A study that no live process writes and that has no end is STOPPED, as are its open trials."""
    record = replay(event for event, _ in read(path))
    if record.state is State.RUNNING and not is_written(path):
        record.state, record.reason = State.STOPPED, "its process died"
        for trial in record.trials.values():
            if trial.state is State.RUNNING:
                trial.state, trial.reason = State.STOPPED, "the study's process died"
    return record
