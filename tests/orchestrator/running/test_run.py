"""The whole path on a toy: study → plan → Ray Tune → journal → MLflow → leaderboard."""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter

import mlflow
import pytest
from conftest import run_toy
from running import Bench, left_behind

from orchestrator.analysis import standings
from orchestrator.history.folder import Runs
from orchestrator.history.journal import load_record
from orchestrator.history.states import State
from orchestrator.tracker import follower, tracking

MOODS = ["well", "nan", "inf_final", "raise", "die", "string", "forgetful"]


def tracked(runs: Runs, experiment: str):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs.tracker}")
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id], max_results=1000)


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    """One study in which each trial fails in a way of its own, as ``(runs, outcome)``."""
    runs = Runs(tmp_path_factory.mktemp("moods"))
    search = {"algorithm": "grid", "space": {"mood": {"choice": MOODS}}}
    return runs, run_toy(runs, name="moods", search=search, params={"x": 0.25}, failures={"retries": 0})


@pytest.fixture(scope="module")
def trials(moods):
    return {t.params["mood"]: t for t in moods[1].record.trials.values()}


def test_each_trial_ends_as_it_should(trials):
    assert trials["well"].state is State.FINISHED
    assert trials["well"].final == {"loss": 0.0625}
    expected = {
        "nan": "diverged at step 2: loss is nan",
        "inf_final": "diverged at step 3: loss is inf",
        "raise": "RuntimeError: the toy broke",
        "string": "TypeError: metric 'loss' must be a number, got 'low'",
        "forgetful": "the task returned no 'loss', but []",
    }
    for mood, reason in expected.items():
        assert (trials[mood].state, trials[mood].reason) == (State.FAILED, reason)
    assert trials["die"].state is State.FAILED
    assert trials["die"].reason.startswith("its worker died")
    assert "toy.py" in trials["raise"].traceback


def test_what_diverged_loses_to_every_finite_trial_and_still_shows(moods):
    board = standings.leaderboard(moods[1].record)
    assert len(board) == len(MOODS)
    assert board[0].params == {"mood": "well"}
    assert all(entry.value is None for entry in board[1:])


def test_mlflow_holds_one_run_a_trial_and_one_for_the_study(moods, trials):
    runs, outcome = moods
    assert outcome.untracked is None
    _, found = tracked(runs, "moods")
    assert len(found) == 1 + len(MOODS)
    assert Counter(run.info.status for run in found) == {"FINISHED": 2, "FAILED": len(MOODS) - 1}
    parent = next(run for run in found if "orchestrator.trial" not in run.data.tags)
    for run in found:
        if run is not parent:
            trial = outcome.record.trials[run.data.tags["orchestrator.trial"]]
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["state"] == trial.state
            assert run.data.tags.get("reason") == trial.reason
            assert run.data.params == {"mood": trial.params["mood"]}  # what was searched; the rest is the parent's
            assert run.data.tags["seed"] == str(trial.seed)
    assert parent.data.tags["best_trial"] == trials["well"].id


def test_mlflow_has_every_metric_at_every_step_once(moods, trials):
    client, found = tracked(moods[0], "moods")
    run = next(r for r in found if r.data.tags.get("orchestrator.trial") == trials["well"].id)
    history = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss"))
    # The final loss is another value than the one reported at step 3: it stands one step on.
    assert history == [(1, 1.0625), (2, 0.5625), (3, pytest.approx(0.0625 + 1 / 3)), (4, 0.0625)]


def test_tracking_again_changes_nothing(moods):
    runs, outcome = moods

    def everything():
        client, found = tracked(runs, "moods")
        return {
            run.info.run_id: (
                run.to_dictionary(),
                [
                    m.to_dictionary()
                    for key in run.data.metrics
                    for m in client.get_metric_history(run.info.run_id, key)
                ],
            )
            for run in found
        }

    before = everything()
    follower.track(outcome.folder, runs)
    assert repr(everything()) == repr(before)  # NaN is not equal to itself


def test_a_lost_tracker_is_rebuilt_from_the_journal(moods, tmp_path):
    runs, outcome = moods
    _, before = tracked(runs, "moods")
    other = Runs(tmp_path / "elsewhere")
    follower.track(outcome.folder, other)
    _, after = tracked(other, "moods")
    content = lambda found: sorted(  # noqa: E731
        (r.info.run_name, r.info.status, r.info.start_time, r.info.end_time, str(sorted(r.data.metrics.items())))
        for r in found
    )
    assert content(after) == content(before)


def test_the_folder_holds_what_it_should(moods, trials):
    _, outcome = moods
    folder = outcome.folder
    for path in (folder.study, folder.environment, folder.report, folder.journal):
        assert path.stat().st_size > 0
    assert "hello" in folder.trial(trials["well"].id).log.read_text()
    assert "the toy broke" in folder.trial(trials["raise"].id).log.read_text()
    assert (folder.trial(trials["well"].id).artifacts / "notes" / "x.txt").read_text() == "0.25"
    page = folder.report.read_text()
    assert "the toy broke" in page
    assert "built-in data" in page
    assert "src='http" not in page
    assert repr(load_record(folder.journal)) == repr(outcome.record)


def test_the_environment_holds_no_secrets(moods):
    environment = json.loads(moods[1].folder.environment.read_text())
    assert set(environment) >= {"git", "lock_sha256", "packages", "cpus"}
    assert "environ" not in environment


def outcomes(record):
    return {
        t.id: (t.seed, t.params, t.final, list(t.curve.steps), list(t.curve.values), t.last)
        for t in record.trials.values()
    }


def test_two_runs_of_a_random_study_are_the_same(runs):
    search = {"trials": 5, "space": {"x": {"uniform": [-1, 1]}}}
    first, second = (run_toy(runs, name="twice", seed=4, search=search) for _ in range(2))
    assert [first.folder.name, second.folder.name] == ["twice", "twice-2"]
    assert outcomes(first.record) == outcomes(second.record)


def test_tpe_one_at_a_time_repeats_and_asha_prunes(runs):
    search = {
        "algorithm": "tpe",
        "scheduler": {"asha": {"grace": 1, "reduction": 2}},
        "trials": 12,
        "concurrent": 1,
        "space": {"x": {"uniform": [-1, 1]}},
    }
    first, second = (run_toy(runs, name="tpe", search=search, params={"steps": 4}) for _ in range(2))
    assert outcomes(first.record) == outcomes(second.record)
    states = Counter(t.state for t in first.record.trials.values())
    assert states[State.PRUNED] > 0
    assert states[State.FINISHED] > 0
    assert sum(states.values()) == 12
    pruned = next(t for t in first.record.trials.values() if t.state is State.PRUNED)
    assert pruned.reason == f"asha stopped it at step {pruned.steps}"


def test_an_unreachable_tracker_neither_stops_the_study_nor_loses_it(runs, monkeypatch):
    search = {"trials": 2, "space": {"x": {"uniform": [-1, 1]}}}
    outcome = run_toy(runs, name="away", search=search, tracking={"uri": "http://127.0.0.1:9"})
    assert outcome.record.state is State.FINISHED
    assert "tracker" in str(outcome.untracked)
    monkeypatch.setattr(tracking, "tracker_uri", lambda runs, study: f"sqlite:///{runs.tracker}")
    follower.track(outcome.folder, runs)
    _, found = tracked(runs, "away")
    assert sorted(run.info.status for run in found) == ["FINISHED"] * 3


@pytest.mark.parametrize("params", [{"wait_for": "/no/such/file"}, {"steps": 1_000_000}], ids=["hanging", "reporting"])
def test_ctrl_c_ends_in_order(tmp_path, params):
    """Whether trials hang between two reports or report all the time. How fast: see tests/faults/test_interrupts."""
    bench = Bench(tmp_path, "waits", params=params, search={"trials": 4, "space": {"x": {"uniform": [-1, 1]}}})
    process = bench.start()
    assert bench.until(lambda: bench.events() and sum(t.steps > 0 for t in bench.record.trials.values()) == 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "stopping in order" in out
    assert err.startswith("error: interrupted with 0 of 4 trials finished")
    record = bench.record
    assert record.state is State.STOPPED
    assert [t.state for t in record.trials.values()] == [State.STOPPED] * 2
    assert all(math.isfinite(t.value("loss")) for t in record.trials.values())
    _, found = tracked(bench.runs, "waits")
    assert [run.info.status for run in found] == ["KILLED"] * 3
    assert left_behind(bench.folder.root) == []
