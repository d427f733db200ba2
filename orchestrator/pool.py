"""Computes the jobs of a map on Ray remote tasks, all over the cluster.

Results do not come back through Ray: a task stores them and returns where. So nothing large is in Ray's object store,
a later map's workers read them from there, and they outlive every process.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator import failures, registry  # noqa: F401 - the registry knows where tasks are
from orchestrator.cluster import Sharing, nodes
from orchestrator.jobs import Computed, Died, Failed, Job, compute
from orchestrator.logs import log_to
from tasks.api import Resources

_COUNT_SECONDS = 5.0  # how long the number of nodes is taken to be what it was


class Pool:
    """Ray remote tasks, each of which holds ``need`` while it computes a job and prints to ``log``.

    What dies is reported, not tried again here: which item it was, and how often, is for the map to know.
    """

    def __init__(self, need: Resources, log: Path) -> None:
        self._need, self._log = need, log
        self._task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=0, scheduling_strategy="SPREAD")(
            _compute
        )
        self._jobs: dict[Any, Job] = {}
        self._held: list[Job] = []  # back from a moment in which others had their turn
        self._sharing = Sharing()
        self._slots, self._counted = 1, -_COUNT_SECONDS

    @property
    def slots(self) -> int:
        """How many jobs the cluster can compute at once."""
        if time.monotonic() - self._counted > _COUNT_SECONDS:
            self._counted = time.monotonic()
            self._slots = max(1, sum(node.holds(self._need) for node in nodes().values()))
        return self._slots

    def submit(self, job: Job) -> None:
        self._held.append(job)
        self._start()

    def done(self, patience: float) -> list[tuple[Job, Computed | Failed | Died]]:
        """What has ended; waits up to ``patience`` seconds for the first."""
        self._start()
        if not self._jobs:
            time.sleep(patience)
            return []
        ready, _ = ray.wait(list(self._jobs), num_returns=1, timeout=patience)
        if ready:
            ready, _ = ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=0)
        return [(self._jobs.pop(ref), _outcome(ref)) for ref in ready]

    def close(self) -> None:
        """Nothing of what is still computed is wanted any more."""
        for ref in self._jobs:
            ray.cancel(ref, force=True)
        self._jobs.clear()
        self._held.clear()

    def _start(self) -> None:
        """While trials of others wait for a place, what runs here runs out and leaves them one."""
        if self._held and not self._sharing.gives_way():
            for job in self._held:
                self._jobs[self._task.remote(pickle.dumps(job), self._log)] = job
            self._held.clear()


def _compute(job: bytes, log: Path) -> Computed | Failed:
    """In a worker. Unpickled here, where this module has made the tasks of ``ORCHESTRATOR_TASKS`` known."""
    log.parent.mkdir(parents=True, exist_ok=True)  # another machine may have none of the trial's folders
    with log_to(log):
        return compute(pickle.loads(job))  # noqa: S301 - from the trial


def _outcome(ref: Any) -> Computed | Failed | Died:
    try:
        outcome: Computed | Failed = ray.get(ref)
        return outcome
    except RayTaskError as error:  # not from the function: `compute` catches that
        return Died(f"its worker cannot take it: {failures.essence(str(error))}")
    except RayError as error:
        return Died(failures.reason_of(str(error), 0, None))
