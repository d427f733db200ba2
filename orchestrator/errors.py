"""Every error this package raises on purpose.

    OrchestratorError
    ├── UserError               exit 2: what was typed or written is wrong
    │   ├── StudyError          a study file or an override (file, line, key)
    │   ├── UnknownName         a task, study, trial or key that does not exist (names the nearest)
    │   ├── DataProblem         the data a study points at cannot be used
    │   ├── DoesNotFit          a trial that no node can hold
    │   └── FolderBusy          the study's folder exists or another process writes it
    ├── EnvironmentProblem      exit 3: the cluster, the disk or the tracker is wrong
    │   ├── JournalDamaged      a line in the middle of a journal fails its checksum
    │   ├── JournalTaken        another process writes it although this one does, too
    │   └── StorageProblem      an object store refuses, does not answer, or its package is not installed
    ├── StudyFailed             exit 1: the study ran and no trial gave a result
    └── Interrupted             exit 130: Ctrl-C or SIGTERM; what had finished is kept

A message says what and where; ``hint`` says what to type. Neither says a password, wherever the words came from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from orchestrator.redaction import redacted


class OrchestratorError(Exception):
    """Base of all errors a user may see; ``exit_code`` is what the command returns."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(redacted(message))
        self.hint = hint and redacted(hint)


class UserError(OrchestratorError):
    exit_code = 2


class StudyError(UserError):
    """A study file or an override is wrong; ``where`` is ``file:line`` or the override itself."""

    def __init__(self, message: str, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message, hint)


class UnknownName(UserError):
    """A name that does not exist, with the nearest ones that do."""

    def __init__(self, kind: str, name: str, valid: Iterable[str], where: str = "") -> None:
        super().__init__(f"there is no {kind} '{name}'" + (f" in {where}" if where else ""), did_you_mean(name, valid))


class DataProblem(UserError):
    pass


class DoesNotFit(UserError):
    pass


class FolderBusy(UserError):
    pass


class EnvironmentProblem(OrchestratorError):
    exit_code = 3


class JournalDamaged(EnvironmentProblem):
    pass


class JournalTaken(EnvironmentProblem):
    pass


class StorageProblem(EnvironmentProblem):
    pass


class StudyFailed(OrchestratorError):
    exit_code = 1


class Interrupted(OrchestratorError):
    exit_code = 130


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A hint: the nearest valid name, or all of them when none is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"valid names: {', '.join(names)}" if names else "there are none yet"
