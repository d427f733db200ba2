"""When a study ends before everything has run: its budget is spent, or too much has failed. Pure."""

from __future__ import annotations

from orchestrator.history.record import Record
from orchestrator.history.states import State
from orchestrator.studies.study import Study

Cut = tuple[State, str]  # how the study ends, and why


def spent(study: Study, record: Record, now: float) -> Cut | None:
    """Whether time or GPU time is used up at ``now`` (Unix seconds)."""
    budget = study.budget
    if budget.hours is not None and record.seconds_at(now) >= budget.hours * 3600:
        return State.FINISHED, f"budget.hours={budget.hours:g} was reached"
    gpus = study.resources.gpus * study.resources.processes
    if budget.gpu_hours is not None and record.gpu_seconds_at(now, gpus) >= budget.gpu_hours * 3600:
        return State.FINISHED, f"budget.gpu_hours={budget.gpu_hours:g} was reached"
    return None


def started(study: Study, record: Record) -> Cut | None:
    """Whether no further trial may start."""
    if study.budget.trials is not None and len(record.trials) >= study.budget.trials:
        return State.FINISHED, f"budget.trials={study.budget.trials} was reached"
    return None


def failed(study: Study, record: Record) -> Cut | None:
    """Whether more trials failed for good than may, or as many attempts as the budget has."""
    for_good, limit = record.count(State.FAILED), study.failures.max_failures
    if limit is not None and for_good > limit:
        return State.FAILED, f"{for_good} trials failed, more than failures.max_failures={limit}"
    attempts = sum(trial.failures for trial in record.trials.values())
    if study.budget.failures is not None and attempts >= study.budget.failures:
        return State.FINISHED, f"budget.failures={study.budget.failures} was reached"
    return None
