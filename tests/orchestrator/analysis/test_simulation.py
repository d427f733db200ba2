"""A study replayed under a scheduler: its own gives its own decisions, others what they would decide themselves."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import session
from schedulersim import Sim

from orchestrator.analysis.simulation import simulate
from orchestrator.errors import UserError
from orchestrator.history.events import Reported, StudyEnded, StudyStarted, TrialEnded, TrialPlaced, TrialStarted
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import Journal, read
from orchestrator.history.record import replay
from orchestrator.history.states import State
from orchestrator.studies.plan import trial_id
from orchestrator.studies.studyfile import build, imagined
from orchestrator.tuning.schedulers import make_scheduler

STEPS = 9


def study_of(scheduler, trials=12, algorithm="random"):
    return build({"task": "toy", "search": {"trials": trials, "scheduler": scheduler, "algorithm": algorithm}})


def journal(trials, value, scheduler="none", seed=0, algorithm="random", seconds=1.0):
    """Trials that report at every step, four at once, in an order drawn from the seed; each step takes some seconds."""
    rng = random.Random(seed)
    yield StudyStarted("u", study_of(scheduler, trials, algorithm).to_plain(), trials, at=0.0)
    waiting, running, at = list(range(trials)), {}, 0.0
    while waiting or running:
        while waiting and len(running) < 4:
            index = waiting.pop(0)
            running[index] = 0
            yield TrialStarted(trial_id(index), index, {"x": index / 100}, ("x",), at=at)
            yield TrialPlaced(trial_id(index), "host", 1, at=at)
        index = rng.choice(list(running))
        running[index] += 1
        at += seconds / 4
        yield Reported(trial_id(index), running[index], {"loss": value(index, running[index])}, at=at)
        if running[index] == STEPS:
            del running[index]
            yield TrialEnded(trial_id(index), State.FINISHED, metrics={"loss": value(index, STEPS)}, at=at)
    yield StudyEnded(State.FINISHED, at=at)


def drawn(seed):
    """Losses whose ranks change from step to step."""
    return lambda index, step: random.Random(f"{seed}/{index}/{step}").random() + 1 / step


@pytest.mark.parametrize(
    ("scheduler", "trials"),
    [
        ({"asha": {"grace": 1, "reduction": 2}}, 6),
        ({"median": {"grace": 2, "min_trials": 2}}, 6),
        ({"hyperband": {"max_steps": 9}}, 9),
        ({"pbt": {"interval": 3}}, 4),
        ("none", 4),
    ],
    ids=lambda value: str(value)[:12],
)
def test_its_own_scheduler_decides_as_it_did(tmp_path, scheduler, trials):
    """On the journal of a real driver with several trials at once."""
    search = {"trials": trials, "scheduler": scheduler}
    params = {"steps": STEPS, "noise": 0.5, "saves": "pbt" in scheduler}
    session(tmp_path / "toy", {"params": params, "search": search}, cpus=2)
    events = [event for event, _ in read(tmp_path / "toy" / "journal.jsonl")]
    record = replay(events)
    found = simulate(events, imagined(record, []))
    pruned = {trial.id: trial.steps for trial in record.trials.values() if trial.state is State.PRUNED}
    assert bool(pruned) == (scheduler != "none" and "pbt" not in scheduler)
    assert found.stopped == pruned
    assert (found.unknown, found.changed, found.regret, found.notes) == ({}, 0, 0.0, [])
    assert found.would == found.study
    if "pbt" in scheduler:
        assert any(trial.mutations for trial in record.trials.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 4), st.sampled_from(["asha", "median"]))
def test_of_whole_curves_it_knows_all_that_an_asynchronous_scheduler_would_do(seed, grace, reduction, kind):
    value, events = drawn(seed), list(journal(12, drawn(seed), seed=seed))
    options = {"grace": grace, "reduction": reduction} if kind == "asha" else {"grace": grace, "min_trials": reduction}
    study = study_of({kind: options})
    scheduler, stopped = make_scheduler(study, 12), {}
    for event in events:
        heard = isinstance(event, Reported) and event.trial not in stopped
        if heard and not scheduler.on_report(event.trial, event.step, event.metrics["loss"]):
            stopped[event.trial] = event.step
    found = simulate(events, study)
    assert found.stopped == stopped
    assert found.unknown == {}
    whole = {trial_id(i): value(i, STEPS) for i in range(12) if trial_id(i) not in stopped}
    assert found.would.best == (min(whole.values()) if whole else None)
    assert found.would.steps == sum(stopped.values()) + STEPS * len(whole)
    if whole:
        assert found.regret == found.would.best - min(value(i, STEPS) for i in range(12))
        assert found.regret >= 0


@pytest.mark.parametrize("seed", range(4))
def test_of_whole_curves_it_knows_all_that_hyperband_would_do(seed):
    """Beside a simulation that runs the trials instead of reading them."""
    study, value = study_of({"hyperband": {"max_steps": STEPS}}), drawn(seed)
    sim = Sim(make_scheduler(study, 12), 12, value, last=STEPS, saves=False)
    sim.run(seed)
    expected = {trial.id: trial.steps for trial in sim.record.trials.values() if trial.state is State.PRUNED}
    found = simulate(list(journal(12, value, seed=seed)), study)
    assert expected
    assert found.stopped == expected
    assert found.unknown == {}


def test_what_was_stopped_early_has_no_more_to_say():
    study = study_of({"asha": {"grace": 1, "reduction": 2}})
    whole = list(journal(12, drawn(1), scheduler={"asha": {"grace": 1, "reduction": 2}}))
    stops = simulate(whole, study).stopped
    assert len(stops) > 3

    def is_said(event):
        step = getattr(event, "step", 0)
        return step <= stops.get(getattr(event, "trial", ""), STEPS)

    cut = []
    for event in filter(is_said, whole):
        if isinstance(event, TrialEnded) and event.trial in stops:
            continue
        cut.append(event)
        if isinstance(event, Reported) and stops.get(event.trial) == event.step:
            cut.append(TrialEnded(event.trial, State.PRUNED, "", event.metrics, at=event.at))
    assert simulate(cut, study).unknown == {}
    found = simulate(cut, study_of("none"))
    assert found.unknown == stops
    assert found.changed == len(stops)
    assert f"{len(stops)} decisions are unknown" in found.notes[0]
    assert found.would.finished == 12 - len(stops)
    stricter = simulate(cut, study_of({"asha": {"grace": 1, "reduction": 4}}))
    assert stricter.would.trial_seconds < found.study.trial_seconds
    for id, step in stricter.unknown.items():
        assert stops[id] == step


def test_a_budget_of_trials_or_hours():
    """Four places; a trial takes 9 h if every step of the four takes its quarter: all start and end in their order."""
    events = []
    for index in range(8):
        start = 3600.0 * (index // 4)
        id = trial_id(index)
        events += [
            TrialStarted(id, 0, {"x": 0.0}, ("x",), at=start),
            TrialPlaced(id, "host", 1, at=start),
            Reported(id, 1, {"loss": 9.0 - index}, at=start + 1800),
            Reported(id, 2, {"loss": 8.0 - index}, at=start + 3600),
            TrialEnded(id, State.FINISHED, metrics={"loss": 8.0 - index}, at=start + 3600),
        ]
    order = {TrialEnded: 0, TrialStarted: 1, TrialPlaced: 2, Reported: -1}
    events.sort(key=lambda event: (event.at, order[type(event)]))
    events.insert(0, StudyStarted("u", study_of("none", 8).to_plain(), 8, at=0.0))
    study = study_of("none", 8)
    whole = simulate(events, study)
    assert (whole.would.best, whole.would.best_trial, whole.would.hours, whole.would.steps) == (1.0, "t0007", 2.0, 16)
    assert whole.would.trial_seconds == 8 * 3600
    few = simulate(events, study, trials=3)
    assert (few.would.best_trial, few.regret, few.would.trials, few.would.hours) == ("t0002", 5.0, 3, 1.0)
    hour = simulate(events, study, hours=1)
    assert (hour.would.best_trial, hour.would.finished, hour.would.trials, hour.regret) == ("t0003", 4, 4, 4.0)
    more = simulate(events, study, hours=1.5)  # the second four are under way
    assert (more.would.finished, more.would.trials, more.would.trial_seconds, more.would.steps) == (4, 8, 6 * 3600, 12)
    assert simulate(events, study, hours=0.5).would.best is None
    with pytest.raises(UserError, match="the record has 8 trials"):
        simulate(events, study, trials=9)


def test_what_tpe_would_have_proposed_is_not_known():
    events = list(journal(12, drawn(2), algorithm="tpe"))
    assert simulate(events, study_of("none", algorithm="tpe")).proposals == 0
    found = simulate(events, study_of({"asha": {"reduction": 2}}, algorithm="tpe"))
    first = min(events.index(e) for e in events if isinstance(e, Reported) and found.stopped.get(e.trial) == e.step)
    assert found.proposals == sum(isinstance(event, TrialStarted) for event in events[first:])
    assert found.proposals > 0
    assert any("tpe would have proposed" in note for note in found.notes)


def test_a_value_that_is_no_number_is_not_judged():
    value = drawn(3)
    events = list(journal(12, lambda i, step: math.nan if (i, step) == (5, 2) else value(i, step)))
    assert simulate(events, study_of({"asha": {"reduction": 2}})).stopped.get("t0005") != 2


def test_the_command(command, runs):
    folder = StudyFolder(runs.root / "toy")
    with Journal(folder.journal) as journaled:
        journaled.append(*journal(12, drawn(4)))
    status, out, _ = command("simulate", "toy", "--scheduler", "{asha: {grace: 1, reduction: 2}}", "--json")
    plain = json.loads(out)
    assert status == 0
    assert plain["scheduler"] == {"kind": "asha", "grace": 1, "reduction": 2}
    assert plain["would"]["trial_seconds"] < plain["study"]["trial_seconds"]
    status, out, _ = command("simulate", "toy", "--scheduler", "asha", "--trials", "6")
    assert status == 0
    assert "would have been" in out
    assert "regret" in out
    status, _, err = command("simulate", "toy", "--scheduler", "{asha: {graze: 1}}")
    assert status == 2
    assert "graze" in err
    assert command("simulate", "toys")[0] == 2
