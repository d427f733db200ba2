"""A trial of several processes: ranks 1, 2, … of an attempt, beside rank 0, which is the attempt as Tune knows it.

Each is a Ray actor in a bundle of the trial's own placement group. They are owned by rank 0's worker: when that dies,
or the driver, Ray ends them too. What rank 0 reports and saves counts; the others only take part.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator import failures
from orchestrator.history.events import Event, TrialEnded
from orchestrator.history.folder import TrialFolder
from orchestrator.history.states import State
from orchestrator.objectstore import data
from orchestrator.studies import registry
from orchestrator.trial import gpu
from orchestrator.trial.context import TrialContext, plain_metrics
from orchestrator.trial.logs import log_to
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt, describe, seed_globals
from tasks.api import InputError

_PATIENCE_SECONDS = 1.0  # between two moments in which the trial can be stopped
_CAUSE_SECONDS = 3.0  # when rank 0 fails, so long may it take until it is known that another had died before
_DEATH = 0.0  # nobody saw when; it comes before all that the others make of it


class Ranks:
    """Starts ranks 1, 2, … in the placement group of this process, which becomes rank 0 of them.

    It sets what ``torch.distributed`` reads from the environment, as ``torchrun`` does.
    """

    def __init__(self, spec: TrialSpec) -> None:
        self._spec = spec
        self._end: TrialEnded | None = None  # of rank 0
        group = ray.util.get_current_placement_group()
        assert group is not None  # Tune places every trial by one
        nodes = ray.util.placement_group_table(group)["bundles_to_node_id"]
        self.nodes = frozenset(nodes.values())
        environments = _environments([nodes[rank] for rank in range(spec.processes)])
        os.environ.update(environments[0])
        rank_actor: Any = ray.remote(_Rank)
        self._actors: list[Any] = [
            rank_actor.options(
                num_cpus=spec.cpus,
                num_gpus=spec.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote()
            for rank in range(1, spec.processes)
        ]
        self._running = {
            actor.run.remote(spec, rank, environments[rank]): rank for rank, actor in enumerate(self._actors, 1)
        }

    def heard(self, events: Sequence[Event]) -> list[Event]:
        """What rank 0 says, with what becomes of the others: the attempt fails with the first that fails.

        It has finished once all have: its last event is kept until then.
        """
        kept = []
        for event in events:
            if isinstance(event, TrialEnded):
                self._end = event
            else:
                kept.append(event)
        if self._end is None:
            failed = self._failed(patience=0.0)
        elif self._end.state is State.FAILED and not self._end.final:
            failed = self._failed(_CAUSE_SECONDS)  # a rank that dies breaks the connection of all
            failed = failed if failed is not None and failed.at <= self._end.at else None
        else:
            failed = self._failed(_PATIENCE_SECONDS)
        if failed is not None:
            self._say(failed)
            return [*kept, replace(failed, at=time.time())]
        if self._end is not None and (self._end.state is State.FAILED or not self._running):
            kept.append(self._end)
        return kept

    def stop(self) -> None:
        """End them at once: nothing that they hold is lost, and rank 0 does not wait for them any more."""
        self._running.clear()
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def _failed(self, patience: float) -> TrialEnded | None:
        """The failure that came first, of those that are known within ``patience`` seconds; a death comes first."""
        deadline, found = time.monotonic() + patience, list[TrialEnded]()
        while self._running:
            left = max(0.0, deadline - time.monotonic())
            ended, _ = ray.wait(list(self._running), timeout=left)
            for ref in ended:
                end = _outcome(self._spec, ref, self._running.pop(ref))
                found += [end] if end is not None else []
            if not ended or (found and any(end.at == _DEATH for end in found)):
                break
        return min(found, key=lambda end: end.at, default=None)

    def _say(self, failed: TrialEnded) -> None:
        rank, _, _ = (failed.reason or "").partition(":")
        with contextlib.suppress(OSError), TrialFolder(self._spec.here().folder).log.open("a", encoding="utf-8") as log:
            log.writelines(f"{rank}: {line}\n" for line in (failed.traceback or "").splitlines())


class _Rank:
    """The actor: one rank's process."""

    def run(self, spec: TrialSpec, rank: int, environment: Mapping[str, str]) -> TrialEnded | None:
        """Run the task as this rank; how it failed, or None."""
        os.environ.update(environment)
        spec = spec.here()
        try:
            with tempfile.TemporaryDirectory(prefix="orchestrator-") as scratch, log_to(TrialFolder(spec.folder).log):
                seed_globals(spec.seed)
                task = registry.task(spec.task)
                gpu.keep_to_share(spec.gpus)
                context = _RankContext(spec, rank, Path(scratch))
                context.data = data.localized(spec.data)
                task.run(task.params(**spec.params), context)
        except Exception as error:  # rank 0's process says it, as it would its own
            said, trace = f"rank {rank}: {describe(error)}", traceback.format_exc()
            return TrialEnded(spec.id, State.FAILED, said, traceback=trace, final=isinstance(error, InputError))
        return None


class _RankContext(TrialContext):
    """The context of a rank whose reports and checkpoints do not count: it only keeps their order."""

    def __init__(self, spec: TrialSpec, rank: int, scratch: Path) -> None:
        folder = TrialFolder(spec.folder, spec.mirror)
        super().__init__(spec, folder, Attempt(spec))
        self.rank, self._artifacts = rank, scratch

    def report(self, step: int, /, **metrics: float) -> None:
        if step <= self.step:
            raise ValueError(f"steps must increase: {step} was reported after {self.step}")
        self.step, self.last = step, plain_metrics(metrics, self._known)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Rank 0 saves."""

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        kept = self._kept()
        return None if kept is None else (kept.step, kept.state)


def _environments(nodes: Sequence[str]) -> list[dict[str, str]]:
    """What ``init_method="env://"`` reads, by rank; ``nodes`` are those of the ranks."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": ray.util.get_node_ip_address(), "MASTER_PORT": str(port), "WORLD_SIZE": str(len(nodes))}
    return [
        {
            **common,
            "RANK": str(rank),
            "LOCAL_RANK": str(nodes[:rank].count(node)),
            "LOCAL_WORLD_SIZE": str(nodes.count(node)),
        }
        for rank, node in enumerate(nodes)
    ]


def _outcome(spec: TrialSpec, ref: Any, rank: int) -> TrialEnded | None:
    try:
        end: TrialEnded | None = ray.get(ref)
        return end
    except RayError as error:
        reason = f"rank {rank}: {failures.reason_of(str(error), 0, None)}"
        return TrialEnded(spec.id, State.FAILED, reason, traceback=str(error), at=_DEATH)
