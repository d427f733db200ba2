"""Journal → MLflow: the only importer of ``mlflow``.

A `Projection` turns journal events into runs: one for the study, one nested in it for each trial. Every run carries the
study's uid and the trial's id as tags, so a projection started anew finds the runs that exist and goes on with them;
metrics keep the journal's steps and times, so sending them again changes nothing. `Follower` does this from a thread
while the study runs; `track` does it once, for a study that has ended or whose tracker was away.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import math
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator import registry, results
from orchestrator.errors import EnvironmentProblem
from orchestrator.folder import Runs, StudyFolder
from orchestrator.journal import (
    Event,
    Record,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialPlaced,
    TrialRecord,
    TrialStarted,
    read,
)  # fmt: skip
from orchestrator.states import State
from tasks import serving

FLUSH_SECONDS = 1.0
# MLflow takes 1,000 values in one log_batch, of which 100 may be params and 100 tags; what is longer than its limits
# for one value is cut here and whole in the journal.
_MAX_METRICS = 800
_MAX_PARAMS = 100
_MAX_PARAM = 6000
_MAX_TAG = 5000
_STATUS = {
    State.RUNNING: "RUNNING",
    State.FINISHED: "FINISHED",
    State.PRUNED: "FINISHED",
    State.FAILED: "FAILED",
    State.STOPPED: "KILLED",
}

for _name, _value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}.items():
    os.environ.setdefault(_name, _value)


def tracker_uri(runs: Runs, study: Mapping[str, Any]) -> str:
    """Where a study is tracked: its ``tracking.uri``, ``MLFLOW_TRACKING_URI``, or the store beside the runs."""
    given = (study.get("tracking") or {}).get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{runs.tracker}"


class Projection:
    """Sends journal events to one tracker. Not safe for use from several threads."""

    def __init__(self, folder: StudyFolder, runs: Runs) -> None:
        self._folder, self._runs = folder, runs
        self._record = Record()
        self._ids: dict[str, str] = {}  # trial id → run id; "" is the study's own run
        self._client: Any = None
        self._experiment = ""

    def send(self, events: Iterable[Event]) -> None:
        """Bring the tracker to where these events lead. Raises `EnvironmentProblem` when it cannot be reached.

        After an error the same events can be sent again, by this projection or a new one.
        """
        by_trial: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_trial[getattr(event, "trial", "")].append(event)
        try:
            with _quiet():
                for event in by_trial.pop("", []):
                    self._study_event(event, by_trial)
                self._trials(by_trial)
        except _errors() as error:
            raise EnvironmentProblem(f"the tracker refused or did not answer: {_first_line(error)}") from error

    def _study_event(self, event: Event, by_trial: dict[str, list[Event]]) -> None:
        if isinstance(event, StudyStarted):
            self._record.apply(event)
            self._start_study(event)
        elif isinstance(event, StudyEnded):
            self._trials(by_trial)
            by_trial.clear()
            self._record.apply(event)
            self._end_study(event)

    # ------------------------------------------------------------------------------------------------------- trials

    def _trials(self, by_trial: Mapping[str, list[Event]]) -> None:
        for trial, events in by_trial.items():
            self._trial(trial, events)

    def _trial(self, id: str, events: list[Event]) -> None:
        """All new events of one trial: at most one run created and one batch logged."""
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Metric] = []
        params: list[Param] = []
        tags: dict[str, str] = {}
        end: TrialEnded | None = None
        for event in events:
            self._record.apply(event)
            if isinstance(event, TrialStarted):
                params = [Param(name, str(value)[:_MAX_PARAM]) for name, value in event.params.items()]
                tags |= {"state": State.RUNNING, "seed": str(event.seed)}
            elif isinstance(event, TrialPlaced):
                tags |= {"node": event.node}
            elif isinstance(event, Reported):
                metrics += [Metric(k, v, _millis(event.at), event.step) for k, v in event.metrics.items()]
            elif isinstance(event, TrialEnded):
                end = event
                metrics += self._final_metrics(id, event)
                tags |= {"state": event.state} | ({"reason": event.reason} if event.reason else {})
        run = self._run_of(self._record.trials[id])
        batches = max(1, math.ceil(len(metrics) / _MAX_METRICS), math.ceil(len(params) / _MAX_PARAMS))
        for i in range(batches):
            self._client.log_batch(
                run,
                metrics[i * _MAX_METRICS : (i + 1) * _MAX_METRICS],
                params[i * _MAX_PARAMS : (i + 1) * _MAX_PARAMS],
                [RunTag(k, v[:_MAX_TAG]) for k, v in tags.items()] if i == 0 else [],
            )
        if end is not None:
            self._end_trial(run, id, end)

    def _final_metrics(self, id: str, end: TrialEnded) -> list[Any]:
        """The final metrics at the last step, without those that the last report said already."""
        from mlflow.entities import Metric

        reports = self._record.trials[id].reports
        step, said = (reports[-1].step, reports[-1].metrics) if reports else (0, {})
        return [Metric(k, v, _millis(end.at), step) for k, v in end.metrics.items() if said.get(k) != v]

    def _run_of(self, trial: TrialRecord) -> str:
        if trial.id not in self._ids:
            tags = {
                "mlflow.parentRunId": self._ids[""],
                "orchestrator.study": self._record.uid,
                "orchestrator.trial": trial.id,
            }
            self._ids[trial.id] = self._create(_trial_name(trial), trial.started, tags)
        return self._ids[trial.id]

    def _end_trial(self, run: str, id: str, end: TrialEnded) -> None:
        folder = self._folder.trial(id)
        if folder.artifacts.is_dir() and any(folder.artifacts.iterdir()):
            self._client.log_artifacts(run, str(folder.artifacts))
        if folder.log.exists() and folder.log.stat().st_size:
            self._client.log_artifact(run, str(folder.log))
        if end.traceback:
            self._client.log_text(run, end.traceback, "traceback.txt")
        self._client.set_terminated(run, _STATUS[end.state], _millis(end.at))

    # -------------------------------------------------------------------------------------------------------- study

    def _start_study(self, event: StudyStarted) -> None:
        """Connect, find or create the experiment and the study's run, and learn which trials have runs already."""
        import mlflow

        uri = tracker_uri(self._runs, event.study)
        if uri == f"sqlite:///{self._runs.tracker}":
            self._runs.root.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._experiment = self._find_experiment(event.study["name"], embedded=uri.startswith("sqlite:///"))
        self._ids = self._find_runs()
        data = event.study["data"]
        tags = {
            "orchestrator.study": event.uid,
            "task": event.study["task"],
            "data": "built-in" if data == "builtin" else str(data),
            "state": State.RUNNING,
            "mlflow.note.content": f"**{event.study['question']}**\n\n{event.trials} trials planned.",
        }
        if "" not in self._ids:
            self._ids[""] = self._create(self._folder.name, event.at, tags)
            for path in (self._folder.study, self._folder.environment):
                if path.exists():
                    self._client.log_artifact(self._ids[""], str(path))

    def _find_experiment(self, name: str, embedded: bool) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                self._client.restore_experiment(found.experiment_id)
            return found.experiment_id
        place = (self._runs.tracker_artifacts / name).as_uri() if embedded else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI then shows training, not chat models
        return self._client.create_experiment(name, artifact_location=place, tags=kind)

    def _find_runs(self) -> dict[str, str]:
        ids: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.`orchestrator.study` = '{self._record.uid}'", page_token=token
            )
            ids |= {run.data.tags.get("orchestrator.trial", ""): run.info.run_id for run in page}
            token = page.token
            if not token:
                return ids

    def _create(self, name: str, started: float, tags: dict[str, str]) -> str:
        tags |= {"mlflow.user": getpass.getuser(), "mlflow.source.name": f"orchestrator run {self._folder.name}"}
        run = self._client.create_run(self._experiment, start_time=_millis(started), tags=tags, run_name=name)
        return run.info.run_id

    def _end_study(self, event: StudyEnded) -> None:
        """The parent's verdict, numbers and files; the best trial's model; then the run is closed."""
        from mlflow.entities import Metric, RunTag

        run, best = self._ids[""], results.best(self._record)
        metric, _ = results.metric_of(self._record)
        metrics = [
            Metric(f"trials/{s.lower()}", self._record.count(s), _millis(event.at), 0) for s in State if s.is_over
        ]
        if best is not None:
            metrics += [Metric(f"best/{k}", v, _millis(event.at), 0) for k, v in best.metrics.items()]
        tags = {"state": str(event.state), "mlflow.note.content": self._note(best, metric)}
        tags |= {"reason": event.reason} if event.reason else {}
        if best is not None:
            tags |= {"best_trial": best.id, "best_run": self._ids[best.id]}
        if event.verdict:
            tags |= {"verdict": f"{event.verdict['support']}: {event.verdict['sentence']}"}
        self._client.log_batch(run, metrics, [], [RunTag(k, v[:_MAX_TAG]) for k, v in tags.items()])
        if self._folder.report.exists():
            self._client.log_artifact(run, str(self._folder.report))
        self._client.set_terminated(run, _STATUS[event.state], _millis(event.at))
        if best is not None:
            try:
                self._log_model(best)
            except Exception as error:  # a task's own export may fail in any way; the rest is tracked already
                raise EnvironmentProblem(f"the model of {best.id} was not logged: {_first_line(error)}") from error

    def _note(self, best: TrialRecord | None, metric: str) -> str:
        study, verdict = self._record.study, self._record.verdict
        lines = [f"**{study['question']}**", ""]
        if study["data"] == "builtin":
            lines += ["Ran on the task's **built-in data**, not on real data.", ""]
        if verdict:
            lines += [f"Verdict: *{verdict['support']}* — {verdict['sentence']}", ""]
        if best is not None:
            link = f"#/experiments/{self._experiment}/runs/{self._ids[best.id]}"
            chosen = ", ".join(f"{k} = {_short(v)}" for k, v in best.chosen.items())
            lines += [
                f"Best: [{best.id}]({link}) with {metric} {best.value(metric):.4g}" + (f" ({chosen})" if chosen else "")
            ]
        return "\n".join(lines)

    def _log_model(self, best: TrialRecord) -> None:
        """The best trial's model as an MLflow model of its run, once."""
        import mlflow
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import infer_signature

        model = registry.task(self._record.study["task"]).model
        run = self._ids[best.id]
        if model is None or self._client.get_run(run).data.tags.get("model"):
            return
        self._folder.model.mkdir(exist_ok=True)
        example = model.export(self._folder.trial(best.id).artifacts, self._folder.model)
        serving.mark(self._folder.model, self._record.study["task"])
        answer = serving.load(self._folder.model).predict(example)
        requirements = [f"{name}=={metadata.version(name)}" for name in model.packages]
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "model"
            mlflow.pyfunc.save_model(
                str(target),
                loader_module="tasks.serving",
                data_path=str(self._folder.model),
                code_paths=[str(Path(serving.__file__).parent)],
                signature=infer_signature(example, answer),
                input_example=example,
                pip_requirements=requirements,
            )
            logged = self._client.create_logged_model(self._experiment, name="best", source_run_id=run)
            self._client.log_model_artifacts(logged.model_id, str(target))
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=best.steps)])
        for id in (run, self._ids[""]):
            self._client.set_tag(id, "model", f"models:/{logged.model_id}")


class Follower:
    """Follows a journal from its own thread and keeps a tracker up to date. Trials and the search never wait for it."""

    def __init__(self, folder: StudyFolder, runs: Runs) -> None:
        self._folder, self._runs = folder, runs
        self._done = threading.Event()
        self._error: EnvironmentProblem | None = None
        self._thread = threading.Thread(target=self._follow, name="tracker", daemon=True)
        self._thread.start()

    @property
    def error(self) -> EnvironmentProblem | None:
        """Why the tracker is behind, or None while it keeps up."""
        return self._error

    def finish(self, patience: float = 120.0) -> EnvironmentProblem | None:
        """Send what is left. Returns why when that fails or takes longer than ``patience`` seconds."""
        self._done.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            return EnvironmentProblem(f"the tracker had not taken everything after {patience:g} s")
        return self._error

    def _follow(self) -> None:
        projection, offset, wait = Projection(self._folder, self._runs), 0, FLUSH_SECONDS
        while True:
            last = self._done.wait(wait)
            events = list(read(self._folder.journal, offset))
            try:
                if events:
                    projection.send(event for event, _ in events)
                    offset = events[-1][1]
                self._error, wait = None, FLUSH_SECONDS
            except EnvironmentProblem as error:
                # A fresh projection from the beginning: what has arrived is found there and not sent twice.
                self._error, wait = error, min(30.0, 2 * wait)
                projection, offset = Projection(self._folder, self._runs), 0
            if last:
                return


def track(folder: StudyFolder, runs: Runs) -> None:
    """Rebuild a study in its tracker from the journal. Changes nothing that is complete already."""
    Projection(folder, runs).send(event for event, _ in read(folder.journal))


def run_ids(record: Record, runs: Runs) -> dict[str, str]:
    """The MLflow run of each trial in the embedded store; empty when there is none or the tracker is elsewhere."""
    import mlflow

    if not record.uid or not runs.tracker.exists() or tracker_uri(runs, record.study) != f"sqlite:///{runs.tracker}":
        return {}
    with _quiet():
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")
        experiment = client.get_experiment_by_name(record.study["name"])
        if experiment is None:
            return {}
        found = client.search_runs(
            [experiment.experiment_id], f"tags.`orchestrator.study` = '{record.uid}'", max_results=50_000
        )
    return {run.data.tags.get("orchestrator.trial", ""): run.info.run_id for run in found}


def _errors() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError)


@contextlib.contextmanager
def _quiet() -> Any:
    """MLflow and Alembic log each migration of a new store at INFO."""
    import mlflow  # noqa: F401 - its import sets its loggers' levels

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield


def _trial_name(trial: TrialRecord) -> str:
    """The id and the first two searched values: enough to tell runs apart in a list, short enough for a title."""
    chosen = " ".join(f"{name}={_short(value)}" for name, value in list(trial.chosen.items())[:2])
    return f"{trial.id} {chosen}".strip()[:100]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _millis(at: float) -> int:
    return 0 if math.isnan(at) else int(at * 1000)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
