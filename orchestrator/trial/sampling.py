"""What a trial's process uses of its machine, looked at seldom.

A look is a reading of ``/proc``, a tenth of a millisecond; it travels with what the worker says anyway. The first comes
after a second, the next ones every 5 seconds in the first 5 minutes, then ever more seldom: about 400 in a day. One
more comes at the end of the attempt. Trials of less than a second have none.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_FIRST_SECONDS = 1.0
_SECONDS = 5.0
_PART = 60  # of the time so far: how long a look waits for the next at least
_PROC = Path("/proc")
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """Says what this process, with those that it has started, used since the last look, when a look is due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._due = self._began + _FIRST_SECONDS
        self._cpu, _ = _used()

    def look(self, ends: bool = False) -> Mapping[str, float]:
        """Usage by name, with units in the names; empty where no look is due. One that ``ends`` is looked at last.

        ``cpu_percent``: 100 is one core; ``memory_megabytes``: of 10^6 bytes, resident. For a GPU see `_gpu`.
        """
        now = self._clock()
        if now < self._due and not (ends and now - self._last >= _FIRST_SECONDS):
            return {}
        cpu, memory = _used()
        usage = {"cpu_percent": 100 * max(0.0, cpu - self._cpu) / (now - self._last), "memory_megabytes": memory / 1e6}
        self._cpu, self._last = cpu, now
        self._due = now + max(_SECONDS, (now - self._began) / _PART)
        return {name: round(value, 1) for name, value in {**usage, **_gpu()}.items()} if memory else {}


def _used() -> tuple[float, int]:
    """Seconds of CPU and resident bytes of this process and all below it; zeros where there is no ``/proc``."""
    seconds, memory = 0.0, 0
    for pid in _family(os.getpid()):
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended; its parent has its seconds
            continue
        seconds += sum(int(field) for field in fields[11:15]) / _TICKS  # own and of ended children, user and system
        memory += int(fields[21]) * _PAGE
    return seconds, memory


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except OSError:  # it has ended
        return
    for thread in threads:
        try:
            below = (thread / "children").read_text().split()
        except OSError:
            continue
        for child in below:
            yield from _family(int(child))


def _gpu() -> dict[str, float]:
    """Of the first card that this process computes on; nothing before it does.

    ``gpu_memory_megabytes``: what torch holds in this process; ``gpu_utilization_percent``, ``gpu_power_watts``: of the
    whole card, as its driver says. A driver that says neither (of a part of a card, say) is no reason to fail.
    """
    cuda = sys.modules.get("torch.cuda")
    if cuda is None or not getattr(cuda, "is_initialized", bool)():  # it may be in the middle of its import
        return {}
    found = {"gpu_memory_megabytes": cuda.memory_reserved(0) / 1e6}
    try:
        found["gpu_utilization_percent"] = float(cuda.utilization(0))
        found["gpu_power_watts"] = cuda.power_draw(0) / 1000
    except Exception:  # the driver's library has its own errors, and may be missing itself
        return found
    return found
