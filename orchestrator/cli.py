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
from typing import Annotated, Any

import typer

from orchestrator import __version__, registry, results, terminal
from orchestrator.errors import Interrupted, OrchestratorError, StudyFailed, UnknownName, UserError
from orchestrator.folder import Runs, StudyFolder
from orchestrator.journal import Record, load_record
from orchestrator.plan import make_plan
from orchestrator.states import State
from orchestrator.study import load_study

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

StudyRef = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study's name, or a YAML file.")]
RunName = Annotated[str, typer.Argument(metavar="STUDY", help="The name of a study that has run.")]
TrialId = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, for example t0003.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example search.trials=8 data=PATH.")
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
    plain = planned.to_plain(_time_of_earlier_run(runs, asked.name))
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
    for note in planned.notes:
        terminal.say(f"note: {note}")
    rows = []
    for trial in planned.trials:
        chosen = "proposed when it starts" if trial.params is None else ""
        rows.append((trial.id, trial.seed, chosen or " ".join(f"{k}={v}" for k, v in (trial.params or {}).items())))
    terminal.print_table(["trial", "seed", "parameters"], rows)


@app.command()
def run(study: StudyRef, overrides: Overrides = None) -> None:
    """Run a study to its verdict. Ctrl-C ends it in order."""
    _run(study, overrides or [])


@app.command()
def demo() -> None:
    """Run the main job on drawn dogs: a small search that needs no download."""
    _run("dogs-demo", [])


@app.command()
def ps(as_json: AsJson = False) -> None:
    """List the studies that have run or are running here."""
    rows = [results.summary(load_record(folder.journal), folder.name) for folder in Runs.default().studies()]
    if as_json:
        return _json(rows)
    for row in rows:
        row["started"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"]))
    _list(rows, False)


@app.command()
def show(study: RunName, as_json: AsJson = False) -> None:
    """Show a study and each of its trials."""
    folder, record = _record(study)
    if as_json:
        from orchestrator import tracking

        return _json(results.show(record, folder.name, tracking.run_ids(record, Runs.default())))
    terminal.say(f"{folder.name}: {record.study['question']}")
    terminal.say(f"{record.state}" + (f" ({record.reason})" if record.reason else ""))
    terminal.print_trials(record)
    terminal.print_verdict(record)


@app.command()
def logs(study: RunName, trial: TrialId) -> None:
    """Print what a trial wrote."""
    folder, record = _record(study)
    if trial not in record.trials:
        raise UnknownName("trial", trial, record.trials, f"study '{study}'")
    log = folder.trial(trial).log
    if log.exists():
        sys.stdout.write(log.read_text(encoding="utf-8", errors="replace"))
    if error := record.trials[trial].traceback:
        sys.stdout.write(error)


@app.command()
def leaderboard(study: RunName, as_json: AsJson = False) -> None:
    """Rank a study's trials, best first."""
    _, record = _record(study)
    if as_json:
        return _json([entry.to_plain() for entry in results.leaderboard(record)])
    terminal.print_leaderboard(record)
    terminal.print_verdict(record)


@app.command()
def report(study: RunName) -> None:
    """Write a study's HTML page anew and say where it is."""
    from orchestrator.report import write_report

    folder, record = _record(study)
    write_report(record, folder)
    terminal.say(str(folder.report))


@app.command()
def track(study: RunName) -> None:
    """Bring MLflow up to date with a study's journal; on a complete one it changes nothing."""
    from orchestrator import tracking

    folder, record = _record(study)
    tracking.track(folder, Runs.default())
    where = tracking.tracker_uri(Runs.default(), record.study)
    terminal.say(f"{folder.name}: {len(record.trials)} trials are in {where}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Start the MLflow UI on this folder's runs, for this machine only."""
    runs = Runs.default()
    if not runs.tracker.exists():
        raise UserError(f"nothing has been tracked in {runs.root} yet", "run a study first: orchestrator demo")
    terminal.say(f"MLflow UI: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    store = ["--backend-store-uri", f"sqlite:///{runs.tracker}", "--default-artifact-root", str(runs.tracker_artifacts)]
    os.execv(sys.executable, [*server, *store])


@app.command()
def version() -> None:
    """Print the version."""
    terminal.say(__version__)


def _run(ref: str, overrides: list[str]) -> None:
    runs, asked = Runs.default(), load_study(ref, overrides)
    from orchestrator import launch  # matplotlib and the rest are not needed to say that a study is wrong

    outcome = launch.run_study(asked, runs, terminal.LiveStudy())
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
    if record.state is State.STOPPED:
        done = record.count(State.FINISHED)
        raise Interrupted(
            f"interrupted with {done} of {record.planned} trials finished; they are kept in {_shorter(folder.root)}",
            f"see them: orchestrator leaderboard {name}; run the study again: orchestrator run {ref}",
        )
    if record.state is State.FAILED:
        failed = next(iter(record.trials), "t0000")
        raise StudyFailed("no trial gave a result", f"see why: orchestrator logs {name} {failed}")
    own_data = "" if asked.data else f"   or on your own data: orchestrator run {asked.task} data=FOLDER"
    terminal.say(f"next: orchestrator show {name}{own_data}")


def _record(name: str) -> tuple[StudyFolder, Record]:
    folder = Runs.default().study(name)
    return folder, load_record(folder.journal)


def _time_of_earlier_run(runs: Runs, name: str) -> float | None:
    """Seconds a trial took in the newest run of this study that has finished ones."""
    for folder in reversed(runs.studies()):
        record = load_record(folder.journal)
        if record.study.get("name") == name and (seconds := results.seconds_per_trial(record)):
            return seconds
    return None


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
        terminal.complain("interrupted", None)
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
