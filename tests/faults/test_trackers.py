"""Every kind of tracker, with deaths and outages between any two events: in the end all is there exactly once."""

from __future__ import annotations

import itertools
import math
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass

import invariants
import mlflow
import pytest
from servers import Proxy, mlflow_server, postgres, s3, wait_for

from orchestrator.history.events import (
    Cause,
    Event,
    Mutated,
    Reported,
    Saved,
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
from orchestrator.history.journal import Journal, load_record
from orchestrator.history.states import State
from orchestrator.studies.studyfile import build
from orchestrator.tracker import follower
from orchestrator.tracker.follower import Follower, track

VERDICT = {"support": "undecided", "sentence": "–"}


@dataclass
class Story:
    """A study whose journal is written by hand, a few events at a time."""

    runs: Runs
    folder: StudyFolder
    left: list[Event]

    def happen(self, number: int | None = None) -> None:
        """The next events, or all that are left."""
        number = len(self.left) if number is None else number
        with Journal(self.folder.journal) as journal:
            journal.append(*self.left[:number])
        del self.left[:number]

    def check(self, uri: str) -> None:
        assert not self.left
        invariants.check(load_record(self.folder.journal), self.folder.journal, uri)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(follower, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(follower, "_MARK_SECONDS", 0.1)
    monkeypatch.setattr(follower, "_LONGEST_WAIT_SECONDS", 0.4)
    monkeypatch.setattr(follower, "_PIECE_EVENTS", 30)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@pytest.fixture
def story(tmp_path) -> Story:
    runs = Runs(tmp_path / "runs")
    name = f"story-{uuid.uuid4().hex[:8]}"
    folder = StudyFolder(runs.root / name)
    folder.root.mkdir(parents=True)
    folder.study.write_text("task: toy\n")
    folder.environment.write_text("{}")
    for trial in range(6):
        place = folder.trial(f"t{trial:04}")
        (place.artifacts / "deep").mkdir(parents=True)
        place.log.write_text("hello\n" if trial % 2 else "")
        if trial != 3:
            (place.artifacts / "notes.txt").write_text(f"{trial}")
            (place.artifacts / "deep" / "x.txt").write_text("x")
    return Story(runs, folder, list(told(name)))


def told(name: str):
    """Two sessions in which everything happens that can: pauses, mutations, retries, divergence, an interruption."""
    study = build({"task": "toy", "name": name, "search": {"trials": 6}}).to_plain()
    clock = itertools.count(1_700_000_000)

    def started(trial, **more):
        params = {"x": int(trial[1:]) / 8, "mood": "well", "steps": 5}
        yield TrialStarted(trial, 7, params, ("x",), at=next(clock), **more)
        yield TrialPlaced(trial, "host-a", 11, at=next(clock))

    def reports(trial, *steps):
        for step in steps:
            yield Reported(trial, step, {"loss": 1 / step, "acc": float(step)}, at=next(clock) + 0.25)
            yield Saved(trial, step, at=next(clock))

    yield StudyStarted(uuid.uuid4().hex, study, 6, at=next(clock))
    for trial in ("t0000", "t0001", "t0002", "t0003"):
        yield from started(trial)
        yield from reports(trial, 1, 2)
    yield TrialInterrupted("t0000", Cause.PAUSED, "waits at step 2", at=next(clock))
    yield Mutated("t0001", 2, "t0003", {"x": 0.5, "mood": "well", "steps": 5}, at=next(clock))
    yield from reports("t0001", 3)
    yield Mutated("t0001", 3, "t0000", {"x": 0.75, "mood": "well", "steps": 5}, at=next(clock))
    yield TrialInterrupted("t0002", Cause.FAILED, "its worker died", "Traceback …", at=next(clock))
    yield TrialContinued("t0002", 2, at=next(clock))
    yield TrialPlaced("t0002", "host-b", 12, at=next(clock))
    yield from reports("t0002", 2, 3, 4)  # it had no checkpoint of step 2
    yield TrialEnded("t0002", State.FINISHED, metrics={"loss": 0.1, "acc": 4.0, "size": 3.0}, at=next(clock))
    yield TrialEnded("t0003", State.PRUNED, "stopped at rung 2", at=next(clock))
    yield from started("t0004")
    yield Reported("t0004", 1, {"loss": math.nan, "acc": math.inf}, at=next(clock))
    diverged = {"loss": math.nan, "acc": math.inf}
    yield TrialEnded("t0004", State.FAILED, "diverged at step 1", diverged, "Traceback …", final=True, at=next(clock))
    yield TrialContinued("t0000", 2, at=next(clock))
    yield from reports("t0000", 3)
    yield TrialInterrupted("t0000", Cause.STOPPED, "the study was interrupted", at=next(clock))
    yield TrialInterrupted("t0001", Cause.STOPPED, "the study was interrupted", at=next(clock))
    yield StudyEnded(State.STOPPED, VERDICT, "interrupted", at=next(clock))
    yield StudyResumed(study, 6, at=next(clock))
    for trial in ("t0000", "t0001"):
        yield TrialContinued(trial, 3, at=next(clock))
        yield from reports(trial, 3, 4)
        yield TrialEnded(trial, State.FINISHED, metrics={"loss": 1 / 4}, at=next(clock))
    yield TrialContinued("t0004", 2, at=next(clock))  # the user's retry
    yield from reports("t0004", 1, 2)
    yield TrialEnded("t0004", State.FINISHED, metrics={"loss": 1 / 2}, at=next(clock))
    yield from started("t0005", of="t0004")
    yield from reports("t0005", 1)
    yield TrialEnded("t0005", State.FINISHED, metrics={"loss": 1.0}, at=next(clock))
    yield StudyEnded(State.FINISHED, VERDICT, at=next(clock))


# --------------------------------------------------------------------------------------------------- kinds of trackers


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Servers by name, started together."""
    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        stack.enter_context(s3())
        found = {"sqlite": stack.enter_context(mlflow_server(folder / "sqlite", wait=False))}
        uri = stack.enter_context(postgres())
        found["postgres"] = stack.enter_context(
            mlflow_server(folder / "postgres", uri, artifacts="s3://mlflow/study", wait=False)
        )
        for server in found.values():
            server.wait()
        yield found


@pytest.fixture(params=["embedded", "sqlite", "postgres"])
def tracker(request, story, monkeypatch) -> str:
    """The URI of a tracker of each kind, to which the story goes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "embedded":
        return f"sqlite:///{story.runs.tracker}"
    uri = request.getfixturevalue("servers")[request.param].uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def proxy(story, servers, monkeypatch):
    """A proxy before the SQLite server, to which the story goes."""
    with Proxy(servers["sqlite"].uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        yield proxy


def content(story: Story, uri: str) -> dict[str, object]:
    """All that is in a tracker, by run."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    record = load_record(story.folder.journal)
    found = invariants.runs_of(client, record.uid)
    return {
        run.info.run_id: (
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.info.run_name,
            run.data.params,
            run.data.tags,
            invariants.history(client, run),
            sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        )
        for run in found
    }


def test_drivers_that_die_anywhere_add_up_to_the_whole(story, tracker, monkeypatch, tmp_path):
    for number in itertools.cycle([11, 24, 5]):
        if not story.left:
            break
        story.happen(number)
        die_in_the_middle(story)
        if number == 24:
            story.happen(2)
            assert Follower(story.folder, story.runs).finish() is None
    assert Follower(story.folder, story.runs).finish() is None
    story.check(tracker)

    before = content(story, tracker)
    track(story.folder, story.runs)
    assert content(story, tracker) == before

    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    track(story.folder, story.runs)
    story.check(elsewhere)


def die_in_the_middle(story: Story) -> None:
    """A driver sends all that is new but for its last request, and says nothing of how far it came."""
    beginning = follower._beginning(story.folder.journal)
    projection, offset = follower._go_on(story.folder, story.runs, *beginning)
    projection._set_status = lambda run, status: None
    for events, _, more in follower._pieces(story.folder.journal, offset):
        projection.send(events, more)


@pytest.mark.parametrize("tracker", ["embedded", "postgres"], indirect=True)
def test_runs_that_were_deleted_come_back(story, tracker):
    story.happen(40)
    assert Follower(story.folder, story.runs).finish() is None
    client = mlflow.MlflowClient(tracking_uri=tracker)
    uid = load_record(story.folder.journal).uid
    by_trial = {r.data.tags.get("orchestrator.trial", ""): r.info.run_id for r in invariants.runs_of(client, uid)}
    client.delete_run(by_trial["t0003"])
    story.happen()
    assert Follower(story.folder, story.runs).finish() is None
    story.check(tracker)
    for trial in ("", "t0001"):
        client.delete_run(by_trial[trial])
    track(story.folder, story.runs)
    story.check(tracker)


@pytest.mark.parametrize("tracker", ["embedded", "postgres"], indirect=True)
@pytest.mark.parametrize(("doubled", "fullness"), [("t0002", 0), ("t0002", 50), ("", 0)])
def test_of_two_runs_one_is_left_and_gets_everything(story, tracker, doubled, fullness):
    story.happen(40)
    assert Follower(story.folder, story.runs).finish() is None
    client = mlflow.MlflowClient(tracking_uri=tracker)
    uid = load_record(story.folder.journal).uid
    first = next(r for r in invariants.runs_of(client, uid) if r.data.tags.get("orchestrator.trial", "") == doubled)
    tags = {f"more{i}": "x" for i in range(fullness)} | {"orchestrator.study": uid, "mlflow.parentRunId": "nowhere"}
    tags |= {"orchestrator.trial": doubled} if doubled else {}
    client.create_run(first.info.experiment_id, start_time=first.info.start_time, tags=tags)
    story.happen()
    assert Follower(story.folder, story.runs).finish() is None
    story.check(tracker)
    assert (client.get_run(first.info.run_id).info.lifecycle_stage == "active") == (not fullness)


# -------------------------------------------------------------------------------------------------------------- outages


@pytest.mark.parametrize(
    ("mode", "seconds", "only"),
    [
        ("slow", 0.1, ""),
        ("slow", 1.5, "runs/create"),  # done when nobody waits for it any more
        ("error500", 0, ""),
        ("error500", 0, "mlflow-artifacts"),
        ("error500_after", 0, ""),
        ("hang", 0, ""),
        ("refuse", 0, ""),
    ],
)
def test_after_an_outage_everything_is_there_once(story, servers, proxy, monkeypatch, mode, seconds, only):
    if mode in ("slow", "hang"):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    watcher = Follower(story.folder, story.runs)  # before there is a journal
    story.happen(9)
    wait_for(lambda: ("POST", "/api/2.0/mlflow/runs/create") in proxy.requests, "the first run")
    proxy.behave(mode, seconds, only)
    story.happen(40)
    if mode == "slow" and not only:
        wait_for(lambda: len(proxy.requests) > 15, "slow requests")
        assert watcher.error is None
    else:
        wait_for(lambda: watcher.error is not None, "an error")
        assert "the tracker refused or did not answer" in str(watcher.error)
    proxy.behave("pass")
    wait_for(lambda: proxy.is_idle or mode == "hang", "requests on their way")
    story.happen()
    assert watcher.finish() is None
    story.check(servers["sqlite"].uri)


def test_a_server_that_never_answers_holds_nobody_up(story, servers, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.behave("hang")
    watcher = Follower(story.folder, story.runs)
    story.happen()
    began = time.monotonic()
    late = watcher.finish(patience=0.3)
    assert time.monotonic() - began < 1
    assert "had not taken everything after 0.3 s" in str(late)
    watcher._thread.join(30)  # lest it go on in the next test
    proxy.behave("pass")
    track(story.folder, story.runs)
    story.check(servers["sqlite"].uri)


def test_a_server_that_is_killed_and_comes_back(story, servers, monkeypatch):
    server = servers["sqlite"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    story.happen(30)
    watcher = Follower(story.folder, story.runs)
    wait_for(lambda: watcher._offset > 0, "the first events")
    server.kill()
    story.happen(20)
    wait_for(lambda: watcher.error is not None, "an error")
    server.start()
    story.happen()
    wait_for(lambda: watcher.error is None, "recovery by itself")
    assert watcher.finish() is None
    story.check(server.uri)


def test_a_resumed_study_sends_only_what_is_new(story, servers, proxy):
    story.happen(65)
    assert Follower(story.folder, story.runs).finish() is None
    sent = len(proxy.requests)
    story.happen(1)
    assert Follower(story.folder, story.runs).finish() is None
    paths = [path.rsplit("/", 1)[-1] for _, path in proxy.requests[sent:]]
    assert len(paths) <= 4, paths  # experiment, search, the event, the mark


def test_a_trial_costs_three_requests(story, servers, proxy):
    lean = [e for e in story.left if getattr(e, "trial", "t0003") == "t0003" and not isinstance(e, StudyResumed)]
    story.left[:] = lean[:1]
    for place in (story.folder.trial("t0003"), story.folder.trial("t0005")):
        place.log.write_text("")
    story.happen()
    assert Follower(story.folder, story.runs).finish() is None
    sent = len(proxy.requests)
    story.left[:] = [e for e in lean if hasattr(e, "trial")]
    story.happen()
    assert Follower(story.folder, story.runs).finish() is None
    paths = [path.rsplit("/", 1)[-1] for _, path in proxy.requests[sent:]]
    assert paths == ["get-by-name", "search", "create", "log-batch", "update", "set-tag"]
