"""What must hold of a tracker whatever happened: `check` says it with what the journal alone says, run by run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow

from orchestrator.history.events import ItemsDone, MapStarted, Mutated, Reported, Sampled, TrialEnded, TrialStarted
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import read
from orchestrator.history.record import Record
from orchestrator.history.states import State

STATUS = {
    State.PENDING: "RUNNING",
    State.RUNNING: "RUNNING",
    State.FINISHED: "FINISHED",
    State.PRUNED: "FINISHED",
    State.FAILED: "FAILED",
    State.STOPPED: "KILLED",
}


def runs_of(client: mlflow.MlflowClient, uid: str) -> list[Any]:
    """All active runs of a study, the study's own among them."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found, token = [], None
    while True:
        page = client.search_runs(experiments, f"tags.`orchestrator.study` = '{uid}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def check(record: Record, journal_path: Path, tracking_uri: str) -> None:
    """The tracker shows the study as the record and its journal have it: nothing twice, missing or left open."""
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    found = runs_of(client, record.uid)
    counts = Counter(run.data.tags.get("orchestrator.trial", "") for run in found)
    assert counts == dict.fromkeys(["", *record.trials], 1), "one run a trial and one for the study"
    runs = {run.data.tags.get("orchestrator.trial", ""): run for run in found}
    if record.state.is_over:
        assert not [trial for trial, run in runs.items() if run.info.status == "RUNNING"], "a run is left open"
    folder, expected = StudyFolder(journal_path.parent), expected_metrics(journal_path)
    _check_study(client, runs, record, folder)
    for trial in record.trials.values():
        run = runs[trial.id]
        assert run.data.params == {name: str(value)[:6000] for name, value in trial.chosen.items()}, trial.id
        _check_state(run, trial)
        _check_tags(run, trial, parent=runs[""].info.run_id)
        assert history(client, run) == expected.get(trial.id, {}), trial.id
        if trial.state.is_over:
            _check_files(client, run, folder, trial.id)


def history(client: mlflow.MlflowClient, run: Any) -> dict[tuple[str, int], Any]:
    """Each metric at each step; no step may be there twice."""
    points = [
        ((point.key, point.step), _plain(point.value))
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    twice = [at for at, times in Counter(at for at, _ in points).items() if times > 1]
    assert not twice, f"{run.info.run_name}: more than once: {twice[:5]}"
    return dict(points)


def expected_metrics(journal_path: Path) -> dict[str, dict[tuple[str, int], Any]]:
    """What the journal says by trial: a step counts the first time it is reported, the final metrics at the last step
    or, where they differ from what was reported there, one step on; a map's when all its items are done."""
    expected: dict[str, dict[tuple[str, int], Any]] = {}
    top: dict[str, tuple[int, Mapping[str, float]]] = {}
    searched: dict[str, tuple[str, ...]] = {}
    looks: dict[str, int] = {}
    maps: dict[tuple[str, str], list[Any]] = {}  # items, how many are done, seconds
    for event, _ in read(journal_path):
        id = getattr(event, "trial", "")
        values, (last, said) = expected.setdefault(id, {}), top.get(id, (0, {}))
        if isinstance(event, TrialStarted):
            searched[id] = event.searched
        elif isinstance(event, Reported) and event.step > last:
            top[id] = event.step, event.metrics
            for key, value in event.metrics.items():
                values.setdefault((key, event.step), _plain(value))
        elif isinstance(event, Sampled):
            looks[id] = looks.get(id, 0) + 1
            values.update({(f"system/{key}", looks[id]): _plain(value) for key, value in event.usage.items()})
        elif isinstance(event, Mutated):
            for key in searched[id]:
                if isinstance(event.params.get(key), int | float):
                    values.setdefault((f"pbt/{key}", event.step), _plain(event.params[key]))
        elif isinstance(event, MapStarted):
            maps[id, event.map] = [event.items, 0, 0.0]
        elif isinstance(event, ItemsDone):
            done = maps[id, event.map]
            done[1:] = done[1] + event.stop - event.start, done[2] + event.seconds
            if done[0] == done[1]:
                values.setdefault((f"map/{event.map}/items", 0), _plain(done[0]))
                values.setdefault((f"map/{event.map}/seconds", 0), _plain(done[2]))
        elif isinstance(event, TrialEnded):
            for key, value in event.metrics.items():
                if key not in said or _plain(said[key]) != _plain(value):
                    values.setdefault((key, last + (key in said)), _plain(value))
    return expected


def _check_state(run: Any, trial: Any) -> None:
    assert run.info.status == STATUS[trial.state], trial.id
    assert run.data.tags["state"] == trial.state, trial.id
    assert run.data.tags.get("reason", "") == (trial.reason or ""), trial.id
    if trial.state is not State.STOPPED and trial.ended is not None:
        assert run.info.end_time == int(trial.ended * 1000), trial.id
    if trial.state.is_over:
        assert run.info.end_time, trial.id


def _check_tags(run: Any, trial: Any, parent: str) -> None:
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent, trial.id
    assert tags["seed"] == str(trial.seed)
    assert tags.get("node") == trial.node
    assert tags.get("attempt", "1") == str(trial.attempt)
    assert tags.get("finalist.of") == trial.of
    if trial.mutations:
        assert tags["pbt.parent"] == trial.mutations[-1].parent
        assert tags["pbt.mutations"] == str(len(trial.mutations))


def _check_study(client: mlflow.MlflowClient, runs: dict[str, Any], record: Record, folder: StudyFolder) -> None:
    run = runs[""]
    assert run.info.status == STATUS[record.state]
    assert run.data.tags["state"] == record.state
    assert run.data.tags.get("reason", "") == (record.reason or "")
    history(client, run)
    if record.state.is_over:
        assert run.info.end_time == int((record.ended or 0) * 1000)
        assert int(run.data.tags["orchestrator.journal"]) == folder.journal.stat().st_size
        best = run.data.tags.get("best_trial")
        assert best is None or run.data.tags["best_run"] == runs[best].info.run_id
    files = [path.name for path in (folder.study, folder.environment) if path.exists()]
    assert set(files) <= {file.path for file in client.list_artifacts(run.info.run_id)}


def _check_files(client: mlflow.MlflowClient, run: Any, folder: StudyFolder, trial: str) -> None:
    place = folder.trial(trial)
    there = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {path.name for path in place.artifacts.glob("*") if path.is_file()} <= there, trial
    has_log = place.log.exists() and place.log.stat().st_size > 0
    assert ("log.txt" in there) == has_log, trial


def _plain(value: float) -> float | str:
    """As the tracker keeps it: infinities as the largest number. NaN as a word, since it does not equal itself."""
    if math.isnan(value):
        return "nan"
    return math.copysign(1.7976931348623157e308, value) if math.isinf(value) else float(value)
