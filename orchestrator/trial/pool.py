"""Computes the jobs of a map on Ray remote tasks, all over the cluster.

Results do not come back through Ray: a task stores them and returns where. So nothing large is in Ray's object store,
a later map's workers read them from there, and they outlive every process.
"""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator import failures
from orchestrator.machines.cluster import Sharing, nodes
from orchestrator.studies import registry  # noqa: F401 - the registry knows where tasks are
from orchestrator.studies.plan import Node
from orchestrator.trial import gpu
from orchestrator.trial.jobs import Computed, Died, Failed, Job, compute
from orchestrator.trial.logs import log_to
from tasks.api import Resources

_COUNT_SECONDS = 5.0  # how long the number of nodes is taken to be what it was


class Pool:
    """Ray remote tasks, each of which holds ``need`` while it computes a job and prints to ``log``.

    What dies is reported, not tried again here: which item it was, and how often, is for the map to know.
    """

    def __init__(self, need: Resources, log: Path, priority: int = 0) -> None:
        self._need, self._log = need, log
        self._task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=0, scheduling_strategy="SPREAD")(
            _compute
        )
        self._jobs: dict[Any, Job] = {}
        self._held: list[Job] = []  # back from a moment in which others had their turn
        self._sharing = Sharing(priority)
        self._nodes: dict[str, Node] = {}
        self._counted = -math.inf

    @property
    def slots(self) -> int:
        """How many jobs the cluster can compute at once."""
        kept_off = self._kept_off()
        return max(1, sum(node.holds(self._need) for id, node in self._nodes.items() if id not in kept_off))

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
        self._sharing.close()

    def _start(self) -> None:
        """While others have their turn, what runs here runs out and leaves them a place."""
        need = {"CPU": self._need.cpus, "GPU": self._need.gpus}
        flying = {resource: len(self._jobs) * n for resource, n in need.items()}
        self._sharing.tell(need if self._jobs or self._held else None, flying)
        kept_off = self._kept_off()
        if not self._held or self._sharing.gives_way(need, len(self._held), spare_gpus=bool(kept_off)):
            return
        task = self._task
        if kept_off:
            task = task.options(label_selector={"ray.io/node-id": f"!in({','.join(sorted(kept_off))})"})
        for job in self._held:
            self._jobs[task.remote(pickle.dumps(job), self._log, self._need.gpus)] = job
        self._held.clear()

    def _kept_off(self) -> set[str]:
        """The nodes with GPUs, while somebody waits for one and the work, which needs none, can be done elsewhere."""
        if time.monotonic() - self._counted > _COUNT_SECONDS:
            self._counted, self._nodes = time.monotonic(), nodes()
        if self._need.gpus or not self._sharing.gpus_awaited:
            return set()
        with_gpus = {id for id, node in self._nodes.items() if node.gpus}
        rest = [node for id, node in self._nodes.items() if id not in with_gpus]
        return with_gpus if any(node.holds(self._need) for node in rest) else set()


def _compute(job: bytes, log: Path, gpus: float) -> Computed | Failed:
    """In a worker. Unpickled here, where this module has made the tasks of ``ORCHESTRATOR_TASKS`` known."""
    log.parent.mkdir(parents=True, exist_ok=True)  # another machine may have none of the trial's folders
    with log_to(log):
        gpu.keep_to_share(gpus)
        return compute(pickle.loads(job))  # noqa: S301 - from the trial


def _outcome(ref: Any) -> Computed | Failed | Died:
    try:
        outcome: Computed | Failed = ray.get(ref)
        return outcome
    except RayTaskError as error:  # not from the function: `compute` catches that
        return Died(f"its worker cannot take it: {failures.essence(str(error))}")
    except RayError as error:
        return Died(failures.reason_of(str(error), 0, None))
