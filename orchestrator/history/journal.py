"""The append-only record of a study on disk. The journal is the truth; everything else is made from it.

The driver is the only writer and holds a lock on the file while it writes. Where a disk's locks do not reach from host
to host, or a host that was cut off has lost its own, a resume elsewhere writes on: the writer before finds that the
file has grown without it, and stops. A torn last line (the writer died in the
middle of it) is dropped at the next opening; damage anywhere else is an error, never skipped.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import EnvironmentProblem, FolderBusy, JournalDamaged, JournalTaken
from orchestrator.history.events import (
    VERSION,
    Cause,
    Event,
    Reported,
    Sampled,
    Saved,
    StudyResumed,
    StudyStarted,
    TrialContinued,
    TrialPlaced,
    TrialStarted,
    decode,
    encode,
)
from orchestrator.history.record import Record, replay
from orchestrator.history.states import State
from orchestrator.objectstore import lease

DIED = "its process died"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
# Not worth a sync to disk each: if the machine loses power before the next event that is, they happen again alike.
_CHEAP = (TrialStarted, TrialContinued, TrialPlaced, Reported, Sampled, Saved)


class Journal:
    """The open journal of a running study and the state it adds up to. Close it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        """Open or create, and replay.

        Raises `FolderBusy` when another process writes it and `JournalDamaged` when its middle is bad.
        """
        self.path, self.record = path, Record()
        self.settle: Callable[[], None] = lambda: None  # returns when all that was appended is published, if it is
        self.trouble: Callable[[], EnvironmentProblem | None] = lambda: None  # why nothing more must be written
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._fd, path)
            self._end = 0
            for event, self._end in read(path):
                self.record.apply(event)
            os.ftruncate(self._fd, self._end)  # drops a torn last line
            path.with_suffix(".pid").write_text(f"{os.getpid()} on {socket.gethostname()}\n")
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, *events: Event) -> None:
        """Write events, all or none, and fold them in; when this returns they survive the death of this process.

        Raises OSError when the disk takes no more: the events do not count then, and the file is as before. Raises
        `JournalTaken` when another process has written since: nothing of this one's is written any more.
        """
        if not self._is_ours():
            raise JournalTaken(
                f"{self.path} is being written by another process, too{owner(self.path)}: this one stops",
                "that one goes on with the study; keep studies on a disk whose locks hold on all hosts, as NFS 4's do",
            )
        lines = b"".join([encode(event) for event in events])
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._fd, lines[written:])
            if not all(isinstance(event, _CHEAP) for event in events):
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += len(lines)
        for event in events:
            self.record.apply(event)

    def _is_ours(self) -> bool:
        return os.fstat(self._fd).st_size == self._end

    @property
    def end(self) -> int:
        """How many bytes hold whole lines."""
        return self._end

    def close(self) -> None:
        if self._is_ours():
            self.path.with_suffix(".pid").unlink(missing_ok=True)
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Events from a byte offset on, each with the offset behind it. A torn last line ends it quietly.

    Raises `JournalDamaged` for any other line that is not whole, and `EnvironmentProblem` for a newer format.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            end = offset + len(line)
            if not line.endswith(b"\n"):
                return  # its writer died in the middle of it, or is at it just now
            try:
                event = decode(line)
            except (ValueError, KeyError, TypeError) as error:
                if file.read(1):
                    raise JournalDamaged(
                        f"{path}: the line at byte {offset} is damaged ({error})",
                        "restore the file from a backup, or start the study anew under another name",
                    ) from error
                return
            if isinstance(event, StudyStarted | StudyResumed) and event.version > VERSION:
                raise EnvironmentProblem(
                    f"{path} has format {event.version}; this version reads up to {VERSION}",
                    "use the newer version of orchestrator that wrote it",
                )
            yield event, end
            offset = end


def load_record(path: Path) -> Record:
    """Replay a journal. A study that no live process writes and that has no end is STOPPED, as are its open trials."""
    record = replay(event for event, _ in read(path))
    if record.state is State.RUNNING and not is_written(path):
        record.state, record.reason = State.STOPPED, DIED
        for trial in record.trials.values():
            if not trial.state.is_over:
                trial.state, trial.cause, trial.reason = State.STOPPED, Cause.STOPPED, "the study's process died"
    return record


def is_written(path: Path) -> bool:
    """Whether a live process, here or on another machine, writes the journal."""
    held = lease.last_seen(lease_of(path))
    return is_written_here(path) or (held is not None and held.is_live)


def is_written_here(path: Path) -> bool:
    """Whether a live process of this machine, or of one that shares its disk, holds the journal open for writing."""
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
    """Who writes it, as far as known: `` (pid 123 on host)``."""
    held = lease.last_seen(lease_of(path))
    if held is not None and not is_written_here(path):
        return f" ({held})"
    try:
        return f" (pid {path.with_suffix('.pid').read_text().strip()})"
    except OSError:
        return ""


def lease_of(path: Path) -> Path:
    """Where the lease of a journal that is at a URL too is kept, see `orchestrator.objectstore.lease`."""
    return path.with_suffix(".lease")


def _lock(fd: int, path: Path) -> None:
    """Take the writer's lock. `is_written` holds it for an instant: that is waited out."""
    for remaining in reversed(range(10)):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not remaining:
                raise FolderBusy(f"{path.parent} is being written by another process{owner(path)}") from error
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise EnvironmentProblem(
                f"the disk of {path.parent} locks no files ({error.strerror}): two processes could run the same study",
                "set ORCHESTRATOR_RUNS to a folder on another disk (NFS: version 4, or mounted without nolock)",
            ) from error
