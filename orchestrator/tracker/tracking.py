"""Journal → MLflow: with `models`, the only importer of ``mlflow``.

A `Projection` turns journal events into runs: one for the study, one nested in it for each trial. Every run carries the
study's uid and the trial's id as tags, so a projection started anew finds the runs that exist and goes on with them;
metrics keep the journal's steps and times, so sending them again changes nothing. What the runs show is said in
`runview`; when events are sent, in `follower`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.analysis import standings
from orchestrator.errors import EnvironmentProblem
from orchestrator.history.events import Event, StudyStarted
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.record import Record
from orchestrator.studies import registry
from orchestrator.tracker import models, uploads
from orchestrator.tracker.runview import (
    NOTE,
    STUDY,
    Status,
    Update,
    View,
    datasets,
    millis,
    note,
    pinned_inputs,
    trial_name,
)

_CURSOR = "orchestrator.journal"  # on the study's run: the journal up to this byte has arrived
_UID = "orchestrator.study"
_TRIAL = "orchestrator.trial"
_PARENT = "mlflow.parentRunId"
_CLOCKS_SECONDS = 1.0  # what the clocks of two machines may differ by

# MLflow would send a POST whose answer was lost again, and a run created twice is two runs. Whoever calls us tries
# again, with a projection that looks for what is there.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it asks the server for each run's name to print it


def load() -> None:
    """Import MLflow, which takes more than a second, at a time of the caller's choice."""
    import mlflow  # noqa: F401


def tracker_uri(runs: Runs, study: Mapping[str, Any]) -> str:
    """Where a study is tracked: its ``tracking.uri``, ``MLFLOW_TRACKING_URI``, or the store beside the runs."""
    given = (study.get("tracking") or {}).get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{runs.tracker}"


@dataclass
class _Run:
    """A run in the tracker, as this process knows it."""

    id: str
    status: Status
    parent: str | None
    found: bool  # it was there before this projection


def warm_up(runs: Runs, study: Mapping[str, Any]) -> None:
    """Make the embedded store, or greet the server. What fails here fails again, and is said, when it matters."""
    with contextlib.suppress(EnvironmentProblem), _talking():
        uri = tracker_uri(runs, study)
        if uri == f"sqlite:///{runs.tracker}":
            _make_store(runs.tracker)
        _client(uri).search_experiments(max_results=1)


class Projection:
    """Sends journal events to one tracker. Not safe for use from several threads.

    Every method may raise `EnvironmentProblem`: the tracker refused or did not answer. The projection is of no use
    then; a new one finds what has arrived.
    """

    def __init__(self, folder: StudyFolder, runs: Runs) -> None:
        self._folder, self._place = folder, runs
        self._view = View()
        self._runs: dict[str, _Run] = {}  # by trial; `STUDY` is the study's own run
        self._client: Any = None
        self._experiment = ""

    # --------------------------------------------------------------------------------------------------- connecting

    def connect(self, started: StudyStarted, study: Mapping[str, Any]) -> int:
        """Find or create the experiment and the study's run. ``study`` is what it is now, after resumes.

        Returns the journal's offset up to which the tracker has everything, 0 when it must be sent from the start.
        """
        uri = tracker_uri(self._place, study)
        with _talking():
            if uri == f"sqlite:///{self._place.tracker}":
                _make_store(self._place.tracker)
            self._client = _client(uri)
            self._experiment = self._find_experiment(study["name"], uri)
            found = self._search(started.uid)
            doubled = self._delete_doubles(found)
            self._runs = {trial: _known(same[0]) for trial, same in found.items()}
            if STUDY not in self._runs:
                self._create(STUDY, self._folder.name, started.at, {_UID: started.uid})
                return 0
        cursor = found[STUDY][0].data.tags.get(_CURSOR, "")
        return int(cursor) if cursor.isdecimal() and not doubled else 0

    def _find_experiment(self, name: str, uri: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                self._client.restore_experiment(found.experiment_id)
            return found.experiment_id
        # A server knows its place for artifacts. Without one they go beside the runs, not into the current folder.
        served = uri.startswith(("http:", "https:", "databricks"))
        place = None if served else (self._place.tracker_artifacts / name).as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI then shows training, not chat models
        return self._client.create_experiment(name, artifact_location=place, tags=kind)

    def _search(self, uid: str) -> dict[str, list[Any]]:
        """All active runs of the study by trial."""
        found: dict[str, list[Any]] = defaultdict(list)
        token = None
        while True:
            page = self._client.search_runs([self._experiment], f"tags.`{_UID}` = '{uid}'", page_token=token)
            for run in page:
                found[run.data.tags.get(_TRIAL, STUDY)].append(run)
            token = page.token
            if not token:
                return found

    def _delete_doubles(self, found: Mapping[str, list[Any]]) -> bool:
        """Leave one run of each trial: the one in use, or the fullest. Returns whether there were more.

        A server may complete a creation that we gave up waiting for; MLflow does not say which of two runs is older.
        """
        for trial, same in found.items():
            used = self._runs.get(trial)
            same.sort(key=lambda run: (used is None or run.info.run_id != used.id, -_fullness(run), run.info.run_id))
            for double in same[1:]:
                self._client.delete_run(double.info.run_id)
        return any(len(same) > 1 for same in found.values())

    def tidy(self) -> None:
        """Delete runs that appeared beside ours, after a session in which answers were lost."""
        with _talking():
            self._delete_doubles(self._search(self._view.record.uid))

    # ------------------------------------------------------------------------------------------------------ sending

    def skip(self, event: Event) -> None:
        """Take note of an event that the tracker has already."""
        self._view.fold(event)
        self._view.pending.clear()

    @property
    def is_complete(self) -> bool:
        """Whether each trial so far has a run."""
        return self._view.record.trials.keys() <= self._runs.keys()

    @property
    def is_settled(self) -> bool:
        """Whether all that was handed over has been sent."""
        return not self._view.pending

    def send(self, events: Iterable[Event], more: bool = False) -> None:
        """Bring the tracker to where these events lead; ``more`` says that the journal has others behind them.

        While there are more, runs that were there before get metrics only: what has ended must not say RUNNING again
        because its past is being sent once more.
        """
        for event in events:
            self._view.fold(event)
        pending = self._view.pending
        with _talking():
            for trial in sorted(pending, key=lambda id: (id == STUDY, id)):  # the study's points to the best trial's
                run = self._runs.get(trial)
                if more and run is not None and run.found:
                    self._log(run.id, pending[trial], tags={})
                    pending[trial].metrics, pending[trial].params = [], {}
                else:
                    self._push(trial, pending.pop(trial))

    def mark(self, offset: int) -> None:
        """Write down in the tracker how far it is."""
        with _talking():
            self._client.set_tag(self._runs[STUDY].id, _CURSOR, str(offset))

    def _push(self, trial: str, update: Update) -> None:
        """All that is new of one run: at most one request to create it, one for the values, one to end it."""
        if trial == STUDY and update.status is not None and update.status.end is not None:
            update.tag(self._study_end_tags())
        if trial == STUDY and NOTE in update.tags:
            self._link_inputs(update)
        if trial == STUDY and update.sessions:
            self._log_inputs(self._runs[STUDY].id)
        if trial not in self._runs:
            self._create_trial(trial, update)
        run = self._runs[trial]
        if trial != STUDY and run.parent != self._runs[STUDY].id:
            run.parent = self._runs[STUDY].id
            update.tags[_PARENT] = run.parent
        self._log(run.id, update, update.tags)
        self._upload(run.id, trial, update)
        self._set_status(run, update.status)

    def _create_trial(self, id: str, update: Update) -> None:
        trial = self._view.record.trials[id]
        tags = {_PARENT: self._runs[STUDY].id, _UID: self._view.record.uid, _TRIAL: id}
        name = trial_name(trial, self._folder.name, self._view.record.study["name"])
        self._create(id, name, trial.started, tags | update.tags)
        update.tags = {}

    def _create(self, trial: str, name: str, started: float, tags: dict[str, str]) -> None:
        tags |= {"mlflow.user": _user(), "mlflow.source.name": f"orchestrator run {self._folder.name}"}
        run = self._client.create_run(self._experiment, start_time=millis(started), tags=tags, run_name=name)
        self._runs[trial] = _Run(run.info.run_id, Status(), tags.get(_PARENT), found=False)

    def _log(self, run: str, update: Update, tags: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key, value, at, step) for key, value, at, step in update.metrics]
        params = [Param(name, value) for name, value in update.params.items()]
        # The client sends nothing when there is nothing, and several requests when there is too much for one.
        self._client.log_batch(run, metrics, params, [RunTag(name, value) for name, value in tags.items()])

    def _set_status(self, run: _Run, status: Status | None) -> None:
        if status is None or status == run.status:
            return
        if status.end is not None:
            self._client.set_terminated(run.id, status.name, status.end)
        elif status.name != run.status.name:
            self._client.update_run(run.id, status.name)
        run.status = status

    def _upload(self, run: str, trial: str, update: Update) -> None:
        over = update.status is not None and update.status.end is not None
        if trial == STUDY:
            uploads.of_study(self._client, run, self._folder, update.sessions, over)
            for late in uploads.cut_off(self._view.record) if over else ():
                since = (late.ended or 0.0) - _CLOCKS_SECONDS
                uploads.of_trial(self._client, self._runs[late.id].id, self._folder.trial(late.id), since)
        elif over:
            uploads.of_trial(self._client, run, self._folder.trial(trial))
        if update.traceback:
            self._client.log_text(run, update.traceback, "traceback.txt")

    def _study_end_tags(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The study's description, with links to what it led to, and which run is the best."""
        record, best = self._view.record, standings.best(self._view.record)
        home, links = f"#/experiments/{self._experiment}/runs", dict[str, str]()
        if best is not None:
            links["best"] = f"{home}/{self._runs[best.id].id}"
        if self._folder.report.exists():
            links["report"] = f"{home}/{self._runs[STUDY].id}/artifacts/{self._folder.report.name}"
        tags = {NOTE: note(record, best, {**links, **(more or {})})}
        return tags | ({"best_run": self._runs[best.id].id} if best is not None else {})

    def _link_inputs(self, update: Update) -> None:
        """From the study's run to those of the earlier studies that it reads, where this tracker has them."""
        experiments = [each.experiment_id for each in self._client.search_experiments()]
        for pin in pinned_inputs(self._view.record):
            wanted = f"tags.`{_UID}` = '{pin['uid']}' and attributes.run_name = '{pin['study']}'"
            for run in self._client.search_runs(experiments, wanted, max_results=1):
                update.tags[f"inputs.{pin['study']}"] = run.info.run_id
                where = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
                update.tags[NOTE] += f"\n\nReads what {len(pin['trials'])} trials of [{pin['study']}]({where}) left."

    def _log_inputs(self, run: str) -> None:
        """The data that the study reads, on a run; what is there already stays as it is."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        context = InputTag("mlflow.data.context", "input")
        inputs = [
            DatasetInput(Dataset(each.name, each.digest, each.kind, json.dumps(each.source)), [context])
            for each in datasets(self._view.record)
        ]
        if inputs:
            self._client.log_inputs(run, inputs)

    # -------------------------------------------------------------------------------------------------------- model

    def log_model(self) -> None:
        """The best trial's model, logged with its run and registered, once the study is over: see `models`."""
        record = self._view.record
        best = standings.best(record) if record.state.is_over else None
        if best is None:
            return
        try:
            model = registry.task(record.study["task"]).model
            if model is None:
                return
            run = self._runs[best.id].id
            uri = self._client.get_run(run).data.tags.get("model")
            if uri is None:
                with _quiet():
                    uri = models.log(self._client, self._experiment, run, self._folder, record, best, model)
            name, version = models.register(self._client, self._folder.name, record, best, run, uri)
            self._log_inputs(run)
            links = {f"model {name}, version {version}": f"#/models/{name}/versions/{version}"}
            said = Update(tags=self._study_end_tags(links) | {"model": uri})
            self._link_inputs(said)
            self._log(self._runs[STUDY].id, said, said.tags)
        except Exception as error:  # a task's own export may fail in any way; the rest is tracked already
            raise EnvironmentProblem(f"the model of {best.id} was not logged: {_first_line(error)}") from error


def run_ids(record: Record, runs: Runs) -> dict[str, str]:
    """The MLflow run of each trial in the embedded store; empty when there is none or the tracker is elsewhere."""
    if not record.uid or not runs.tracker.exists() or tracker_uri(runs, record.study) != f"sqlite:///{runs.tracker}":
        return {}
    with _quiet():
        client = _client(f"sqlite:///{runs.tracker}")
        experiment = client.get_experiment_by_name(record.study["name"])
        if experiment is None:
            return {}
        found = client.search_runs([experiment.experiment_id], f"tags.`{_UID}` = '{record.uid}'", max_results=50_000)
    return {run.data.tags.get(_TRIAL, STUDY): run.info.run_id for run in found}


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Around all requests. Each kind of store, of values as of files, raises errors of its own."""
    try:
        with _quiet():
            yield
    except Exception as error:
        raise EnvironmentProblem(f"the tracker refused or did not answer: {_first_line(error)}") from error


def _client(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def _make_store(path: Path) -> None:
    """Make the embedded store aside and move it to its place whole.

    MLflow makes its tables one by one, and never gets past a store that a killed process left half made.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as scratch:
        aside = Path(scratch) / path.name
        _client(f"sqlite:///{aside}").search_experiments(max_results=1)
        try:
            os.link(aside, path)
        except OSError:  # another study was faster, or the file system knows no hard links
            if not path.exists():
                os.replace(aside, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow and Alembic log each migration of a new store at INFO."""
    load()  # its import sets its loggers' levels
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield


def _known(run: Any) -> _Run:
    status = Status(run.info.status, None if run.info.status == "RUNNING" else run.info.end_time)
    return _Run(run.info.run_id, status, run.data.tags.get(_PARENT), found=True)


def _fullness(run: Any) -> int:
    return len(run.data.metrics) + len(run.data.params) + len(run.data.tags)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
