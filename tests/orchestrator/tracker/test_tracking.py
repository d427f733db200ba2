"""The projection on its own: limits of the tracker, replays, events in pieces, what goes on after it was over."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import mlflow
import pytest

from orchestrator.history.events import (
    Cause,
    Mutated,
    Reported,
    StudyEnded,
    StudyResumed,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialPlaced,
    TrialStarted,
)
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import Journal
from orchestrator.history.states import State
from orchestrator.studies.studyfile import build
from orchestrator.tracker import follower
from orchestrator.tracker.follower import Follower, track
from orchestrator.tracker.runview import View
from orchestrator.tracker.tracking import Projection

STUDY = build({"task": "toy", "search": {"trials": 1}}).to_plain()
TRIAL = "t0000 p0=0 p1=1"


@pytest.fixture
def client(runs):
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")


@pytest.fixture
def folder(runs) -> StudyFolder:
    return StudyFolder(runs.root / "toy")


def events_of(metrics=2, params=2, steps=3, searched=2):
    reports = [
        Reported("t0000", s, {f"m{i}": float(s + i) for i in range(metrics)}, at=3.0 + s) for s in range(1, steps + 1)
    ]
    chosen = {f"p{i}": i for i in range(params)}
    return [
        StudyStarted("uid", STUDY, 1, at=1.0),
        TrialStarted("t0000", 5, chosen | {"fixed": 1}, tuple(chosen)[:searched], at=2.0),
        TrialPlaced("t0000", "host", 1, at=2.5),
        *reports,
        TrialEnded("t0000", State.FINISHED, metrics={"loss": 0.5, "m0": float(steps)}, at=90.0),
        StudyEnded(State.FINISHED, {"support": "undecided", "sentence": "–"}, at=99.0),
    ]


def projection_of(folder: StudyFolder, runs: Runs) -> Projection:
    projection = Projection(folder, runs)
    projection.connect(StudyStarted("uid", STUDY, 1, at=1.0), STUDY)
    return projection


def content(client):
    """Everything the tracker holds, without what it invents itself."""
    found = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    runs = {}
    for run in found:
        history = [
            (m.key, m.step, m.value, m.timestamp)
            for key in run.data.metrics
            for m in client.get_metric_history(run.info.run_id, key)
        ]
        tags = {
            k: v for k, v in run.data.tags.items() if k not in ("mlflow.parentRunId", "best_run", "mlflow.note.content")
        }
        runs[run.info.run_name] = (run.info.status, run.info.end_time, run.data.params, tags, sorted(history))
    assert len(runs) == len(found)
    return runs


def test_more_values_than_one_request_takes_all_arrive(runs: Runs, folder, client):
    projection_of(folder, runs).send(events_of(metrics=700, params=230, steps=3, searched=230))
    trial = content(client)[TRIAL]
    assert len(trial[2]) == 230
    assert len(trial[4]) == 3 * 700 + 1  # and the final loss; the final m0 was reported already


def test_any_division_and_any_repetition_lead_to_the_same(tmp_path):
    events, results = events_of(), []
    for name, cuts in {"whole": [], "pieces": range(1, len(events)), "three": [2, 5]}.items():
        runs = Runs(tmp_path / name)
        projection = projection_of(StudyFolder(runs.root / "toy"), runs)
        for start, end in itertools.pairwise([0, *cuts, len(events)]):
            projection.send(events[start:end])
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")
        results.append(content(client))
        projection_of(StudyFolder(runs.root / "toy"), runs).send(events)  # all of it again, by another process
        results.append(content(client))
    assert all(result == results[0] for result in results)
    assert {name: status for name, (status, *_) in results[0].items()} == {"toy": "FINISHED", TRIAL: "FINISHED"}


def test_a_projection_that_dies_in_the_middle_is_followed_by_another(runs: Runs, folder, client):
    events = events_of()
    projection_of(folder, runs).send(events[:4])
    assert content(client)[TRIAL][0] == "RUNNING"
    projection_of(folder, runs).send(events)
    assert {status for status, *_ in content(client).values()} == {"FINISHED"}


def test_what_goes_on_is_running_again_in_the_same_run(runs: Runs, folder, client):
    projection = projection_of(folder, runs)

    def after(*events):
        projection.send(events)
        found = content(client)
        (study, *_), (trial, end, _, tags, _) = found["toy"], found[TRIAL]
        return study, trial, end, tags["state"], tags.get("reason"), tags.get("attempt")

    assert after(*events_of()[:5]) == ("RUNNING", "RUNNING", None, "RUNNING", None, None)
    lost = TrialInterrupted("t0000", Cause.LOST, "no worker", at=10.0)
    assert after(lost) == ("RUNNING", "RUNNING", None, "PENDING", "no worker", None)
    assert after(TrialContinued("t0000", 2, at=11.0))[3:] == ("RUNNING", "", "2")
    stopped = TrialInterrupted("t0000", Cause.STOPPED, "interrupted", at=12.0)
    ended = StudyEnded(State.STOPPED, None, "interrupted", at=13.0)
    assert after(stopped, ended) == ("KILLED", "KILLED", 12_000, "STOPPED", "interrupted", "2")
    projection = projection_of(folder, runs)  # another session
    projection.send([*events_of()[:5], lost, TrialContinued("t0000", 2, at=11.0), stopped, ended])
    again = (StudyResumed(STUDY, 1, at=20.0), TrialContinued("t0000", 3, at=21.0))
    assert after(*again) == ("RUNNING", "RUNNING", 12_000, "RUNNING", "", "3")
    assert after(*events_of()[-2:]) == ("FINISHED", "FINISHED", 90_000, "FINISHED", "", "3")
    assert {key for key, *_ in content(client)["toy"][4]} >= {"trials/finished", "best/loss"}


def test_while_the_past_is_sent_again_what_has_ended_stays_so(runs: Runs, folder, client):
    events = events_of(steps=6)
    projection_of(folder, runs).send(events)
    before = content(client)
    projection = projection_of(folder, runs)
    for start in range(0, len(events), 2):
        projection.send(events[start : start + 2], more=start + 2 < len(events))
        assert content(client) == before
    assert projection.is_settled


def test_mutations_are_a_series_and_params_stay(runs: Runs, folder, client):
    begin, *_ = events = events_of(params=3)
    mutated = [
        Mutated("t0000", step, "t0003", {"p0": step / 10, "p1": "word", "p2": 9}, at=50.0 + step) for step in (1, 3)
    ]
    projection_of(folder, runs).send([begin, *events[1:-2], *mutated, *events[-2:]])
    _, _, params, tags, history = content(client)[TRIAL]
    assert params["p0"] == "0"
    assert [point[:3] for point in history if point[0].startswith("pbt/")] == [("pbt/p0", 1, 0.1), ("pbt/p0", 3, 0.3)]
    assert (tags["pbt.parent"], tags["pbt.mutations"]) == ("t0003", "2")


@pytest.mark.parametrize("state", [State.PRUNED, State.STOPPED, State.FAILED])
def test_what_a_worker_writes_after_its_trial_was_cut_off_arrives(runs: Runs, folder, client, state):
    """It hears that it is to stop a moment after the driver has decided so, and may have been about to end."""
    events = [replace(event, at=time.time()) for event in events_of()]
    end = replace(events[-2], state=state)
    place = folder.trial("t0000")
    projection = projection_of(folder, runs)
    projection.send([*events[:-2], end])
    place.artifacts.mkdir(parents=True)
    (place.artifacts / "late.txt").write_text("late")
    place.log.write_text("late\n")
    run = client.search_runs([client.get_experiment_by_name("toy").experiment_id], f"run_name = '{TRIAL}'")[0]
    assert client.list_artifacts(run.info.run_id) == []
    projection.send(events[-1:])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"late.txt", "log.txt"}


def test_any_name_of_a_metric_arrives(runs: Runs, folder, client):
    begin, started, placed, *_, over = events_of()
    names = {"hit@5": 1.0, "a//b/../c": 2.0, "/": 3.0, "层/值": 4.0, "x" * 300: 5.0}
    report = Reported("t0000", 1, names, at=3.0)
    projection_of(folder, runs).send([begin, started, placed, report, over])
    assert {key for key, *_ in content(client)[TRIAL][4]} == {"hit_5", "a/b/c", "_", "层/值", "x" * 250}


def test_a_step_that_an_attempt_before_has_reported_is_sent_once():
    view = View()
    again = [TrialInterrupted("t0000", Cause.FAILED, "died"), TrialContinued("t0000", 2)]
    *most, end, _ = events_of(steps=3)
    for event in [*most, *again, *events_of(steps=4)[3:-2], end]:
        view.fold(event)
    sent = [(key, step) for key, _, _, step in view.pending["t0000"].metrics]
    assert len(sent) == len(set(sent))
    assert {step for _, step in sent} == {1, 2, 3, 4, 5}  # the final m0 differs from the last: one step on


@pytest.mark.parametrize("cursor", ["1000000", "17", "x"])
def test_a_cursor_that_does_not_fit_the_journal_is_not_believed(runs: Runs, folder, client, cursor):
    with Journal(folder.journal) as journal:
        journal.append(*events_of())
    track(folder, runs)
    complete = content(client)
    [study] = [run for run in client.search_runs(["1"]) if run.info.run_name == "toy"]
    [trial] = [run for run in client.search_runs(["1"]) if run.info.run_name == TRIAL]
    client.set_tag(study.info.run_id, "orchestrator.journal", cursor)
    client.delete_run(trial.info.run_id)
    assert Follower(folder, runs).finish() is None
    assert content(client) == complete


def test_a_long_journal_is_read_in_pieces(runs: Runs, folder, client, monkeypatch):
    monkeypatch.setattr(follower, "_PIECE_EVENTS", 4)
    with Journal(folder.journal) as journal:
        journal.append(*events_of(steps=6))  # 11 events
    sizes = [(len(events), more) for events, _, more in follower._pieces(folder.journal, 0)]
    assert sizes == [(4, True), (4, True), (3, False)]
    assert Follower(folder, runs).finish() is None
    assert content(client)[TRIAL][0] == "FINISHED"


def test_a_follower_says_what_is_wrong_with_the_journal(runs: Runs, folder):
    with Journal(folder.journal) as journal:
        journal.append(*events_of())
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join([lines[0], b"rubbish\n", *lines[1:]]))
    assert "is damaged" in str(Follower(folder, runs).finish())


def test_a_store_is_there_whole_or_not_at_all(runs: Runs, monkeypatch):
    """A process that is killed while MLflow makes its tables leaves nothing that the next one stumbles over."""

    def dies(*args, **kwargs):
        assert not runs.tracker.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.link", dies)
        with pytest.raises(KeyboardInterrupt):
            Projection(StudyFolder(runs.root / "toy"), runs).connect(events_of()[0], STUDY)
    assert list(runs.root.iterdir()) == []
    Projection(StudyFolder(runs.root / "toy"), runs).connect(events_of()[0], STUDY)
    assert runs.tracker.exists()
