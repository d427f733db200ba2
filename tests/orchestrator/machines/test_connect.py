"""The connection to Ray, in a process of its own: what Ray does to its process cannot be undone."""

from __future__ import annotations

import signal
import subprocess
import sys

_STARTS = """
import os, signal
from orchestrator.machines import cluster

real = cluster.ray.init

def init(**settings):
    real(**settings)
    os.kill(os.getpid(), signal.SIGTERM)  # as Ray has left it, before anybody listens again

cluster.ray.init = init
with cluster.connect():
    print("connected")
"""


def test_a_sigterm_while_ray_starts_is_an_interrupt():
    """And not Ray's own end of the process, which prints addresses of C++ and aborts."""
    done = subprocess.run([sys.executable, "-c", _STARTS], capture_output=True, text=True, check=False)
    assert "SIGTERM received" not in done.stdout + done.stderr
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.returncode == -signal.SIGINT  # what Python makes of an interrupt that nobody took
    assert "connected" not in done.stdout
