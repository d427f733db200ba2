"""What there is, as tables: leaderboards, trials, hosts, findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from orchestrator.analysis import standings
from orchestrator.analysis.standings import between, decimals
from orchestrator.health.findings import Finding, Level
from orchestrator.history.record import Record, TrialRecord
from orchestrator.terminal.lines import SOFT, STYLE, assignments, console, print_json, say, shown

_LEVEL_STYLE = {Level.BREAKS: "bold red", Level.WARNS: "yellow", Level.FINE: "green"}


def print_leaderboard(record: Record, limit: int | None = None) -> None:
    entries = standings.leaderboard(record)
    metric, _ = standings.metric_of(record)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right")
    seeds = any(entry.seeds for entry in entries)
    for name in ("trial", "state", metric, "95 % interval", *(["seeds"] if seeds else [])):
        table.add_column(name, no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for entry in entries[:limit]:
        state = f"[{STYLE[entry.state]}]{entry.state}[/]"
        cells = [str(entry.rank), entry.trial, state, decimals(entry.value), between(entry.interval)]
        cells += [str(entry.seeds or 1)] if seeds else []
        table.add_row(*cells, escape(assignments(entry.params)))
    console.print(table)
    if limit is not None and len(entries) > limit:
        console.print(f"[dim]… and {len(entries) - limit} more[/]")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(shown(cell)) for cell in row))
    console.print(table)


def print_trials(record: Record) -> None:
    """Every trial of a study: its state, how far it came, its result, and why it ended."""
    metric, _ = standings.metric_of(record)
    print_table(
        ["trial", "state", "step", metric, "seconds", "node", "reason", "parameters"],
        [
            (
                t.id,
                t.state,
                t.steps,
                decimals(t.value(metric)),
                _seconds(t),
                t.node or "",
                t.reason or (f"of {t.of}" if t.of else ""),
                assignments(t.chosen),
            )
            for t in record.trials.values()
        ],
    )


def print_verdict(record: Record) -> None:
    if record.verdict:
        support, sentence = record.verdict["support"], record.verdict["sentence"]
        console.print(f"[bold]verdict: {support}[/]. {escape(sentence)}", soft_wrap=SOFT)
    if record.study.get("data") == "builtin":
        console.print("[yellow]This ran on the task's built-in data, not on real data.[/]")


def print_findings(found: Sequence[Finding]) -> None:
    """Each with its reason, and below it what to type, in one line that can be copied."""
    width = max((len(finding.host) for finding in found), default=0)
    for finding in found:
        why = f"[dim]; {escape(finding.why)}[/]" if finding.why else ""
        style = _LEVEL_STYLE[finding.level]
        host = escape(f"{finding.host:{width}}")
        console.print(f"[{style}]{finding.level:6}[/]  {host}  {escape(finding.what)}{why}", soft_wrap=SOFT)
        if finding.fix:
            console.print(f"        → {escape(finding.fix)}", soft_wrap=True)


def print_hosts(hosts: Sequence[Mapping[str, Any]]) -> None:
    """The hosts of a cluster with what they use of what they have, and below, why some are missing."""

    def share(host: Mapping[str, Any], what: str) -> str:
        return f"{host[f'{what}_used']:g}/{host[what]:g}" if host["presence"] == "joined" else ""

    rows = [
        (
            h["address"],
            h["role"],
            h["presence"],
            share(h, "cpus"),
            share(h, "gpus"),
            f"{h['memory_used_bytes'] / 1e9:.3g}/{h['memory_bytes'] / 1e9:.3g} GB" if h["presence"] == "joined" else "",
        )
        for h in hosts
    ]
    print_table(["host", "role", "state", "CPUs used", "GPUs used", "memory reserved"], rows)
    for host in hosts:
        if host["presence"] != "joined":
            say(f"{host['address']} is {host['presence']}: {host['reason'] or 'no reason is known'}")


def print_list(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        say("there are none yet; try: orchestrator demo")


def _seconds(trial: TrialRecord) -> str:
    return f"{trial.ended - trial.started:.1f}" if trial.ended else ""
