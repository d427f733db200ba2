"""The driver without Ray: what runs next, what becomes of each trial, and that a death at any event changes nothing."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
from lab import run_with_deaths, session

from orchestrator.errors import UserError
from orchestrator.history.events import Cause, Reported, TrialContinued, TrialEnded, TrialStarted
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import load_record, read
from orchestrator.history.states import State
from orchestrator.running.control import Command, Mailbox, order

SPACE = {"x": {"uniform": [-1, 1]}}
RANDOM = {"algorithm": "random", "trials": 4, "space": SPACE}
WALK = {"steps": 5, "saves": True, "noise": 0.1}
STUDIES = {
    "random": {"search": RANDOM, "params": WALK},
    "tpe and asha": {
        "search": {"algorithm": "tpe", "scheduler": "asha", "trials": 14, "space": SPACE},
        "params": {**WALK, "steps": 4},
    },
    "median": {"search": {**RANDOM, "trials": 8, "scheduler": {"median": {"min_trials": 2}}}, "params": WALK},
    "hyperband": {
        "search": {**RANDOM, "trials": 9, "scheduler": {"hyperband": {"max_steps": 9}}},
        "params": {**WALK, "steps": 9},
    },
    "pbt": {"search": {**RANDOM, "trials": 4, "scheduler": {"pbt": {"interval": 2}}}, "params": WALK},
    "without checkpoints": {"search": RANDOM, "params": {"steps": 4, "noise": 0.1}},
    "finalists": {"search": RANDOM, "params": WALK, "finalists": {"top": 2, "seeds": 2}},
}


def outcome(record):
    """All that a study found, without times and numbers of attempts."""
    return {
        t.id: (t.seed, t.params, t.now, t.state, t.final, t.last, list(t.curve.steps), list(t.curve.values))
        for t in record.trials.values()
    }


def reported_twice(root):
    steps = [(e.trial, e.step) for e, _ in read(StudyFolder(root).journal) if isinstance(e, Reported)]
    return len(steps) - len(set(steps))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Each study run through once: its record and the number of its events."""
    made = {}

    def of(name):
        if name not in made:
            root = tmp_path_factory.mktemp("whole") / "s"
            session(root, STUDIES[name])
            made[name] = load_record(StudyFolder(root).journal), sum(1 for _ in read(StudyFolder(root).journal))
        return made[name]

    return of


@pytest.mark.parametrize("name", STUDIES)
def test_deaths_of_the_driver_change_nothing(name, undisturbed, tmp_path):
    """It dies again and again, at seeded random events, and what the study finds is what it finds undisturbed."""
    whole, events = undisturbed(name)
    rng = random.Random(name)
    for round in range(6):
        deaths = [rng.randrange(1, events) for _ in range(rng.randrange(1, 4))]
        record = run_with_deaths(tmp_path / str(round), STUDIES[name], deaths)
        assert outcome(record) == outcome(whole), deaths
        assert reported_twice(tmp_path / str(round)) == 0
        assert record.sessions == 1 + len(deaths) or record.sessions <= 1 + len(deaths)


def test_a_death_at_every_single_event_changes_nothing(undisturbed, tmp_path):
    whole, events = undisturbed("random")
    for dies_after in range(events):
        record = run_with_deaths(tmp_path / str(dies_after), STUDIES["random"], [dies_after])
        assert outcome(record) == outcome(whole), dies_after


def test_a_resumed_trial_goes_on_from_its_checkpoint_and_not_from_the_start(undisturbed, tmp_path):
    run_with_deaths(tmp_path, {"search": {**RANDOM, "trials": 1}, "params": {**WALK, "steps": 20}}, [30])
    executed = (StudyFolder(tmp_path).trial("t0000").artifacts / "executed.txt").read_text().split()
    assert len(executed) > 20 or executed == [str(step) for step in range(1, 21)]
    assert executed.count("1") == 1
    assert len(executed) <= 23  # at most what lies between a checkpoint and the death is done again


def test_without_a_death_pausing_schedulers_do_what_the_papers_say(undisturbed):
    whole, _ = undisturbed("hyperband")
    steps = sorted(t.steps for t in whole.trials.values())
    assert steps == [1] * 6 + [3] * 2 + [9]
    best = min(whole.trials.values(), key=lambda t: t.curve.values[0])
    assert whole.trials[best.id].steps >= 3
    whole, _ = undisturbed("pbt")
    mutated = [m for t in whole.trials.values() for m in t.mutations]
    assert mutated
    for t in whole.trials.values():
        assert t.state is State.FINISHED
        assert list(t.curve.steps) == [1, 2, 3, 4, 5]
        for mutation in t.mutations:
            assert mutation.parent in whole.trials
            assert mutation.parent != t.id
            assert mutation.step in (2, 4)


def test_pbt_takes_over_the_parents_state(undisturbed):
    """The walk is part of the state: from a mutation on, the child's walk goes on from its parent's."""
    whole, _ = undisturbed("pbt")
    child = next(t for t in whole.trials.values() if t.mutations)
    first = child.mutations[0]
    parent = whole.trials[first.parent]
    walk = parent.curve.values[first.step - 1] - (parent.params["x"] - 0.5) ** 2 - 1 / first.step
    rest = child.curve.values[first.step] - (first.params["x"] - 0.5) ** 2 - 1 / (first.step + 1)
    assert abs(rest - walk) < 0.5  # one step of noise 0.1 away
    assert child.now["x"] != child.params["x"]


def test_finalists_are_run_again_on_seeds_of_their_own(undisturbed):
    whole, _ = undisturbed("finalists")
    again = [t for t in whole.trials.values() if t.of]
    assert len(again) == (2 + 1) * 2
    assert len({t.seed for t in again}) == 2
    assert not {t.seed for t in again} & {t.seed for t in whole.trials.values() if not t.of}
    order = sorted((t for t in whole.trials.values() if not t.of), key=lambda t: t.final["loss"])
    assert {t.of for t in again} == {order[0].id, order[1].id, "defaults"}


@pytest.mark.parametrize(("concurrent", "most"), [("auto", 3), (2, 2), (1, 1)])
def test_places_that_come_and_go_are_used(tmp_path, concurrent, most):
    """The study begins on one place, then there are three, and one again. ``concurrent`` is never exceeded."""
    over, running, at_once = 0, 0, {False: [], True: []}

    def between(driver):
        finished = sum(t.state is State.FINISHED for t in load_record(StudyFolder(tmp_path).journal).trials.values())
        driver.places = 1 if finished >= 6 else 3

    search = {**RANDOM, "trials": 12, "concurrent": concurrent}
    session(tmp_path, {"search": search, "params": {"steps": 3}}, between=between)
    for event, _ in read(StudyFolder(tmp_path).journal):
        if isinstance(event, TrialStarted):
            running += 1
            at_once[over >= 6].append(running)
        elif isinstance(event, TrialEnded):
            over, running = over + 1, running - 1
    assert over == 12
    assert max(at_once[False]) == most
    assert set(at_once[True]) == {1}


# ------------------------------------------------------------------------------------------------ failing trials


def moody(mood, trials=1, **failures):
    return {
        "search": {**RANDOM, "trials": trials},
        "params": {"mood": mood, "saves": True, "steps": 4},
        "failures": failures,
    }


def test_a_failing_trial_is_tried_again_from_its_checkpoint(tmp_path):
    raw = moody("raise", retries=1)
    raw["params"]["once"] = True
    session(tmp_path, raw)
    trial = load_record(StudyFolder(tmp_path).journal).trials["t0000"]
    assert (trial.state, trial.attempt, trial.failures) == (State.FINISHED, 2, 1)
    assert "RuntimeError: the toy broke" in trial.traceback
    executed = (StudyFolder(tmp_path).trial("t0000").artifacts / "executed.txt").read_text().split()
    assert executed == ["1", "2", "2", "3", "4"]


def test_retries_come_to_an_end(tmp_path):
    session(tmp_path, moody("raise", retries=2))
    trial = load_record(StudyFolder(tmp_path).journal).trials["t0000"]
    assert (trial.state, trial.attempt) == (State.FAILED, 3)
    assert trial.reason == "RuntimeError: the toy broke (after 3 attempts)"


@pytest.mark.parametrize("mood", ["nan", "forgetful"])
def test_what_would_fail_the_same_way_is_not_retried(tmp_path, mood):
    session(tmp_path, moody(mood, retries=5))
    trial = load_record(StudyFolder(tmp_path).journal).trials["t0000"]
    assert (trial.state, trial.attempt) == (State.FAILED, 1)


def test_a_step_saved_before_it_is_reported_is_refused(tmp_path):
    session(tmp_path, moody("save_first", retries=0))
    trial = load_record(StudyFolder(tmp_path).journal).trials["t0000"]
    assert trial.state is State.FAILED
    assert "step 1 was saved before it was reported" in trial.reason


def test_too_many_failures_end_the_study(tmp_path):
    driver = session(tmp_path, moody("raise", trials=8, retries=0, max_failures=2))
    record = load_record(StudyFolder(tmp_path).journal)
    assert driver.cut == (State.FAILED, "3 trials failed, more than failures.max_failures=2")
    assert len(record.trials) == 3


def test_a_trial_that_says_nothing_is_stopped_and_tried_again(tmp_path):
    raw = moody("hang", retries=1, stall_minutes=0.005)
    raw["params"]["once"] = True
    session(tmp_path, raw)
    record = load_record(StudyFolder(tmp_path).journal)
    assert (record.trials["t0000"].state, record.trials["t0000"].failures) == (State.FINISHED, 1)
    causes = [e.cause for e, _ in read(StudyFolder(tmp_path).journal) if e.kind == "trial_interrupted"]
    assert causes == [Cause.STALLED]


# ----------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"trials": 3}, "budget.trials=3 was reached"),
        ({"failures": 2}, "budget.failures=2 was reached"),
        ({"hours": 1e-5}, "budget.hours=1e-05 was reached"),
    ],
)
def test_a_budget_ends_the_study_in_order_and_more_of_it_goes_on(tmp_path, budget, reason):
    raw = {"search": {**RANDOM, "trials": 6}, "params": {"steps": 2, "pace": 0.01}, "budget": budget}
    if "failures" in budget:
        raw |= {"failures": {"retries": 0}, "params": {"mood": "raise"}}
    if "hours" in budget:
        raw["params"]["pace"] = 0.2
    driver = session(tmp_path, raw)
    assert driver.cut == (State.FINISHED, reason)
    first = load_record(StudyFolder(tmp_path).journal)
    assert len(first.trials) < 6
    session(tmp_path, overrides=[f"budget.{next(iter(budget))}=100"])
    assert len(load_record(StudyFolder(tmp_path).journal).trials) == 6


def test_an_extended_study_runs_the_new_trials_only(tmp_path):
    session(tmp_path, STUDIES["random"])
    before = outcome(load_record(StudyFolder(tmp_path).journal))
    session(tmp_path, overrides=["search.trials=7"])
    after = outcome(load_record(StudyFolder(tmp_path).journal))
    assert {id: after[id] for id in before} == before
    assert list(after) == [f"t{i:04d}" for i in range(7)]
    session(tmp_path / "at once", {**STUDIES["random"], "search": {**RANDOM, "trials": 7}})
    assert outcome(load_record(StudyFolder(tmp_path / "at once").journal)) == after


# ------------------------------------------------------------------------------------------------------ orders


def test_orders_are_obeyed_and_answered(tmp_path):
    """A trial is stopped, another one is retried, an order that makes no sense is refused, and the study is stopped."""
    folder, answers = StudyFolder(tmp_path), {}
    asked = iter([("stop", "t0000"), ("stop", "t0009"), ("retry", "t0001"), ("retry", "t0000"), ("stop", None)])
    waiting: list[str] = []

    def between(driver):
        for path in folder.control.glob("*.answer"):
            answers[path.stem] = json.loads(path.read_text())
            path.unlink()
            waiting.clear()
        running = [t for t in load_record(folder.journal).trials.values() if t.steps >= 1 and not t.state.is_over]
        if running and not waiting and (request := next(asked, None)):
            command, trial = request
            id = f"{len(answers)}"
            folder.control.joinpath(f"{id}.tmp").write_text(json.dumps({"command": command, "trial": trial}))
            folder.control.joinpath(f"{id}.tmp").rename(folder.control / f"{id}.request")
            waiting.append(id)

    raw = {"search": RANDOM, "params": {"steps": 1000, "pace": 0.01, "saves": True}}
    driver = session(tmp_path, raw, between=between)
    said = [answers[str(i)] for i in range(5)]
    assert [a["done"] for a in said] == [True, False, False, True, True]
    assert said[0]["words"].startswith("t0000 is stopped at step")
    assert "not running yet" in said[1]["words"]
    assert "nothing to retry" in said[2]["words"]
    assert said[3]["words"].startswith("t0000 goes on from step")
    assert driver.cut == (State.STOPPED, "stopped by order")
    record = load_record(folder.journal)
    assert record.trials["t0000"].state is not State.FINISHED


def test_an_order_that_nobody_reads_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.running.control.PATIENCE_SECONDS", 0.1)
    with pytest.raises(Exception, match="has not answered within"):
        order(StudyFolder(tmp_path), Command.STOP)
    Mailbox(StudyFolder(tmp_path))  # a new driver drops it
    assert list(StudyFolder(tmp_path).control.iterdir()) == []


def test_a_refusal_is_an_error_of_the_one_who_asked(tmp_path):
    import threading

    folder = StudyFolder(tmp_path)
    mailbox = Mailbox(folder)

    def refuse():
        while not (requests := list(mailbox.take())):
            pass
        mailbox.answer(requests[0], False, "no")

    thread = threading.Thread(target=refuse)
    thread.start()
    with pytest.raises(UserError, match="no"):
        order(folder, Command.RETRY, "t0000")
    thread.join()


def test_proposals_after_a_resume_are_those_of_an_uninterrupted_search(undisturbed, tmp_path):
    """TPE, after every number of finished trials: the next proposal is the one of the search that never stopped."""
    whole, _ = undisturbed("tpe and asha")
    starts = [i for i, (e, _) in enumerate(read_all(undisturbed, tmp_path)) if isinstance(e, TrialStarted)]
    for dies_after in starts[1::3]:
        record = run_with_deaths(tmp_path / str(dies_after), STUDIES["tpe and asha"], [dies_after])
        assert [t.params for t in record.trials.values()] == [t.params for t in whole.trials.values()]


def read_all(undisturbed, tmp_path):
    session(tmp_path / "whole", STUDIES["tpe and asha"])
    return list(read(StudyFolder(tmp_path / "whole").journal))


def test_attempts_are_numbered(tmp_path):
    run_with_deaths(tmp_path, STUDIES["random"], [8, 5])
    numbers = [e.attempt for e, _ in read(StudyFolder(tmp_path).journal) if isinstance(e, TrialContinued)]
    assert all(b > a for a, b in itertools.pairwise(numbers)) or len(numbers) < 2
    assert not math.isnan(sum(numbers))
