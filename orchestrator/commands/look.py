"""The commands that look at studies: lists, logs, leaderboards, the tracker, and what would break a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.analysis import standings
from orchestrator.commands import completion
from orchestrator.commands.cluster import AsJson, ClusterOption, elsewhere, head_of
from orchestrator.errors import EnvironmentProblem, UnknownName, UserError
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import is_written, load_record
from orchestrator.history.record import Record
from orchestrator.history.states import State
from orchestrator.redaction import redacted
from orchestrator.terminal.lines import complain, print_json, say
from orchestrator.terminal.tables import print_findings, print_leaderboard, print_list, print_trials, print_verdict

_FOLLOW_SECONDS = 0.2

app = typer.Typer(rich_markup_mode=None)

RunName = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="The name of a study that has run.", autocompletion=completion.runs),
]
TrialId = Annotated[
    str,
    typer.Argument(metavar="TRIAL", help="A trial's id, for example t0003.", autocompletion=completion.trials),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="For example search.trials=8 data=PATH.",
        autocompletion=completion.overrides,
    ),
]
AnyStudy = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", help="A study whose needs to check, too.", autocompletion=completion.studies),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as the trial writes, until it ends.")]
AllowedHosts = Annotated[
    list[str] | None, typer.Option("--allowed-host", help="A name by which browsers may call it; may be repeated.")
]


@app.command()
@elsewhere
def ps(as_json: AsJson = False) -> None:
    """List the studies that have run or are running here."""
    _close_dead(Runs.default())
    rows = [standings.summary(load_record(folder.journal), folder.name) for folder in Runs.default().studies()]
    if as_json:
        return print_json(rows)
    for row in rows:
        row["started"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"]))
    print_list(rows, False)


@app.command()
@elsewhere
def show(study: RunName, as_json: AsJson = False) -> None:
    """Show a study and each of its trials."""
    folder, record = _record(study)
    if as_json:
        from orchestrator.tracker import tracking

        return print_json(standings.show(record, folder.name, tracking.run_ids(record, Runs.default())))
    say(f"{folder.name}: {record.study['question']}")
    say(f"{record.state}" + (f" ({record.reason})" if record.reason else ""))
    print_trials(record)
    print_verdict(record)


@app.command()
@elsewhere
def logs(study: RunName, trial: TrialId, follow: Follow = False) -> None:
    """Print what a trial wrote."""
    folder, record = _record(study)
    if trial not in record.trials:
        raise UnknownName("trial", trial, record.trials, f"study '{study}'")
    log = folder.trial(trial).log
    folder.obtain(log)
    offset = _print_from(log, 0)
    while follow and is_written(folder.journal) and not record.trials[trial].state.is_over:
        time.sleep(_FOLLOW_SECONDS)
        folder.obtain_journal()
        folder.obtain(log)
        record = load_record(folder.journal)
        offset = _print_from(log, offset)
    if error := record.trials[trial].traceback:
        sys.stdout.write(error)


@app.command()
@elsewhere
def leaderboard(study: RunName, as_json: AsJson = False) -> None:
    """Rank a study's trials, best first."""
    _, record = _record(study)
    if as_json:
        return print_json([entry.to_plain() for entry in standings.leaderboard(record)])
    print_leaderboard(record)
    print_verdict(record)


@app.command()
@elsewhere
def report(study: RunName) -> None:
    """Write a study's HTML page anew and say where it is."""
    from orchestrator.report.page import write_report

    folder, record = _record(study)
    write_report(record, folder)
    for written in (folder.figures, folder.report):
        if written.exists():
            folder.publish(written)
    say(str(folder.report))


@app.command()
@elsewhere
def track(study: RunName) -> None:
    """Bring MLflow up to date with a study's journal.

    Where it is complete, nothing changes.
    """
    from orchestrator.running import launch
    from orchestrator.tracker import follower, tracking

    folder, record = _record(study)
    if is_written(folder.journal):
        raise UserError(f"'{study}' is running: its own process keeps MLflow up to date")
    launch.close_dead(folder)
    follower.track(folder, Runs.default())
    where = redacted(tracking.tracker_uri(Runs.default(), record.study))
    say(f"{folder.name}: {len(record.trials)} trials are in {where}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port it listens at.")] = 5000,
    host: Annotated[str, typer.Option(help="The address it listens at; others than this machine's own log in.")] = (
        "127.0.0.1"
    ),
    allowed_host: AllowedHosts = None,
    login: Annotated[bool, typer.Option("--login/--no-login", help="Ask for a password on a network address.")] = True,
    cluster: ClusterOption = None,
) -> None:
    """Start the MLflow UI on this folder's runs.

    For this machine alone, or with --host and a password for others.
    """
    if cluster is not None:
        raise typer.Exit(head_of(cluster).command(["ui", "--port", str(port)], forward=port))
    from orchestrator.tracker.server import make_server

    server = make_server(Runs.default(), host, port, allowed_host or (), login)
    for line in server.words:
        say(line)
    server.start()


@app.command()
def doctor(
    study: AnyStudy = None, overrides: Overrides = None, cluster: ClusterOption = None, as_json: AsJson = False
) -> None:
    """Look for what would break a run, here or on a cluster.

    On this machine, on every node of RAY_ADDRESS, or on the hosts of a cluster's file.
    """
    from orchestrator.health import checkup
    from orchestrator.health import doctor as judge
    from orchestrator.machines import clusterfile

    asked = checkup.Asked.of(study, overrides or []) if study else checkup.Asked()
    hosts, expected = checkup.examine(asked, Runs.default(), clusterfile.load(cluster) if cluster else None)
    found = judge.findings(hosts, expected)
    print_json(judge.to_plain(hosts, found)) if as_json else print_findings(found)
    if breaking := judge.count_breaking(found):
        things = f"{breaking} thing{'s' if breaking > 1 else ''}"
        raise EnvironmentProblem(f"{things} would break a run", "type what stands below each, then doctor again")


def _close_dead(runs: Runs) -> None:
    """Studies whose process died are STOPPED, here and in MLflow."""
    for folder in runs.studies():
        record = load_record(folder.journal)
        if record.state is State.STOPPED and record.ended is None:
            from orchestrator.running import launch
            from orchestrator.tracker import follower

            try:
                if launch.close_dead(folder):
                    follower.track(folder, runs)
            except EnvironmentProblem as error:
                complain(f"{folder.name}: {error}", f"close its runs later: orchestrator track {folder.name}")


def _print_from(path: Path, offset: int) -> int:
    """Print a file from a byte offset on; returns where it ended."""
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        written = file.read()
    sys.stdout.write(written.decode("utf-8", errors="replace"))
    sys.stdout.flush()
    return offset + len(written)


def _record(name: str) -> tuple[StudyFolder, Record]:
    folder = Runs.default().study(name)
    return folder, load_record(folder.journal)
