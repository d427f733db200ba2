"""What a failure was, in one line, from what the operating system, Ray and Python say about it."""

from __future__ import annotations

import errno
import re

_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b")
_RAY_MEMORY = ("running low on memory", "memory usage threshold", "OutOfMemoryError")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: OSError) -> bool:
    return error.errno in _FULL


def reason_of(trace: str, peak: int, pid: int | None) -> str:
    """Why a worker died: ``trace`` is Ray's account, ``peak`` the most memory in bytes it was known to hold."""
    if any(words in trace for words in _RAY_MEMORY):
        return f"out of memory on the host: {_ray_memory(trace, peak, pid)}"
    if "SIGKILL by OOM killer" in trace and "unexpectedly" in trace:  # Ray lists all it can be; the kernel says nothing
        held = f", which held {peak / 1e9:.1f} GB when last heard of" if peak else ""
        return f"its worker was killed{held} (by hand, by the kernel for want of memory, or it crashed)"
    return f"its worker died: {essence(trace)}"


def essence(trace: str) -> str:
    """One line: the exception that ends a traceback, or the first line of a message."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if not lines:
        return "no reason was given"
    return lines[-1] if _EXCEPTION.match(lines[-1]) else lines[0]


def _ray_memory(trace: str, peak: int, pid: int | None) -> str:
    """Ray's memory monitor names the node's use and the largest processes with theirs; what it calls GB is GiB."""
    node = re.search(r"was ([\d.]+)\s*GB(?: used)? / ([\d.]+)\s*GB", trace)
    own = (
        re.findall(rf"^\s*{pid}\s+([\d.]+)|pid={pid}, actual memory used=([\d.]+)", trace, re.MULTILINE) if pid else []
    )
    held = max([peak / 1e9, *(_from_gib(table or sentence) for table, sentence in own)])
    used = f"a node with {_from_gib(node[1]):.1f} of {_from_gib(node[2]):.1f} GB in use" if node else ""
    if not held:
        return used or "its node ran low"
    return f"the worker's peak was {held:.1f} GB" + (f" of {used}" if used else "")


def _from_gib(number: str) -> float:
    return float(number) * 2**30 / 1e9
