"""Which attempt at a trial may write into its folder: the last that began. One that was given up may live on.

When a host is cut off, Ray takes it for dead and the driver lets its trials go on elsewhere; what ran there may run on
for a minute, on a disk that it shares with its successors. So the driver writes the number of each attempt down before
the attempt begins, and an attempt reads it just before a checkpoint of its own appears and before it hands out a file:
one that finds a higher number than its own ends. What it reports reaches nobody, and results of maps are the same
whoever computes them.

No lease is needed beside this (an attempt that saves nothing until the driver has asked for news of it): the number is
written into the same file each time, never renamed over it, so that NFS too, which asks the server for a file whenever
it is opened, shows it to all hosts. What is left is a process that stops between its look and its rename for so long
that its successor has begun: what then appears is a checkpoint of the same trial, and whole.
"""

from __future__ import annotations

import os
from pathlib import Path

_DIGITS = 9  # always as many, in one write: who reads it meanwhile sees the old number or the new one


def raise_to(path: Path, attempt: int) -> None:
    """From now on the attempts before this one write nothing. Raises OSError when the disk takes no more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, f"{attempt:0{_DIGITS}d}\n".encode())
    finally:
        os.close(fd)


def is_passed(path: Path, attempt: int) -> bool:
    """Whether a later attempt than this one has begun."""
    try:
        return int(path.read_bytes()[:_DIGITS] or b"0") > attempt
    except FileNotFoundError:
        return False
