"""Two studies, or two trials, side by side: in what they differ, and whether their results differ beyond chance.

Everything is taken from what the studies left in their folders; nothing is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis import chance, standings
from orchestrator.errors import UnknownName, UserError
from orchestrator.history.events import StudyResumed, StudyStarted, TrialContinued, TrialStarted
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import load_record, read
from orchestrator.history.record import Record, TrialRecord

_MISSING = None  # what one side does not have
_FILES = re.compile(r"^diff --git a/(.+) b/", re.MULTILINE)


@dataclass(frozen=True)
class Side:
    """One of the two: a study, or one trial of it. ``session`` is that in which the trial's last attempt began."""

    folder: StudyFolder
    record: Record
    trial: TrialRecord | None
    session: int

    @property
    def name(self) -> str:
        return self.folder.name if self.trial is None else f"{self.folder.name}/{self.trial.id}"

    @property
    def result(self) -> TrialRecord | None:
        """The trial whose result this is: of a study its best one."""
        return self.trial or standings.best(self.record)


def find(ref: str, runs: Runs) -> Side:
    """``STUDY`` or ``STUDY/TRIAL``. Raises `UnknownName`."""
    name, _, trial = ref.partition("/")
    folder = runs.study(name)
    folder.obtain_pages()
    record = load_record(folder.journal)
    if not trial:
        return Side(folder, record, None, record.sessions)
    if trial not in record.trials:
        raise UnknownName("trial", trial, record.trials, f"study '{name}'")
    return Side(folder, record, record.trials[trial], _session_of(folder.journal, trial))


def compare(a: Side, b: Side) -> dict[str, Any]:
    """What differs, as plain values for ``compare --json``.

    ``sections`` holds for each of ``question`` (what was asked), ``parameters``, ``data``, ``code``, ``environment``
    and ``results`` what is ``different``, as ``{name: [a, b]}``, and how many others are the ``same``; ``chance`` says
    in a ``sentence``, with numbers where there are any, whether the results differ beyond chance.
    Raises `UserError` for a study beside a trial.
    """
    if (a.trial is None) != (b.trial is None):
        study, trial = (a, b) if a.trial is None else (b, a)
        hint = f"name a trial of it, too: {study.name}/t0000; its best is {_best_name(study)}"
        raise UserError(f"{study.name} is a study and {trial.name} is a trial: they have little in common", hint)
    said = chance.judge(_run(a), _run(b), _why_incomparable(a, b))
    sections = {name: _differences(look(a), look(b)) for name, look in _SECTIONS.items()}
    return {"a": a.name, "b": b.name, "sections": sections, "chance": said.to_plain()}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    names = list(dict.fromkeys([*a, *b]))
    different = {name: [a.get(name), b.get(name)] for name in names if a.get(name) != b.get(name)}
    return {"different": different, "same": len(names) - len(different)}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> _flat({"a": {"b": 1, "c": [2]}, "d": {}})
    {'a.b': 1, 'a.c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


# ----------------------------------------------------------------------------------------------------- what to look at


def _question(side: Side) -> dict[str, Any]:
    """The study without its name, its data and its parameters."""
    study = {key: value for key, value in side.record.study.items() if key not in ("name", "data", "params", "inputs")}
    return _flat(study)


def _parameters(side: Side) -> dict[str, Any]:
    """Of a trial those it ran with, its seed among them; of a study those that it fixes."""
    if side.trial is not None:
        return {**side.trial.now, "seed": side.trial.seed}
    searched = side.record.study["search"]["space"]
    return {name: value for name, value in side.record.study["params"].items() if name not in searched}


def _data(side: Side) -> dict[str, Any]:
    pins = (side.record.study.get("inputs") or {}).get("pinned", ())
    inputs = {f"inputs.{pin['study']}": f"{pin['uid'][:8]}: {len(pin['trials'])} trials" for pin in pins}
    return {"data": side.record.study["data"], "digest": ", ".join(side.record.data_digests) or _MISSING, **inputs}


def _code(side: Side) -> dict[str, Any]:
    """Of uncommitted changes the files, and a digest that tells one state of them from another."""
    environment = _environment_file(side)
    git = environment.get("git") or {}
    diff = git.get("diff") or ""
    digest = f"{hashlib.sha256(diff.encode()).hexdigest()[:8]}: " if diff else ""
    return {
        "commit": git.get("commit"),
        "uncommitted": f"{digest}{', '.join(_FILES.findall(diff)) or 'nothing'}" if git else _MISSING,
        "orchestrator": environment.get("orchestrator"),
        "lock": (environment.get("lock_sha256") or "")[:12] or _MISSING,
    }


def _environment(side: Side) -> dict[str, Any]:
    environment = _environment_file(side)
    rest = {name: value for name, value in environment.items() if name not in ("git", "lock_sha256", "orchestrator")}
    rest["command"] = " ".join(environment.get("command", ())) or _MISSING
    rest["gpus"] = "; ".join(environment.get("gpus", ())) or "none"
    return _flat(rest) | ({"node": side.trial.node} if side.trial is not None else {})


def _results(side: Side) -> dict[str, Any]:
    record, trial = side.record, side.result
    found: dict[str, Any] = {}
    if side.trial is None:
        found |= {"state": record.state, "verdict": (record.verdict or {}).get("sentence")}
        found |= {"trials": len(record.trials), "best": trial.id if trial is not None else _MISSING}
        found["hours"] = round(record.seconds / 3600, 3)
    if trial is None:
        return found
    if side.trial is not None:
        found |= {"state": trial.state, "reason": trial.reason, "steps": trial.steps, "attempts": trial.attempt}
        found["seconds"] = round(trial.seconds, 1)
    return {**found, **trial.metrics}


_SECTIONS = {
    "question": _question,
    "parameters": _parameters,
    "data": _data,
    "code": _code,
    "environment": _environment,
    "results": _results,
}


def _environment_file(side: Side) -> dict[str, Any]:
    path = side.folder.environment_of(side.session)
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _session_of(journal: Path, trial: str) -> int:
    session = found = 0
    for event, _ in read(journal):
        session += isinstance(event, StudyStarted | StudyResumed)
        if isinstance(event, TrialStarted | TrialContinued) and event.trial == trial:
            found = session
    return found


# ------------------------------------------------------------------------------------------------------ their results


def _run(side: Side) -> chance.Result | None:
    """What is known of a side's result, None where it has none."""
    trial = side.result
    if trial is None:
        return None
    place = side.folder.trial(trial.id)
    place.obtain(place.artifacts)
    return chance.Result.of(side.name, side.record, trial, place.artifacts)


def _why_incomparable(a: Side, b: Side) -> str | None:
    (metric, goal), (other, other_goal) = standings.metric_of(a.record), standings.metric_of(b.record)
    if (metric, goal) != (other, other_goal):
        return f"one is judged by {metric} ({goal}), the other by {other} ({other_goal})"
    if a.record.study["task"] != b.record.study["task"]:
        return f"they are of different tasks, {a.record.study['task']} and {b.record.study['task']}"
    if _data(a) != _data(b):
        return "they ran on different data"
    return None


def _best_name(side: Side) -> str:
    best = standings.best(side.record)
    return f"{side.name}/{best.id}" if best is not None else "none"
