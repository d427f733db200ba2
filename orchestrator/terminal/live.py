"""What is shown while something goes on: a study that runs, files that come."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.analysis import standings
from orchestrator.analysis.standings import decimals
from orchestrator.history.folder import StudyFolder
from orchestrator.history.record import Record, TrialRecord
from orchestrator.history.states import State
from orchestrator.studies.plan import Plan
from orchestrator.studies.study import BUILTIN, NO_DATA
from orchestrator.terminal.lines import SOFT, STYLE, assignments, console, duration, errors

_REFRESH_SECONDS = 0.25
_PATIENCE_SECONDS = 60.0  # without any trial at work; a first worker takes ten on two idle processors


class LiveStudy:
    """The running study as a table; nothing but a line at each trial's end when the output is no terminal."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._next = 0.0
        self._said: set[str] = set()
        self._open: list[str] = []  # trials that are still to be said to be over
        self._seen = 0  # how many of all trials have been in there
        self._before = 0  # trials that were over when this session began
        self._failures: dict[str, int] = {}
        self._stopping = False
        self._awaits = True  # the first trial of this session, and it has not been said why none begins

    def start(self, plan: Plan, folder: StudyFolder, record: Record) -> None:
        self._plan, self._folder, self._record, self._began = plan, folder, record, time.monotonic()
        study = plan.study
        data = {BUILTIN: ", on built-in data", NO_DATA: ""}.get(study.data_name, f", on {study.data_name}")
        chained = f", on what {study.inputs} left" if study.inputs is not None else ""
        console.print(f"[bold]{escape(folder.name)}[/]: {escape(study.question)}", soft_wrap=SOFT)
        console.print(
            f"{len(plan.trials)} trials, {plan.concurrent} at once{escape(data)}{escape(chained)}; "
            f"{study.search.algorithm}, scheduler {study.search.scheduler.kind}",
            soft_wrap=SOFT,
        )
        if record.sessions > 1:
            over = [trial for trial in record.trials.values() if not trial.is_open]
            self._said, self._before = {trial.id for trial in over}, len(over)
            self._failures = {trial.id: trial.failures for trial in record.trials.values()}
            console.print(
                f"resumed: {len(over)} trials are over, {len(record.trials) - len(over)} go on", soft_wrap=SOFT
            )
        for note in plan.notes:
            console.print(f"[dim]note: {escape(note)}[/]", soft_wrap=SOFT)
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stderr=False)
            self._live.start()

    def update(self, stopping: bool = False) -> None:
        if stopping and not self._stopping:
            self._stopping = True
            console.print("stopping in order; Ctrl-C again ends it at once", soft_wrap=SOFT)
            console.show_cursor()  # the second Ctrl-C leaves nobody to do it
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REFRESH_SECONDS
            self._tell_news()
            if self._awaits:
                self._tell_why_none_begins(now - self._began)
            if self._live is not None:
                self._live.update(self._table(), refresh=True)

    def _tell_news(self) -> None:
        """Of the trials that have not been said to be over: a look at all would take the longer the more there are."""
        trials = self._record.trials
        if len(trials) > self._seen:
            self._open += [id for id in itertools.islice(trials, self._seen, None) if id not in self._said]
            self._seen = len(trials)
        for trial in [trials[id] for id in self._open]:
            if trial.state.is_over:
                self._open.remove(trial.id)
                self._said.add(trial.id)
                self._trial_ended(trial)
            elif trial.failures > self._failures.get(trial.id, 0):
                self._failures[trial.id] = trial.failures
                self._trial_retried(trial)

    def _tell_why_none_begins(self, seconds: float) -> None:
        """Once, after a while without any trial at work: whoever waits for nothing should not have to guess why."""
        running = [trial for trial in self._record.trials.values() if trial.state is State.RUNNING]
        begun = len(self._said) > self._before or any(trial.pid is not None for trial in running)
        self._awaits = not begun and seconds < _PATIENCE_SECONDS
        if not begun and not self._awaits:
            console.print(f"[yellow]no trial has begun in {duration(seconds)}:[/] {_why_none(running)}", soft_wrap=SOFT)

    def stop(self) -> None:
        self._tell_news()
        if self._live is not None:
            self._live.stop()

    def warn(self, message: str, hint: str) -> None:
        errors.print(f"[bold yellow]warning:[/] {escape(message)}", soft_wrap=SOFT)
        errors.print(f"  → {escape(hint)}", soft_wrap=SOFT)

    def _trial_ended(self, trial: TrialRecord) -> None:
        if trial.state is State.FAILED:
            console.print(f"[red]{trial.id} failed:[/] {escape(trial.reason or '')}", soft_wrap=SOFT)
            console.print(f"  log: {escape(str(self._folder.trial(trial.id).log))}", style="dim", soft_wrap=True)
        elif self._live is None:
            metric, _ = standings.metric_of(self._record)
            console.print(
                f"{len(self._said)}/{self._plan.size} {trial.id} {trial.state} {metric}={decimals(trial.value(metric))}"
            )

    def _trial_retried(self, trial: TrialRecord) -> None:
        lines = (trial.traceback or "").strip().splitlines()
        why = trial.reason or (lines[-1] if lines else "it failed")
        console.print(f"[yellow]{trial.id} is tried again[/] from step {trial.saved}: {escape(why)}", soft_wrap=SOFT)

    def _table(self) -> Group:
        record = self._record
        metric, _ = standings.metric_of(record)
        shown = [t for t in record.trials.values() if t.state is State.RUNNING]
        over = sorted((t for t in record.trials.values() if t.state.is_over), key=lambda t: t.ended or 0)
        room = max(3, console.size.height - len(shown) - 8)
        table = Table(box=None, pad_edge=False)
        for name, width in (("trial", 5), ("state", 8), ("step", 4), (metric, max(6, len(metric)))):
            table.add_column(name, no_wrap=True, min_width=width)
        table.add_column("parameters", no_wrap=True, overflow="ellipsis")
        for trial in [*over[-room:], *shown]:
            row_end = escape(assignments(trial.chosen))
            if trial.state is State.RUNNING:
                row_end = _map_progress(trial) or (row_end if trial.steps else self._last_words(trial))
            state = f"[{STYLE[trial.state]}]{trial.state}[/]"
            table.add_row(trial.id, state, str(trial.steps), decimals(trial.value(metric)), row_end)
        total, new, elapsed = self._plan.size, len(self._said) - self._before, time.monotonic() - self._began
        left = f", about {duration(elapsed / new * (total - len(over)))} left" if new >= 2 else ""
        best = standings.best_so_far(record)
        waiting = len(record.trials) - len(over) - len(shown)
        wait = f", {waiting} wait" if waiting else ""
        line = f"{len(over)}/{total} trials done{wait}, {duration(elapsed)}{left}; best {metric} {decimals(best)}"
        return Group(table, Text(line, style="bold"))

    def _last_words(self, trial: TrialRecord) -> str:
        """What a trial that has not reported yet wrote to its log last: long preparations show here."""
        try:
            with self._folder.trial(trial.id).log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 500))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return "[dim]starting[/]"
        return f"[dim]{escape(lines[-1].split(': ', 1)[-1])}[/]" if lines else "[dim]starting[/]"


def _why_none(started: Sequence[TrialRecord]) -> str:
    if not started:
        return "there is no free place for one; 'orchestrator cluster status' says what runs on a cluster"
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load <= processors:
        return "the first worker processes are still starting"
    return (
        f"the first worker processes are still starting, and {processors} processors have work for {load:.0f} here; "
        "Ray's workers give way to others (nice 15), with RAY_worker_niceness=0 before the command they do not"
    )


def _map_progress(trial: TrialRecord) -> str:
    """The map that a trial is at: how far, how fast, how long still."""
    at = next(((name, done) for name, done in trial.maps.items() if done.ended is None), None)
    if at is None:
        return ""
    name, done = at
    filled = 20 * done.done // done.items if done.items else 20
    bar = f"[cyan]{'━' * filled}[/][dim]{'─' * (20 - filled)}[/]"
    rate = done.computed / max(1e-9, time.time() - done.started)
    pace = f"  {rate:.3g} items/s  {duration((done.items - done.done) / rate)} left" if rate else ""
    return f"{escape(name)} {bar} {done.done}/{done.items}{pace}"


class Downloads:
    """Files as they come: a bar for each; a line for each where the output is no terminal."""

    def __enter__(self) -> Downloads:
        from rich import progress  # takes its time, and is for this alone

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(20),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(compact=True),
        )
        self._tasks: dict[str, progress.TaskID] = {}
        self._bars = progress.Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        self._bars.console.print(escape(line), soft_wrap=SOFT)

    def moved(self, name: str, done: int, of: int) -> None:
        """``done`` of about ``of`` bytes of a file are here."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(escape(name), total=of)
            if not console.is_terminal:
                self.say(f"{name}: {of / 1e6:.1f} MB")
        self._bars.update(self._tasks[name], completed=done, total=max(of, done))
