"""deploy/slurm.sbatch on two nodes: network and process namespaces of this machine; ``srun`` and ``scontrol`` are ours.

In the namespaces Ray sees no other Ray, and `ray symmetric-run`, which ends with `ray stop`, ends its own alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import invariants
import pytest
from running import PATIENCE_SECONDS, Bench, outcome

from orchestrator.history.events import TrialPlaced
from orchestrator.history.journal import read
from orchestrator.history.states import State

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "ip"))), reason="namespaces need root and iproute2"
    ),
]

ROOT = Path(__file__).resolve().parents[2]
STUDY = {
    "search": {"algorithm": "random", "trials": 8, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 12, "saves": True, "noise": 0.1, "pace": 0.05},
}

# A node: a host of its own as far as Ray can see. It waits for its cable.
NODE = """
set -e
mount -t tmpfs -o size=8g tmpfs /dev/shm
mkdir -p "/tmp/ray-$SLURM_JOB_ID" && mount -t tmpfs tmpfs "/tmp/ray-$SLURM_JOB_ID"
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add "$NODE_IP/24" dev eth0 && ip link set eth0 up && ip route add default dev eth0
exec "$@"
"""
# Hands the command to the other node and runs it here, too.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export -p >"$SLURM_SUBMIT_DIR/step.part"
printf '%q ' "$@" >>"$SLURM_SUBMIT_DIR/step.part"
mv "$SLURM_SUBMIT_DIR/step.part" "$SLURM_SUBMIT_DIR/step"
code=0
"$@" || code=$?
until [ -e "$SLURM_SUBMIT_DIR/second-ended" ]; do sleep 0.1; done
exit $code
"""
SECOND = """
until [ -e "$SLURM_SUBMIT_DIR/step" ]; do sleep 0.1; done
bash "$SLURM_SUBMIT_DIR/step"
touch "$SLURM_SUBMIT_DIR/second-ended"
"""
SCONTROL = """#!/bin/bash
echo "$@" >>"$SLURM_SUBMIT_DIR/scontrol.log"
"""
ACTIVATE = f"""
export PATH="{Path(sys.executable).parent}:$PATH"
"""


class Slurm:
    """A folder from which jobs of one study are submitted, one after the other."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.here, self.number = bench, bench.file.parent, 1000 + os.getpid() % 100000
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, ".venv/bin/activate": ACTIVATE}.items():
            path = self.here / (name if "/" in name else f"bin/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def submit(self) -> subprocess.Popen:
        for name in ("step", "second-ended"):
            (self.here / name).unlink(missing_ok=True)
        second = self._node("10.77.1.2", "bash", "-c", SECOND)
        job = self._node("10.77.1.1", "bash", str(ROOT / "deploy" / "slurm.sbatch"), str(self.bench.file))
        self.second = second
        ends = [f"sl{self.number}a", f"sl{self.number}b"]
        subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
        for end, node in zip(ends, (job, second), strict=True):
            subprocess.run(["ip", "link", "set", end, "netns", str(self._inside(node)), "name", "eth0"], check=True)
        return job

    def _node(self, ip: str, *command: str) -> subprocess.Popen:
        environment = {
            "PATH": f"{self.here / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATOR_RUNS": str(self.bench.runs.root),
            "SLURM_SUBMIT_DIR": str(self.here),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "NODE_IP": ip,
        }
        return subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc",
             "bash", "-c", NODE, "bash", *command],
            env={**os.environ, **environment}, cwd=self.here,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def _inside(self, node: subprocess.Popen) -> int:
        """The first process of a node, by the number that it has out here."""
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
        deadline = time.monotonic() + 30
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return int(found[0])

    def until(self, condition: Callable[[], object], job: subprocess.Popen) -> bool:
        """Wait for a condition; False if the job ended before. Two nodes take their time to start."""
        deadline = time.monotonic() + 3 * PATIENCE_SECONDS
        while not condition():
            if job.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def signal(self, job: subprocess.Popen, number: int) -> None:
        """To the batch script alone, as ``--signal=B:`` and ``scancel --batch`` do."""
        os.kill(self._inside(job), number)

    def end(self, job: subprocess.Popen, expect: int) -> str:
        try:
            out, _ = job.communicate(timeout=4 * PATIENCE_SECONDS)
        finally:
            job.kill()
            self.second.kill()
            shutil.rmtree(f"/tmp/ray-{self.number}", ignore_errors=True)
        assert job.returncode == expect, out
        assert list(self.here.glob(".ray-*")) == []
        return out

    @property
    def requeued(self) -> list[str]:
        log = self.here / "scontrol.log"
        return log.read_text().splitlines() if log.exists() else []


def test_a_study_is_stopped_and_queued_again_and_goes_on(tmp_path):
    """The first job is told that its time is nearly up; the second, in a new cluster, ends the study."""
    undisturbed = Bench(tmp_path / "undisturbed", "s", **STUDY)
    undisturbed.finish()
    bench = Bench(tmp_path, "s", **{**STUDY, "params": {**STUDY["params"], "pace": 0.3}})
    slurm = Slurm(bench)

    job = slurm.submit()
    there = slurm.until(lambda: bench.events() > 12, job)
    if there:
        (token,) = slurm.here.glob(".ray-token-*")
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        slurm.signal(job, signal.SIGTERM)
    out = slurm.end(job, expect=130)
    assert there, out
    assert "go on: orchestrator resume s" in out
    assert bench.record.state is State.STOPPED
    assert slurm.requeued == [f"requeue {slurm.number}"]

    out = slurm.end(slurm.submit(), expect=0)
    assert bench.record.state is State.FINISHED, out
    assert len(slurm.requeued) == 1
    found, ours = outcome(undisturbed.record), outcome(bench.record)
    assert {id: (seed, state, final) for id, (seed, _, state, final, *_) in ours.items()} == {
        id: (seed, state, final) for id, (seed, _, state, final, *_) in found.items()
    }
    invariants.check(bench.record, bench.folder.journal, bench.tracker)
    placed = [event for event, _ in read(bench.folder.journal) if isinstance(event, TrialPlaced)]
    assert len({event.node_id for event in placed}) == 4  # two nodes in each of two clusters: none of the driver's own
