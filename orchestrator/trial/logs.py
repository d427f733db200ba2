"""A trial's log: what it prints and logs, and what the items of its maps do."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send what is printed and logged to the end of a file."""
    with path.open("a", buffering=1, encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root, level = logging.getLogger(), logging.getLogger().level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = file
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            if sys.stdout is file:  # else another log has begun meanwhile, and ends after this one
                sys.stdout = before[0] if not before[0].closed else sys.__stdout__
            if sys.stderr is file:
                sys.stderr = before[1] if not before[1].closed else sys.__stderr__
