"""Two results side by side: only what differs is shown, and what is said of chance is what an own computation says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis import chance, comparison
from orchestrator.analysis.chance import Result
from orchestrator.errors import UnknownName, UserError
from orchestrator.history.events import (
    Cause,
    Reported,
    StudyEnded,
    StudyResumed,
    StudyStarted,
    TrialContinued,
    TrialEnded,
    TrialInterrupted,
    TrialStarted,
)
from orchestrator.history.journal import Journal
from orchestrator.history.states import State
from orchestrator.studies.studyfile import build
from tasks import logits

DIFF = "diff --git a/tasks/toy.py b/tasks/toy.py\n+x\n"


def environment(**more):
    return {"orchestrator": "1", "command": ["orchestrator", "run"], "git": {"commit": "aaa", "diff": ""}, "gpus": [],
            "lock_sha256": "1" * 64, "python": "3.11", "packages": {"ray": "2.60", "numpy": "2"}, **more}  # fmt: skip


def write(runs, name, losses, digest="d", environments=(), resumed_before=99, **raw):
    """A study whose trials ended with these losses; from trial ``resumed_before`` on in a second session."""
    folder = runs._folder(name)
    study = build({"task": "toy", "name": name, "search": {"trials": len(losses), **raw.pop("search", {})}, **raw})
    with Journal(folder.journal) as journal:
        journal.append(StudyStarted(f"uid-{name}", study.to_plain(), len(losses), data_digest=digest, at=1.0))
        for index, loss in enumerate(losses):
            id = f"t{index:04}"
            params = study.params_of({"x": index / 10}).model_dump(mode="json")
            journal.append(TrialStarted(id, index, params, ("x",), at=2.0))
            if index == resumed_before:
                journal.append(TrialInterrupted(id, Cause.STOPPED, "", at=2.5), StudyEnded(State.STOPPED, at=2.6))
                journal.append(StudyResumed(study.to_plain(), len(losses), data_digest=digest, at=2.7))
                journal.append(TrialContinued(id, 2, at=2.8))
            journal.append(Reported(id, 1, {"loss": loss}, at=3.0))
            journal.append(TrialEnded(id, State.FINISHED, metrics={"loss": loss}, at=4.0))
        journal.append(StudyEnded(State.FINISHED, {"support": "undecided", "sentence": "–"}, at=9.0))
    for session, each in enumerate(environments or [environment()], 1):
        folder.environment_of(session).write_text(json.dumps(each))
    return folder


def compared(runs, a, b):
    return comparison.compare(comparison.find(a, runs), comparison.find(b, runs))


def test_two_studies_show_only_what_differs(runs):
    write(runs, "one", [0.5, 0.25])
    other = environment(git={"commit": "aaa", "diff": DIFF}, packages={"ray": "2.61", "numpy": "2"})
    write(runs, "two", [0.5, 0.75, 0.125], digest="e", environments=[other], params={"steps": 4}, seed=3)
    found = compared(runs, "one", "two")
    sections = found["sections"]
    assert sections["question"]["different"] == {"seed": [0, 3], "search.trials": [2, 3]}
    assert sections["parameters"]["different"] == {"steps": [3, 4]}
    assert sections["parameters"]["same"] > 3
    assert sections["data"] == {"different": {"digest": ["d", "e"]}, "same": 1}
    assert list(sections["code"]["different"]) == ["uncommitted"]
    assert sections["code"]["different"]["uncommitted"][0] == "nothing"
    assert sections["code"]["different"]["uncommitted"][1].endswith("tasks/toy.py")
    assert sections["environment"]["different"] == {"packages.ray": ["2.60", "2.61"]}
    assert sections["results"]["different"] == {"trials": [2, 3], "best": ["t0001", "t0002"], "loss": [0.25, 0.125]}
    assert "different data" in found["chance"]["sentence"]


def test_a_study_beside_itself_differs_in_nothing(runs):
    write(runs, "one", [0.5, 0.25])
    found = compared(runs, "one", "one")
    assert [section["different"] for section in found["sections"].values()] == [{}] * 6
    assert "the same loss" in found["chance"]["sentence"]


def test_two_trials_of_two_sessions(runs):
    """The second session ran other code: what a trial ran on is what its last attempt began in."""
    write(runs, "one", [0.5, 0.25, 0.75], environments=[environment(), environment(git=None)], resumed_before=1)
    sections = compared(runs, "one/t0000", "one/t0001")["sections"]
    assert sections["parameters"]["different"] == {"x": [0.0, 0.1], "seed": [0, 1]}
    assert sections["question"]["different"] == sections["data"]["different"] == {}
    assert sections["code"]["different"] == {"commit": ["aaa", None], "uncommitted": ["nothing", None]}
    assert sections["results"]["different"] == {"attempts": [1, 2], "seconds": [2.0, 1.7], "loss": [0.5, 0.25]}
    assert compared(runs, "one/t0001", "one/t0002")["sections"]["code"]["different"] == {}


def test_what_cannot_be_compared_is_refused_with_what_to_type(runs):
    write(runs, "one", [0.5, 0.25])
    with pytest.raises(UserError, match="one is a study and one/t0000 is a trial") as error:
        compared(runs, "one", "one/t0000")
    assert "one/t0001" in error.value.hint
    with pytest.raises(UnknownName, match="t0009"):
        compared(runs, "one/t0009", "one/t0000")
    with pytest.raises(UnknownName):
        compared(runs, "none", "one")


def test_the_command(command, runs):
    write(runs, "one", [0.5, 0.25])
    status, out, _ = command("compare", "one/t0000", "one/t0001")
    assert status == 0
    assert "one/t0001" in out
    assert "the same: " in out
    assert "cannot be said" in out
    plain = json.loads(command("compare", "one/t0000", "one/t0001", "--json")[1])
    assert plain["chance"]["beyond"] is None
    assert plain["chance"]["difference"] == -0.25


# --------------------------------------------------------------------------------------------------------------- chance


def result(name, value=0.5, interval=None, by_seed=None, artifacts=Path("nowhere")):
    return Result(name, "m", value, interval, by_seed or {}, artifacts)


def test_runs_on_the_same_seeds_are_compared_in_pairs():
    rng = np.random.default_rng(1)
    a = {seed: float(rng.normal()) for seed in range(6)}
    b = {seed: value + 0.5 + 0.1 * float(rng.normal()) for seed, value in a.items()} | {99: 7.0}
    found = chance.judge(result("a", by_seed=a), result("b", by_seed=b))
    test = stats.ttest_rel([b[seed] for seed in range(6)], list(a.values()))
    interval = test.confidence_interval()
    assert found.p_value == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.beyond is True
    assert "beyond chance at 5 %" in found.sentence


def test_runs_on_other_seeds_are_compared_by_welch():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 5), rng.normal(0.2, 3, 8)
    found = chance.judge(result("a", by_seed=dict(enumerate(a))), result("b", by_seed=dict(enumerate(b, 100))))
    test = stats.ttest_ind(b, a, equal_var=False)
    interval = test.confidence_interval()
    assert found.p_value == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.beyond is False
    assert "not beyond chance" in found.sentence


@pytest.mark.parametrize(("by", "beyond"), [(0.0, False), (0.25, True)])
def test_seeds_that_all_say_the_same(by, beyond):
    a = {0: 0.5, 1: 0.75}
    found = chance.judge(result("a", by_seed=a), result("b", by_seed={seed: value + by for seed, value in a.items()}))
    assert (found.beyond, found.difference) == (beyond, by)


def test_a_difference_that_is_the_same_on_no_seed_of_welch_either():
    found = chance.judge(result("a", by_seed={0: 1.0, 1: 1.0}), result("b", by_seed={2: 1.0, 3: 1.0}))
    assert (found.beyond, found.p_value) == (False, 1.0)


def leave(folder, right, order=1):
    """Scores of a classifier that is right on these of 40 photos, in either order of the photos."""
    keys = [f"val/{index:02}" for index in range(40)][::order]
    labels = np.array([int(key[-2:]) % 2 for key in keys])
    scores = np.zeros((40, 2), np.float32)
    for row, (key, label) in enumerate(zip(keys, labels, strict=True)):
        scores[row, label if int(key[-2:]) in right else 1 - label] = 1.0
    logits.write(folder / "logits", logits.Logits(scores, tuple(keys), labels, ("a", "b")))
    return folder


def test_scores_of_the_same_photos_are_compared_photo_by_photo(tmp_path):
    """12 of the photos on which they differ are b's and 2 a's: the mid-p value is a sum of binomial terms."""
    a = result("a", artifacts=leave(tmp_path / "a", set(range(10)) | {30, 31}))
    b = result("b", artifacts=leave(tmp_path / "b", set(range(10)) | set(range(10, 22)), order=-1))
    found = chance.judge(a, b)
    terms = [math.comb(14, k) / 2**14 for k in range(3)]
    assert found.p_value == pytest.approx(2 * sum(terms) - terms[2])
    assert found.difference == pytest.approx(10 / 40)
    assert found.beyond is True
    assert "same 40 photos b is right on 12 that a has wrong, and wrong on 2" in found.sentence
    other = leave(tmp_path / "c", set())
    (other / "logits" / "logits.json").write_text("{}")
    assert chance.judge(a, result("c", artifacts=other)).beyond is None  # damaged: the next best is looked at


def test_intervals_that_lie_apart_or_overlap():
    low, high = result("a", 0.2, (0.1, 0.3)), result("b", 0.5, (0.4, 0.6))
    assert chance.judge(low, high).beyond is True
    assert chance.judge(high, low).beyond is True
    assert "overlap" in chance.judge(low, result("c", 0.3, (0.2, 0.5))).sentence
    assert chance.judge(low, result("c", 0.3, (0.2, 0.5))).beyond is None
    assert "cannot be said" in chance.judge(low, result("d", 0.9)).sentence
    assert chance.judge(low, None).beyond is None


def test_finalists_are_found_with_the_trial_that_they_repeat(runs):
    """Of a searched trial whose finalists ran, and of one of these runs, the seeds' values are the same."""
    folder = write(runs, "one", [0.5, 0.25])
    with Journal(folder.journal) as journal:
        for of, values in {"t0000": [1.0, 2.0, 3.0], "t0001": [2.0, 3.5, 4.0]}.items():
            for seed, value in enumerate(values, 50):
                run = f"{of}-s{seed}"
                journal.append(TrialStarted(run, seed, {}, ("x",), of, at=10.0))
                journal.append(TrialEnded(run, State.FINISHED, metrics={"loss": value}, at=11.0))
        journal.append(StudyEnded(State.FINISHED, at=12.0))
    for a, b in [("one/t0000", "one/t0001"), ("one/t0000-s51", "one/t0001")]:
        found = compared(runs, a, b)["chance"]
        assert found["p_value"] == pytest.approx(stats.ttest_rel([2.0, 3.5, 4.0], [1.0, 2.0, 3.0]).pvalue)
