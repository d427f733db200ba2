"""What a worker is told of the attempt that it is to make."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.history.folder import StudyFolder
from orchestrator.history.record import MapRecord, TrialRecord
from orchestrator.objectstore.data import DataUrl
from orchestrator.objectstore.storage import Mirror
from orchestrator.studies.study import Pinned, Study
from tasks.api import Goal


@dataclass(frozen=True)
class TrialSpec:
    """All that a worker needs for an attempt. Steps up to ``reported`` are in the journal and not reported again.

    With a ``mirror``, ``cache`` and ``folder`` are relative to its root on each machine: `here` makes them absolute.
    """

    id: str
    attempt: int
    task: str
    seed: int
    params: Mapping[str, Any]
    metric: str
    goal: Goal
    data: Path | DataUrl | None
    cache: Path
    folder: Path
    gpus: float
    inputs: tuple[Pinned, ...] = ()
    cpus: float = 1
    priority: int = 0
    processes: int = 1
    reported: int = 0
    pause_at: int | None = None
    maps: Mapping[str, MapRecord] = field(default_factory=dict)  # what of them is done already
    avoid: str | None = None  # Ray's id of the node where the attempt before failed
    mirror: Mirror | None = None

    @classmethod
    def of(cls, trial: TrialRecord, study: Study, folder: StudyFolder, cache: Path, pause_at: int | None) -> TrialSpec:
        """What a worker is given for a trial's next attempt; ``cache`` and ``folder`` are paths of this machine."""
        return cls(
            id=trial.id,
            attempt=trial.attempt,
            task=study.task,
            seed=trial.seed,
            params=trial.now,
            metric=study.search.metric,
            goal=study.search.goal,
            data=study.data,
            cache=folder.portable(cache),
            folder=folder.portable(folder.trial(trial.id).root),
            gpus=study.resources.gpus,
            inputs=study.inputs.pinned if study.inputs is not None else (),
            cpus=study.resources.cpus,
            priority=study.priority,
            processes=study.resources.processes,
            maps=copy.deepcopy(trial.maps),
            reported=trial.steps,
            pause_at=pause_at,
            avoid=trial.node_id if trial.failures else None,
            mirror=folder.mirror and folder.mirror.patient(),
        )

    def here(self) -> TrialSpec:
        root = Path() if self.mirror is None else self.mirror.root
        return replace(self, cache=root / self.cache, folder=root / self.folder)

    def __deepcopy__(self, memo: Any) -> TrialSpec:
        return self  # Tune copies what it is given, several times a trial
