"""Studies from Python: load one, run it, see its results as a table or a figure. ``import orchestrator`` gives these.

    >>> import orchestrator
    >>> study = orchestrator.load_study("angles", ["params.samples=100000"])
    >>> study.task, study.search.metric
    ('angles', 'ks_distance')

Then, in a notebook::

    results = orchestrator.run(study)          # or of one that has run: orchestrator.results("angles")
    results.to_pandas()                        # a row for each trial, best first
    results.curves()                           # matplotlib figures
    results.verdict
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.analysis import standings
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import load_record
from orchestrator.history.record import Record, TrialRecord
from orchestrator.studies.study import Study
from orchestrator.studies.studyfile import load_study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Results", "load_study", "results", "run"]


@dataclass(frozen=True)
class Results:
    """A study as its journal has it now. `results` reads it anew."""

    folder: StudyFolder
    record: Record

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        return self.record.state.value

    @property
    def verdict(self) -> str:
        """What the measurement supports, in a sentence; empty before the study has ended."""
        said = self.record.verdict
        return f"{said['support']}: {said['sentence']}" if said else ""

    @property
    def best(self) -> str | None:
        """The id of the trial that won, None while none has finished."""
        winner = standings.best(self.record)
        return winner.id if winner is not None else None

    def artifacts(self, trial: str) -> Path:
        """The folder with what a trial left behind. Raises `orchestrator.errors.UnknownName`."""
        from orchestrator.errors import UnknownName

        if trial not in self.record.trials:
            raise UnknownName("trial", trial, self.record.trials, f"study '{self.name}'")
        place = self.folder.trial(trial)
        place.obtain(place.artifacts)
        return place.artifacts

    def to_pandas(self) -> pd.DataFrame:
        """A row for each trial, best first, by the trial's id; runs of finalists come last.

        Columns: ``state``, ``of`` (the trial that a finalist's run repeats), ``seed``, ``steps``, ``seconds``,
        ``params.<name>`` for what is searched, ``metrics.<name>``.
        """
        import pandas as pd

        from orchestrator.studies.plan import ranked

        finalists = [trial for trial in self.record.trials.values() if trial.of is not None]
        rows = {trial.id: self._row(trial) for trial in [*ranked(self.record), *finalists]}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trial")

    def reports(self) -> pd.DataFrame:
        """The study's metric as it was reported: columns ``trial``, ``step``, ``value``."""
        import pandas as pd

        trials = self.record.trials.values()
        return pd.DataFrame({
            "trial": [trial.id for trial in trials for _ in trial.curve.steps],
            "step": [step for trial in trials for step in trial.curve.steps],
            "value": [value for trial in trials for value in trial.curve.values],
        })  # fmt: skip

    def curves(self, top: int = 5) -> Figure:
        """The metric by step of all trials, the ``top`` best finished ones in colour."""
        from matplotlib.figure import Figure

        metric, _ = standings.metric_of(self.record)
        figure = Figure(figsize=(9, 4))
        axes = figure.subplots()
        entries = [entry for entry in standings.leaderboard(self.record) if entry.trial in self.record.trials]
        finished = [entry.trial for entry in entries if entry.state == "FINISHED"][:top]
        for trial in reversed([entry.trial for entry in entries]):
            curve, label = self.record.trials[trial].curve, trial if trial in finished else None
            look: dict[str, Any] = {"linewidth": 2} if label else {"linewidth": 1, "color": "0.8"}
            axes.plot(list(curve.steps), list(curve.values), label=label, **look)
        axes.set(xlabel="step", ylabel=metric)
        if finished:
            axes.legend(reverse=True)
        return figure

    def figures(self) -> Mapping[str, Figure]:
        """What the task draws of all its finished trials, by name."""
        return standings.figures(self.record)

    def _row(self, trial: TrialRecord) -> dict[str, Any]:
        searched = {f"params.{name}": trial.params[name] for name in self.record.study["search"]["space"]}
        seconds = trial.seconds if trial.ended is not None else None
        about: dict[str, Any] = {"state": trial.state.value, "of": trial.of, "seed": trial.seed}
        about |= {"steps": trial.steps, "seconds": seconds}
        return about | searched | {f"metrics.{name}": value for name, value in trial.metrics.items()}


def results(study: str, runs: str | Path | None = None) -> Results:
    """The results of a study that has run, or runs, by its name.

    ``runs`` is the folder of studies; ``$ORCHESTRATOR_RUNS``, or ``runs`` here, unless given.
    Raises `orchestrator.errors.UnknownName`.
    """
    folder = _runs(runs).study(study)
    return Results(folder, load_record(folder.journal))


def run(study: Study | str, overrides: Sequence[str] = (), runs: str | Path | None = None) -> Results:
    """Run a study to its verdict and return its results; a name or a path is loaded with ``key=value`` overrides.

    It says in lines how it goes. An interrupt ends it in order and the results are of what is there; it goes on with
    ``orchestrator resume``. Raises `orchestrator.errors.UserError` when it cannot run as asked.
    """
    from orchestrator.errors import UserError
    from orchestrator.running import launch
    from orchestrator.terminal.live import LiveStudy

    if isinstance(study, Study) and overrides:
        raise UserError("overrides go with a study's name or path, not with a study that is loaded already")
    asked = study if isinstance(study, Study) else load_study(study, overrides)
    outcome = launch.run_study(asked, _runs(runs), LiveStudy())
    return Results(outcome.folder, outcome.record)


def _runs(given: str | Path | None) -> Runs:
    return Runs.default() if given is None else Runs(Path(given).expanduser().absolute())
