"""The ``orchestrator`` command: parse, call, render. No logic.

Exit codes: 0 done, 1 the study failed, 2 what was typed or written is wrong, 3 the environment is, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import __version__, cli_cluster, registry, results, terminal
from orchestrator.cli_cluster import elsewhere, submitted
from orchestrator.control import Command, order
from orchestrator.errors import EnvironmentProblem, Interrupted, OrchestratorError, StudyFailed, UnknownName, UserError
from orchestrator.folder import Runs, StudyFolder
from orchestrator.journal import is_written, load_record
from orchestrator.plan import make_plan
from orchestrator.record import Record
from orchestrator.redaction import redacted
from orchestrator.states import State
from orchestrator.study import BUILTIN
from orchestrator.studyfile import load_study
from orchestrator.trial import checkpoint

if TYPE_CHECKING:
    from orchestrator.launch import Outcome

_FOLLOW_SECONDS = 0.2

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

app.add_typer(cli_cluster.app, name="cluster")
app.command()(cli_cluster.attach)

StudyRef = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study's name, or a YAML file.")]
RunName = Annotated[str, typer.Argument(metavar="STUDY", help="The name of a study that has run.")]
TrialId = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, for example t0003.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example search.trials=8 data=PATH.")
]
AnyTrial = Annotated[str | None, typer.Argument(metavar="[TRIAL]", help="Without it the whole study is meant.")]
AnyStudy = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study whose needs to check, too.")]
ClusterPath = Annotated[Path | None, typer.Option("--cluster", help="A cluster's file: its hosts are asked over SSH.")]
RetryTrials = Annotated[list[str] | None, typer.Option("--retry", help="Try this trial, which has ended, again.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as the trial writes, until it ends.")]
AllowedHosts = Annotated[
    list[str] | None, typer.Option("--allowed-host", help="A name by which browsers may call it; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks: what can be studied."""
    found = [registry.task(name) for name in registry.task_names()]
    rows = [{"task": t.name, "question": t.question, "metric": t.metric, "goal": t.goal} for t in found]
    _list(rows, as_json)


@app.command()
def studies(as_json: AsJson = False) -> None:
    """List the studies that ship with the tasks."""
    rows = []
    for name in registry.study_names():
        study = load_study(name)
        rows.append({"study": name, "task": study.task, "question": study.question})
    _list(rows, as_json)


@app.command()
def plan(study: StudyRef, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a study would run, without running it."""
    from orchestrator.launch import local_node

    asked, runs = load_study(study, overrides or []), Runs.default()
    planned = make_plan(asked, [local_node()])
    plain = planned.to_plain(*_earlier_run(runs, asked.name))
    if as_json:
        return _json(plain)
    estimate = plain["estimate"]
    terminal.say(f"{asked.name}: {asked.question}")
    terminal.say(f"{len(planned.trials)} trials, {planned.concurrent} at once ({estimate['waves']} waves)")
    if estimate["hours"] is None:
        terminal.say("time: unknown until a trial of this study has run here")
    else:
        gpu = f", {estimate['gpu_hours']:.1f} GPU-hours" if estimate["gpu_hours"] else ""
        each = f"{estimate['seconds_per_trial']:.1f} s a trial in its last run"
        terminal.say(f"time: about {60 * estimate['hours']:.1f} min{gpu} ({each})")
    size = estimate["checkpoint_bytes"]
    known = f", about {estimate['disk_bytes'] / 1e6:.1f} MB ({size / 1e6:.2f} MB each in its last run)" if size else ""
    terminal.say(f"disk: at most {checkpoint.KEEP} checkpoints a trial{known}")
    for note in planned.notes:
        terminal.say(f"note: {note}")
    rows = []
    for trial in planned.trials:
        chosen = "proposed when it starts" if trial.params is None else ""
        rows.append((trial.id, trial.seed, chosen or " ".join(f"{k}={v}" for k, v in (trial.params or {}).items())))
    terminal.print_table(["trial", "seed", "parameters"], rows)


@app.command()
@submitted
def run(study: StudyRef, overrides: Overrides = None) -> None:
    """Run a study to its verdict. Ctrl-C ends it in order."""
    _run(study, overrides or [])


@app.command()
@submitted
def resume(study: RunName, overrides: Overrides = None, retry: RetryTrials = None) -> None:
    """Go on with a study that was interrupted or whose process died, or give it more: search.trials=64."""
    from orchestrator import launch

    runs = Runs.default()
    _conclude(launch.resume_study(study, overrides or [], runs, terminal.LiveStudy(), retry or []), runs)


@app.command()
@elsewhere
def stop(study: RunName, trial: AnyTrial = None) -> None:
    """Stop a running study in order, or one of its trials, from another terminal."""
    terminal.say(order(_running(study), Command.STOP, trial))


@app.command()
@elsewhere
def retry(study: RunName, trial: TrialId) -> None:
    """Try a failed or stopped trial of a running study again, from its last checkpoint."""
    terminal.say(order(_running(study, f"orchestrator resume {study} --retry {trial}"), Command.RETRY, trial))


@app.command()
def demo() -> None:
    """Run the main job on drawn dogs: a small search that needs no download."""
    _run("dogs-demo", [])


@app.command()
@elsewhere
def ps(as_json: AsJson = False) -> None:
    """List the studies that have run or are running here."""
    _close_dead(Runs.default())
    rows = [results.summary(load_record(folder.journal), folder.name) for folder in Runs.default().studies()]
    if as_json:
        return _json(rows)
    for row in rows:
        row["started"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"]))
    _list(rows, False)


@app.command()
@elsewhere
def show(study: RunName, as_json: AsJson = False) -> None:
    """Show a study and each of its trials."""
    folder, record = _record(study)
    if as_json:
        from orchestrator.tracker import tracking

        return _json(results.show(record, folder.name, tracking.run_ids(record, Runs.default())))
    terminal.say(f"{folder.name}: {record.study['question']}")
    terminal.say(f"{record.state}" + (f" ({record.reason})" if record.reason else ""))
    terminal.print_trials(record)
    terminal.print_verdict(record)


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
        return _json([entry.to_plain() for entry in results.leaderboard(record)])
    terminal.print_leaderboard(record)
    terminal.print_verdict(record)


@app.command()
@elsewhere
def report(study: RunName) -> None:
    """Write a study's HTML page anew and say where it is."""
    from orchestrator.report import write_report

    folder, record = _record(study)
    write_report(record, folder)
    folder.publish(folder.report)
    terminal.say(str(folder.report))


@app.command()
@elsewhere
def track(study: RunName) -> None:
    """Bring MLflow up to date with a study's journal; on a complete one it changes nothing."""
    from orchestrator import launch
    from orchestrator.tracker import follower, tracking

    folder, record = _record(study)
    if is_written(folder.journal):
        raise UserError(f"'{study}' is running: its own process keeps MLflow up to date")
    launch.close_dead(folder)
    follower.track(folder, Runs.default())
    where = redacted(tracking.tracker_uri(Runs.default(), record.study))
    terminal.say(f"{folder.name}: {len(record.trials)} trials are in {where}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port it listens at.")] = 5000,
    host: Annotated[str, typer.Option(help="The address it listens at; others than this machine's own log in.")] = (
        "127.0.0.1"
    ),
    allowed_host: AllowedHosts = None,
    login: Annotated[bool, typer.Option("--login/--no-login", help="Ask for a password on a network address.")] = True,
) -> None:
    """Start the MLflow UI on this folder's runs: for this machine, or with --host and a password for others."""
    from orchestrator.tracker.server import make_server

    server = make_server(Runs.default(), host, port, allowed_host or (), login)
    for line in server.words:
        terminal.say(line)
    server.start()


@app.command()
def doctor(
    study: AnyStudy = None, overrides: Overrides = None, cluster: ClusterPath = None, as_json: AsJson = False
) -> None:
    """Look for what would break a run: here, on every node of RAY_ADDRESS, or on the hosts of a cluster's file."""
    from orchestrator.health import checkup
    from orchestrator.health import doctor as judge
    from orchestrator.machines import clusterfile

    asked = checkup.Asked.of(study, overrides or []) if study else checkup.Asked()
    hosts, expected = checkup.examine(asked, Runs.default(), clusterfile.load(cluster) if cluster else None)
    found = judge.findings(hosts, expected)
    _json(judge.to_plain(hosts, found)) if as_json else terminal.print_findings(found)
    if breaking := judge.count_breaking(found):
        things = f"{breaking} thing{'s' if breaking > 1 else ''}"
        raise EnvironmentProblem(f"{things} would break a run", "type what stands below each, then doctor again")


@app.command()
def version() -> None:
    """Print the version."""
    terminal.say(__version__)


def _run(ref: str, overrides: list[str]) -> None:
    runs, asked = Runs.default(), load_study(ref, overrides)
    from orchestrator import launch  # matplotlib and the rest are not needed to say that a study is wrong

    outcome = launch.run_study(asked, runs, terminal.LiveStudy())
    _conclude(outcome, runs)
    own_data = (
        "" if asked.data_name != BUILTIN else f"   or on your own data: orchestrator run {asked.task} data=FOLDER"
    )
    terminal.say(f"next: orchestrator show {outcome.folder.name}{own_data}")


def _conclude(outcome: Outcome, runs: Runs) -> None:
    """Say how a study ended; raises the error whose exit code tells programs the same."""
    folder, record, name = outcome.folder, outcome.record, outcome.folder.name
    if record.trials:
        terminal.print_leaderboard(record, limit=10)
    terminal.print_verdict(record)
    terminal.say(f"report: {_shorter(folder.report)}")
    terminal.say(
        "MLflow: orchestrator ui" + ("" if runs.root == Path("runs").absolute() else f"   (runs in {runs.root})")
    )
    if outcome.untracked:
        terminal.say(f"not everything is tracked: {outcome.untracked}; send it later: orchestrator track {name}")
    again = f"go on: orchestrator resume {name}"
    if record.state is State.STOPPED:
        done = record.count(State.FINISHED)
        raise Interrupted(
            f"{record.reason} with {done} of {record.planned} trials finished; all is kept in {_shorter(folder.root)}",
            f"see them: orchestrator leaderboard {name}; {again}",
        )
    if record.state is State.FAILED:
        failed = next((t.id for t in record.trials.values() if t.state is State.FAILED), "t0000")
        raise StudyFailed(
            record.reason or "no trial gave a result", f"see why: orchestrator logs {name} {failed}; {again}"
        )
    if record.reason:
        terminal.say(f"ended early: {record.reason}; with more budget, {again} KEY=VALUE")


def _running(name: str, otherwise: str | None = None) -> StudyFolder:
    """The folder of a study that runs now. Raises `UserError` when it does not."""
    folder = Runs.default().study(name)
    if not is_written(folder.journal):
        raise UserError(f"'{name}' is not running", otherwise or f"see how it ended: orchestrator show {name}")
    return folder


def _close_dead(runs: Runs) -> None:
    """Studies whose process died are STOPPED, here and in MLflow."""
    for folder in runs.studies():
        record = load_record(folder.journal)
        if record.state is State.STOPPED and record.ended is None:
            from orchestrator import launch
            from orchestrator.tracker import follower

            try:
                if launch.close_dead(folder):
                    follower.track(folder, runs)
            except EnvironmentProblem as error:
                terminal.complain(f"{folder.name}: {error}", f"close its runs later: orchestrator track {folder.name}")


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


def _earlier_run(runs: Runs, name: str) -> tuple[float | None, int | None]:
    """Seconds a trial took and bytes of its checkpoint, in the newest run of this study that has finished trials."""
    for folder in reversed(runs.studies()):
        record = load_record(folder.journal)
        if record.study.get("name") == name and (seconds := results.seconds_per_trial(record)):
            largest = max(checkpoint.largest(folder.trial(trial).checkpoint) for trial in record.trials)
            return seconds, largest or None
    return None, None


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _json(rows)
    elif rows:
        terminal.print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        terminal.say("there are none yet; try: orchestrator demo")


def _json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    """NaN and infinities as null, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _shorter(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def main() -> None:
    """Run the command and turn errors into messages and exit codes."""
    try:
        app(standalone_mode=True)
    except OrchestratorError as error:
        terminal.complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        terminal.complain("interrupted before any trial was started", None)
        sys.exit(130)
    except BrokenPipeError:  # `orchestrator show S | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        terminal.complain(
            f"the disk of {error.filename or Runs.default().root} is full", "make room, then run it again"
        )
        sys.exit(3)


if __name__ == "__main__":
    main()
