"""Which processes of this machine are Ray's: told by what they run, not by a file's name that a user may share."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest

from orchestrator.probe import procfs


@contextmanager
def running(*words):
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()  # it is there
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


WAIT = "print(flush=True); input()"


@pytest.mark.skipif(not procfs._PROC.is_dir(), reason="there is no /proc on this system")
@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("monitor.py", False),  # a user's, called like one of Ray's
        ("training/dashboard.py", False),
        ("site-packages/ray/_private/log_monitor.py", True),
    ],
)
def test_a_users_program_is_not_rays(tmp_path, place, found):
    script = tmp_path / place
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(WAIT)
    with running(sys.executable, str(script)) as pid:
        assert any(f"({pid})" in name for name in procfs.ray_processes()) == found
