"""The states of a trial and of a study: one enum for both."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    PRUNED = "PRUNED"  # stopped early by the scheduler; its last report counts
    FAILED = "FAILED"
    STOPPED = "STOPPED"  # by the user, a signal or a budget

    @property
    def is_over(self) -> bool:
        return self not in (State.PENDING, State.RUNNING)
