"""Ctrl-C and SIGTERM: the first ends a study in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SECONDS = 0.3  # a wrapper may hand on what the terminal has sent already: one wish, two signals


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM; before it is ``orderly`` that raises KeyboardInterrupt: nothing has begun."""

    orderly = False

    def listen(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def listen_again(self) -> None:
        """Once Ray has put its own handlers in place. Raises KeyboardInterrupt for a signal that came before."""
        self.listen()
        if self.is_set():
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: object) -> None:
        self.set()
        if not self.orderly:
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A `Stop` that listens to signals; afterwards they do what they did before.

    The second ends the process at once, with 130. What it cuts off is as after a SIGKILL: the journal is whole, and the
    study can be resumed.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    stop = Stop()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python runs handlers when the main thread comes back from C++, which may take seconds; this pipe hears at once.
    outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_the_second, args=(reader,), name="signals", daemon=True).start()
    stop.listen()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(outer)
        os.close(writer)  # the thread ends
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_the_second(reader: int) -> None:
    """Ends the process when a signal comes after the first; returns when the other end of the pipe is closed."""
    first: float | None = None
    while heard := os.read(reader, 1):
        if heard[0] not in _SIGNALS:
            continue
        now = time.monotonic()
        if first is not None and now - first > _SAME_SECONDS:
            os._exit(130)
        first = first or now
    os.close(reader)
