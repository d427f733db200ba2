"""Locks between the processes of a machine, or of machines that share a disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PATIENCE_SECONDS = 0.2  # between two moments in which a trial that waits can be stopped


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other process holds the lock of this file, which is made if it is missing.

    ``waiting`` is called once, if there is a wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        said = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if not said:
                waiting()
                said = True
            time.sleep(_PATIENCE_SECONDS)  # and not LOCK_EX: a trial that waits can be stopped
        yield
