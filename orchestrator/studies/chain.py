"""A study that is chained to earlier ones: which of their trials it reads, and how its own trials get them.

`pinned` settles it once, before the study starts, so that all of its trials read the same, whatever becomes of the
earlier studies: a trial that they add later is not read, and one that is gone is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import DataProblem, StudyError, UnknownName
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import is_written, load_record
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.objectstore.storage import Mirror
from orchestrator.studies import registry
from orchestrator.studies.plan import finite_value, metric_of
from orchestrator.studies.study import BUILTIN, Inputs, Pinned, Study
from orchestrator.studies.studyfile import build
from tasks.api import Goal, Input


def pinned(study: Study, runs: Runs) -> Study:
    """The study with the trials that it reads settled. Raises `StudyError` where an earlier study has none yet.

    A study that names no data reads that of the first earlier study: what was trained on photos is looked at on them.
    """
    if study.inputs is None or study.inputs.pinned:
        return study
    plain = {**study.to_plain(), "notify": study.notify}
    plain["inputs"]["pinned"] = [_pin(name, study.inputs, runs).model_dump() for name in study.inputs.studies]
    if study.data_name == BUILTIN:
        plain["data"] = load_record(runs.study(study.inputs.studies[0]).journal).study["data"]
    return build(plain)


def read(pins: Sequence[Pinned], root: Path, mirror: Mirror | None) -> tuple[Input, ...]:
    """The inputs of a trial, where it runs. Raises `DataProblem` for a study that is no longer the same."""
    return tuple(given for pin in pins for given in _read(pin, StudyFolder(root / pin.study, mirror)))


def _pin(name: str, inputs: Inputs, runs: Runs) -> Pinned:
    try:
        folder = runs.study(name)
    except UnknownName as error:
        if name not in registry.study_names():
            raise
        missing = f"'{name}' has not been run in {runs.where}"
        raise StudyError(missing, "inputs.from", f"run it first: orchestrator run {name}") from error
    if is_written(folder.journal):
        raise StudyError(f"'{name}' is still running", "inputs.from", f"wait for its end: orchestrator show {name}")
    record = load_record(folder.journal)
    done = _best_first(record)[: inputs.top]
    if not done:
        hint = f"see why: orchestrator show {name}; or go on with it: orchestrator resume {name}"
        raise StudyError(f"no trial of '{name}' has finished", "inputs.from", hint)
    return Pinned(study=name, uid=record.uid, trials=tuple(trial.id for trial in done))


def _best_first(record: Record) -> list[TrialRecord]:
    """The finished trials, runs of finalists too."""
    metric, goal = metric_of(record)
    done = [trial for trial in record.trials.values() if trial.state is State.FINISHED]
    values = {trial.id: value for trial in done if (value := finite_value(trial, metric)) is not None}
    best_first = sorted(values, key=lambda id: (-values[id] if goal is Goal.MAX else values[id], id))
    return [record.trials[id] for id in best_first]


def _read(pin: Pinned, folder: StudyFolder) -> list[Input]:
    folder.obtain_journal()
    if not folder.journal.exists():
        raise DataProblem(f"the study '{pin.study}', whose trials this one reads, is no longer at {folder.root}")
    record = load_record(folder.journal)
    if record.uid != pin.uid:
        raise DataProblem(f"'{pin.study}' at {folder.root} is another study than the one that this one began with")
    if missing := [id for id in pin.trials if id not in record.trials]:
        raise DataProblem(f"'{pin.study}' at {folder.root} has no trial '{missing[0]}', which this study is to read")
    inputs = []
    for trial in (record.trials[id] for id in pin.trials):
        place = folder.trial(trial.id)
        place.obtain(place.artifacts)
        inputs.append(Input(pin.study, trial.id, trial.params, trial.metrics, trial.seed, place.artifacts))
    return inputs
