"""The words and tables of a study's page, as HTML; whatever a study, a task or a trial says is escaped."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.analysis import standings
from orchestrator.analysis.standings import between, decimals
from orchestrator.history.folder import StudyFolder
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.report import use
from orchestrator.report.figures import span
from orchestrator.report.rungs import Arrival, Outcome
from orchestrator.studies.study import BUILTIN, NO_DATA
from tasks.api import Goal, Support

_FIRST_ROWS, _MOST_ROWS = 15, 1000  # of the leaderboard: in sight, and at all
_MOST_FAILURES, _MOST_TRACEBACK = 50, 6000  # kinds of failure; characters


def text(value: object) -> str:
    return html.escape(str(value))


def verdict(record: Record, name: str) -> str:
    state = f"{record.state.lower()}" + (f": {record.reason}" if record.reason else "")
    if not record.verdict:
        over = sum(not trial.is_open for trial in record.trials.values())
        goes_on = "" if record.state is State.RUNNING else f" Go on with: <code>orchestrator resume {text(name)}</code>"
        said = f"The study has not ended ({text(state)}): {over} of {_planned(record)} trials are over.{goes_on}"
        return f"<div class='verdict'><b>No verdict yet</b>{said}</div>"
    support, sentence = record.verdict["support"], record.verdict["sentence"]
    early = "" if record.state is State.FINISHED else f" <span class='note'>The study {text(state)}.</span>"
    kind = {Support.SUPPORTED.value: "supported", Support.NOT_SUPPORTED.value: "not"}.get(support, "")
    return f"<div class='verdict {kind}'><b>Verdict: {text(support)}</b>{text(sentence)}{early}</div>"


def data(record: Record) -> str:
    if record.study["data"] != BUILTIN:
        return ""
    return "<p class='builtin'>This ran on the task's <b>built-in data</b>, not on real data.</p>"


def facts(record: Record, environment: Mapping[str, Any]) -> str:
    """What ran where on what."""
    study, search = record.study, record.study["search"]
    metric, goal = standings.metric_of(record)
    counts = ", ".join(f"{n} {state.lower()}" for state in State if (n := record.count(state)))
    again = sum(trial.of is not None for trial in record.trials.values())
    scheduler = dict(search["scheduler"])
    kind = scheduler.pop("kind")
    options = ", ".join(f"{key} {value}" for key, value in scheduler.items())
    rows = {
        "Task": f"{study['task']}, judged by {metric} ({'higher' if goal is Goal.MAX else 'lower'} is better)",
        "Search": f"{search['algorithm']} over {len(search['space'])} parameters; "
        + ("no scheduler" if kind == "none" else f"{kind}" + f" ({options})" * bool(options)),
        "Trials": f"{len(record.trials)} of {_planned(record)}: {counts or 'none has begun'}"
        + f"; {again} of them on fresh seeds" * bool(again),
        "Data": _data_of(study["data"]),
        "Reads": ", ".join(
            f"{len(pin['trials'])} trials of {pin['study']}" for pin in (study.get("inputs") or {}).get("pinned", ())
        ),
        "Time": _time(record),
        "Where": _where(record, environment),
        "Code": _code(environment),
    }
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{text(v)}</dd>" for k, v in rows.items() if v) + "</dl>"


def leaderboard(record: Record) -> str:
    entries = standings.leaderboard(record)
    if not entries:
        return "<p>No trial has begun.</p>"
    names = list(dict.fromkeys(name for entry in entries for name in entry.params))
    metric, _ = standings.metric_of(record)
    with_interval = any(entry.interval for entry in entries)
    with_seeds = any(entry.seeds for entry in entries)
    heads = ["rank", "trial", "state", metric, *["95 % interval"] * with_interval, *["seeds"] * with_seeds, *names]
    numbers = {"rank", metric, "seeds"} | {
        n for n in names if any(_is_number(entry.params.get(n)) for entry in entries)
    }  # a word among them stands to the right, too
    head = "".join(f"<th data-sort='down'{' class=n' * (name in numbers)}>{text(name)}</th>" for name in heads)
    rows = []
    for entry in entries[:_MOST_ROWS]:
        cells = [
            f"<td class='n'>{entry.rank}</td><td>{text(entry.trial)}</td>",
            f"<td class='{entry.state}'>{entry.state.lower()}</td>",
            _cell(entry.value, decimals),
            f"<td>{between(entry.interval)}</td>" * with_interval,
            f"<td class='n'>{entry.seeds or ''}</td>" * with_seeds,
            *(_cell(entry.params.get(name), right=name in numbers) for name in names),
        ]
        first = " class='first'" if entry.rank == 1 and entry.value is not None else ""
        rows.append(f"<tr data-t='{text(entry.trial)}'{first}>{''.join(cells)}</tr>")
    shown = f"<div class='wide'><table><tr>{head}</tr>{''.join(rows[:_FIRST_ROWS])}</table></div>"
    if len(rows) > _FIRST_ROWS:
        left_out = f", without the last {len(entries) - len(rows)}" if len(rows) < len(entries) else ""
        shown += (
            f"<details><summary>All {len(entries)} lines{left_out}</summary><div class='wide'>"
            f"<table><tr>{head}</tr>{''.join(rows[_FIRST_ROWS:])}</table></div></details>"
        )
    return shown


def rungs(arrivals: Sequence[Arrival], record: Record) -> str:
    """What happened at each rung, in numbers."""
    metric, goal = standings.metric_of(record)
    outcomes = [outcome for outcome in Outcome if any(arrival.outcome is outcome for arrival in arrivals)]
    head = "".join(f"<th class='n'>{text(h)}</th>" for h in ("step", "came", *outcomes, f"best {metric}"))
    rows = []
    for step in sorted({arrival.rung for arrival in arrivals}):
        here = [arrival for arrival in arrivals if arrival.rung == step]
        counts = Counter(arrival.outcome for arrival in here)
        best = (max if goal is Goal.MAX else min)(arrival.value for arrival in here)
        numbers = [str(step), str(len(here)), *(str(counts[outcome]) for outcome in outcomes), _short(best)]
        rows.append("<tr>" + "".join(f"<td class='n'>{number}</td>" for number in numbers) + "</tr>")
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def failures(record: Record) -> str:
    """What failed or was stopped, trials that did so for the same reason together; and what was tried again."""
    kinds: dict[tuple[State, str], list[TrialRecord]] = {}
    for trial in record.trials.values():
        if trial.state in (State.FAILED, State.STOPPED):
            kinds.setdefault((trial.state, trial.reason or "no reason was given"), []).append(trial)
    rows = []
    for (state, reason), trials in sorted(kinds.items(), key=lambda kind: -len(kind[1]))[:_MOST_FAILURES]:
        trace = next((trial.traceback for trial in trials if trial.traceback), "")
        details = f"<details><summary>traceback of {text(trials[0].id)}</summary><pre>{_tail(trace)}</pre></details>"
        rows.append(
            f"<tr><td class='n'>{len(trials)}</td><td class='{state}'>{state.lower()}</td>"
            f"<td class='reason'>{text(reason)}{details if trace else ''}</td>"
            f"<td class='reason'>{text(_some([trial.id for trial in trials]))}</td></tr>"
        )
    said = ""
    if rows:
        head = "<th class='n'>trials</th><th>state</th><th>reason</th><th>which</th>"
        more = f"<p>{len(kinds) - len(rows)} more reasons are in the journal.</p>" * (len(kinds) > len(rows))
        said = f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>{more}"
    retried = [trial.id for trial in record.trials.values() if trial.failures and trial.state is not State.FAILED]
    if retried:
        said += f"<p>{len(retried)} trials failed and went on when tried again: {text(_some(retried))}.</p>"
    return said


def again(record: Record, folder: StudyFolder, environment: Mapping[str, Any], study_yaml: str) -> str:
    commit = (environment.get("git") or {}).get("commit")
    where = folder.study if folder.mirror is None else folder.study.name
    lines = [f"git checkout {commit}"] * bool(commit) + [f"orchestrator run {where}"]
    if (environment.get("git") or {}).get("diff"):
        lines.insert(1, f"# with the uncommitted changes that {folder.environment.name} holds")
    searched = set(record.study["search"]["space"])
    fixed = "\n".join(f"{k}: {v}" for k, v in record.study["params"].items() if k not in searched)
    typed = " ".join(map(str, environment.get("command", ())))
    note = f"It was started as <code>{text(typed)}</code>, seed {text(record.study['seed'])}."
    return (
        f"<pre>{text(chr(10).join(lines))}</pre>"
        + f"<p class='note'>{note}</p>" * bool(typed)
        + f"<details><summary>Parameters that were not searched</summary><pre>{text(fixed)}</pre></details>"
        + f"<details><summary>The whole study</summary><pre>{text(study_yaml)}</pre></details>"
    )


def environment_of(folder: StudyFolder) -> dict[str, Any]:
    """What the study began with; nothing where that was not kept."""
    if not folder.environment.exists():
        return {}
    kept: dict[str, Any] = json.loads(folder.environment.read_text(encoding="utf-8"))
    return kept


def _planned(record: Record) -> int:
    return max(record.planned, len(record.trials))


def _data_of(name: str) -> str:
    return {BUILTIN: "built-in, not real", NO_DATA: "none: this task reads none"}.get(name, name)


def _time(record: Record) -> str:
    started = datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    worked = use.busy_seconds(use.bars(record))
    wall = record.seconds + (0.0 if record.ended else record.at - record.session_began)
    said = f"{started}, {span(wall)}" + f" in {record.sessions} sessions" * (record.sessions > 1)
    if not worked or not wall:
        return said
    return f"{said}; trials worked {span(worked)} in all, {worked / wall:.1f} at once on average"


def _where(record: Record, environment: Mapping[str, Any]) -> str:
    there = [f"{node} ({n} trials)" for node, n in use.nodes(record).items()]
    need = record.study["resources"]
    each = f"{need['cpus']:g} CPU(s)" + f" and {need['gpus']:g} GPU(s)" * bool(need["gpus"])
    if need.get("processes", 1) > 1:
        each += f" for each of {need['processes']} processes"
    machine = [f"{environment['cpus']} × {environment['cpu']}"] if environment.get("cpu") else []
    machine += [gpu.split(",")[0] for gpu in environment.get("gpus", ())]
    driver = f"; driver on {environment['host']}: {', '.join(machine)}" if machine and environment.get("host") else ""
    return f"{_some(there, 12) or 'nowhere yet'}; a trial holds {each}{driver}"


def _code(environment: Mapping[str, Any]) -> str:
    if not environment:
        return ""
    git = environment.get("git") or {}
    commit = f"commit {git['commit'][:12]}" + " with uncommitted changes" * bool(git.get("diff")) if git else ""
    packages = environment.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in ("torch", "ray", "numpy") if packages.get(name)]
    own = f"orchestrator {environment.get('orchestrator', '')}"
    return ", ".join(filter(None, [own, commit, f"Python {environment.get('python', '')}", *versions]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any, show: Callable[[float], str] = _short, right: bool = False) -> str:
    if _is_number(value):
        return f"<td class='n' data-v='{value}'>{show(value)}</td>"
    side = " class='n'" * right
    return f"<td{side}>{'' if value is None else text(value)}</td>"


def _some(names: Iterable[str], most: int = 20) -> str:
    given = list(names)
    return ", ".join(given[:most]) + (f" and {len(given) - most} more" if len(given) > most else "")


def _tail(trace: str) -> str:
    return text(trace if len(trace) <= _MOST_TRACEBACK else f"…{trace[-_MOST_TRACEBACK:]}")
