"""The ``orchestrator`` command: parse, call, render. No logic.

Exit codes: 0 done, 1 the study failed, 2 what was typed or written is wrong, 3 the environment is, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import __version__
from orchestrator.analysis import standings
from orchestrator.commands import cluster, completion, data, insight, look
from orchestrator.commands.cluster import AsJson, elsewhere, submitted
from orchestrator.commands.explain import Grouped, UsageError, explained
from orchestrator.commands.look import Overrides, RunName, TrialId
from orchestrator.errors import Interrupted, OrchestratorError, StudyFailed, UserError
from orchestrator.history import checkpoint
from orchestrator.history.folder import Runs, StudyFolder, shorter
from orchestrator.history.journal import is_written, load_record
from orchestrator.history.states import State
from orchestrator.running.control import Command, order
from orchestrator.studies import chain, registry
from orchestrator.studies.plan import make_plan
from orchestrator.studies.study import BUILTIN
from orchestrator.studies.studyfile import load_study
from orchestrator.terminal.lines import complain, print_json, say
from orchestrator.terminal.live import LiveStudy
from orchestrator.terminal.tables import print_leaderboard, print_list, print_table, print_verdict

if TYPE_CHECKING:
    from orchestrator.running.launch import Outcome

app = typer.Typer(
    cls=Grouped,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From a question to a verdict: experiments on this machine or a cluster.",
)

StudyRef = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A shipped study's name, or a YAML file.", autocompletion=completion.studies),
]
AnyTrial = Annotated[
    str | None,
    typer.Argument(metavar="TRIAL", help="Without it the whole study is meant.", autocompletion=completion.trials),
]
RetryTrials = Annotated[
    list[str] | None, typer.Option("--retry", metavar="TRIAL", help="Try this trial, which has ended, again.")
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Its name: lower-case letters, digits and '_'.")]


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks: what can be studied."""
    found = [registry.task(name) for name in registry.task_names()]
    rows = [{"task": t.name, "question": t.question, "metric": t.metric, "goal": t.goal} for t in found]
    print_list(rows, as_json)


@app.command()
def studies(as_json: AsJson = False) -> None:
    """List the studies that ship with the tasks."""
    rows = []
    for name in registry.study_names():
        study = load_study(name, check_data=False)
        rows.append({"study": name, "task": study.task, "question": study.question})
    print_list(rows, as_json)


@app.command()
def plan(study: StudyRef, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a study would run, without running it."""
    from orchestrator.running.launch import local_node

    runs = Runs.default()
    asked = chain.pinned(load_study(study, overrides or []), runs)
    if asked.notify is not None:
        asked.notify.check()
    planned = make_plan(asked, [local_node()])
    plain = planned.to_plain(*_earlier_run(runs, asked.name))
    if as_json:
        return print_json(plain)
    estimate = plain["estimate"]
    say(f"{asked.name}: {asked.question}")
    if asked.inputs is not None:
        say(f"reads what {asked.inputs} left")
    say(f"{len(planned.trials)} trials, {planned.concurrent} at once ({estimate['waves']} waves)")
    if estimate["hours"] is None:
        say("time: unknown until a trial of this study has run here")
    else:
        gpu = f", {estimate['gpu_hours']:.1f} GPU-hours" if estimate["gpu_hours"] else ""
        each = f"{estimate['seconds_per_trial']:.1f} s a trial in its last run"
        say(f"time: about {60 * estimate['hours']:.1f} min{gpu} ({each})")
    size = estimate["checkpoint_bytes"]
    known = f", about {estimate['disk_bytes'] / 1e6:.1f} MB ({size / 1e6:.2f} MB each in its last run)" if size else ""
    say(f"disk: at most {checkpoint.KEEP} checkpoints a trial{known}")
    if asked.notify is not None:
        say(f"notifies: {'the webhook' if asked.notify.is_webhook else 'the command'} {asked.notify}")
    for note in planned.notes:
        say(f"note: {note}")
    rows = []
    for trial in planned.trials:
        chosen = "proposed when it starts" if trial.params is None else ""
        rows.append((trial.id, trial.seed, chosen or " ".join(f"{k}={v}" for k, v in (trial.params or {}).items())))
    print_table(["trial", "seed", "parameters"], rows)


@app.command()
@submitted
def run(study: StudyRef, overrides: Overrides = None) -> None:
    """Run a study to its verdict. Ctrl-C ends it in order."""
    _run(study, overrides or [])


@app.command()
@submitted
def resume(study: RunName, overrides: Overrides = None, retry: RetryTrials = None) -> None:
    """Go on with a study that was interrupted, or give it more.

    Finished trials stay; the others go on from their last checkpoints. More of it: search.trials=64.
    """
    from orchestrator.running import launch

    runs = Runs.default()
    _conclude(launch.resume_study(study, overrides or [], runs, LiveStudy(), retry or []), runs)


@app.command()
@elsewhere
def stop(study: RunName, trial: AnyTrial = None) -> None:
    """Stop a running study in order, or one of its trials.

    From another terminal than the one it runs in.
    """
    say(order(_running(study), Command.STOP, trial))


@app.command()
@elsewhere
def retry(study: RunName, trial: TrialId) -> None:
    """Try a failed or stopped trial of a running study again.

    It goes on from its last checkpoint.
    """
    say(order(_running(study, f"orchestrator resume {study} --retry {trial}"), Command.RETRY, trial))


@app.command()
def demo() -> None:
    """Run a small search on drawn dogs: it needs no download."""
    _run("dogs-demo", [])


@app.command()
def new(task: TaskName) -> None:
    """Write a new task with its test and its study.

    Three short files that run as they are, to be changed into your own. Nothing is overwritten.
    """
    from orchestrator.studies import scaffold

    paths = scaffold.create(task)
    for what, path in paths.items():
        say(f"{what:6} {shorter(path)}")
    say("next, line by line:")
    folder = paths["task"].parent
    if str(folder) not in os.environ.get("ORCHESTRATOR_TASKS", "").split(os.pathsep):
        say(f"  export ORCHESTRATOR_TASKS={shlex.quote(str(folder))}")
    say(f"  {shlex.quote(sys.executable)} -m pytest {shlex.quote(str(shorter(paths['test'])))}")
    for command in ("plan", "run"):
        say(f"  orchestrator {command} {shlex.quote(str(shorter(paths['study'])))}")


app.add_typer(look.app)
app.add_typer(data.app, name="data")
app.add_typer(insight.app)
app.add_typer(cluster.app, name="cluster")
app.command()(cluster.attach)


@app.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def _run(ref: str, overrides: list[str]) -> None:
    runs, asked = Runs.default(), load_study(ref, overrides)
    from orchestrator.running import launch  # matplotlib and the rest are not needed to say that a study is wrong

    outcome = launch.run_study(asked, runs, LiveStudy())
    _conclude(outcome, runs)
    own_data = (
        "" if asked.data_name != BUILTIN else f"   or on your own data: orchestrator run {asked.task} data=FOLDER"
    )
    say(f"next: orchestrator show {outcome.folder.name}{own_data}")


def _conclude(outcome: Outcome, runs: Runs) -> None:
    """Say how a study ended; raises the error whose exit code tells programs the same."""
    folder, record, name = outcome.folder, outcome.record, outcome.folder.name
    if record.trials:
        print_leaderboard(record, limit=10)
    print_verdict(record)
    say(f"report: {shorter(folder.report)}")
    say("MLflow: orchestrator ui" + ("" if runs.root == Path("runs").absolute() else f"   (runs in {runs.root})"))
    if outcome.untracked:
        say(f"not everything is tracked: {outcome.untracked}; send it later: orchestrator track {name}")
    again = f"go on: orchestrator resume {name}"
    if record.state is State.STOPPED:
        done = record.count(State.FINISHED)
        raise Interrupted(
            f"{record.reason} with {done} of {record.planned} trials finished; all is kept in {shorter(folder.root)}",
            f"see them: orchestrator leaderboard {name}; {again}",
        )
    if record.state is State.FAILED:
        failed = next((t.id for t in record.trials.values() if t.state is State.FAILED), "t0000")
        raise StudyFailed(
            record.reason or "no trial gave a result", f"see why: orchestrator logs {name} {failed}; {again}"
        )
    if record.reason:
        say(f"ended early: {record.reason}; with more budget, {again} KEY=VALUE")


def _running(name: str, otherwise: str | None = None) -> StudyFolder:
    """The folder of a study that runs now. Raises `UserError` when it does not."""
    folder = Runs.default().study(name)
    if not is_written(folder.journal):
        raise UserError(f"'{name}' is not running", otherwise or f"see how it ended: orchestrator show {name}")
    return folder


def _earlier_run(runs: Runs, name: str) -> tuple[float | None, int | None]:
    """Seconds a trial took and bytes of its checkpoint, in the newest run of this study that has finished trials."""
    for folder in reversed(runs.studies()):
        record = load_record(folder.journal)
        if record.study.get("name") == name and (seconds := standings.seconds_per_trial(record)):
            largest = max(checkpoint.largest(folder.trial(trial).checkpoint) for trial in record.trials)
            return seconds, largest or None
    return None, None


def _called() -> int:
    """Run the command; what is wrong with the words that were typed is said as every other error."""
    try:
        code = app(standalone_mode=False, prog_name="orchestrator")
    except UsageError as error:
        raise explained(error) from error
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command and turn errors into messages and exit codes."""
    try:
        sys.exit(_called())
    except OrchestratorError as error:
        complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        complain("interrupted before any trial was started", None)
        sys.exit(130)
    except BrokenPipeError:  # `orchestrator show S | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"the disk of {error.filename or Runs.default().root} is full", "make room, then run it again")
        sys.exit(3)


if __name__ == "__main__":
    main()
