"""Attempts that the driver takes for dead and that live on: what they do changes nothing. Without Ray."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import lab
import pytest

from orchestrator.history import checkpoint
from orchestrator.history.events import Saved, TrialEnded
from orchestrator.history.folder import StudyFolder, TrialFolder
from orchestrator.history.journal import load_record, read
from orchestrator.history.states import State
from orchestrator.trial import fence
from orchestrator.trial.spec import TrialSpec
from orchestrator.trial.worker import Attempt
from tasks.api import Goal

WALK = {"steps": 6, "saves": True, "noise": 0.1}
SPACE = {"x": {"uniform": [-1, 1]}}
STUDIES = {
    "random": {"search": {"algorithm": "random", "trials": 4, "space": SPACE}, "params": WALK},
    "pbt": {
        "search": {"algorithm": "random", "trials": 4, "scheduler": {"pbt": {"interval": 2}}, "space": SPACE},
        "params": WALK,
    },
    "hyperband": {
        "search": {"algorithm": "random", "trials": 9, "scheduler": {"hyperband": {"max_steps": 9}}, "space": SPACE},
        "params": {**WALK, "steps": 9},
    },
}


def test_a_number_is_passed_by_higher_ones_alone(tmp_path):
    path = tmp_path / "t" / "attempt"
    assert not fence.is_passed(path, 1)
    for attempt in (1, 2, 3, 12):
        fence.raise_to(path, attempt)
        assert [fence.is_passed(path, n) for n in (attempt - 1, attempt, attempt + 1)] == [True, False, False]
    assert path.read_text() == "000000012\n"
    path.write_bytes(b"")  # begun and not written yet
    assert not fence.is_passed(path, 1)


def test_who_reads_the_number_while_it_is_written_sees_the_old_or_the_new(tmp_path):
    """It is never renamed over: who has seen the file once, NFS among them, looks at the same file again."""
    fence.raise_to(tmp_path / "attempt", 999)
    file = (tmp_path / "attempt").stat().st_ino
    fence.raise_to(tmp_path / "attempt", 1000)
    assert (tmp_path / "attempt").stat().st_ino == file


@pytest.fixture(autouse=True)
def one_trial(monkeypatch):
    """The attempts here differ in a parameter, the gate that they wait at, and are of one trial all the same."""
    monkeypatch.setattr("orchestrator.trial.trialfiles.identity", lambda seed, params: "one")


def attempt_at(root: Path, number: int, gate: Path, steps: int = 6) -> Attempt:
    """An attempt at one trial, which waits before step 2 until there is a file ``gate``."""
    params = {**WALK, "steps": steps, "wait_for": str(gate)}
    return Attempt(
        TrialSpec("t0000", number, "toy", 7, params, "loss", Goal.MIN, None, root / "cache", root / "t0000", 0)
    )


def run_out(attempt: Attempt) -> list:
    """What it says until it ends by itself."""
    said = attempt.next(0.1)
    while attempt._thread.ident is None or attempt._thread.is_alive():
        said += attempt.next(0.1)
    return said + attempt.next(0.1)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("newer_saves", [0, 2, 3, 6])
def test_an_attempt_that_was_given_up_leaves_no_checkpoint(tmp_path, newer_saves):
    """It goes on before its successor has saved anything, behind it, beside it, and after its end."""
    folder, gate, open_gate = TrialFolder(tmp_path / "t0000"), tmp_path / "gate", tmp_path
    fence.raise_to(folder.attempt, 1)
    old = attempt_at(tmp_path, 1, gate)
    while not any(isinstance(event, Saved) for event in old.next(0.1)):
        pass
    fence.raise_to(folder.attempt, 2)
    if newer_saves:
        said = run_out(attempt_at(tmp_path, 2, open_gate, steps=newer_saves))
        assert [e.step for e in said if isinstance(e, Saved)] == list(range(2, newer_saves + 1))
    before = files_of(folder.checkpoint)
    gate.touch()
    assert not [event for event in run_out(old) if isinstance(event, Saved | TrialEnded)]
    assert files_of(folder.checkpoint) == before


def test_what_it_would_hand_out_is_refused_too(tmp_path):
    """The toy asks for an artifact when it begins: an attempt that was passed before that does nothing at all."""
    folder = TrialFolder(tmp_path / "t0000")
    fence.raise_to(folder.attempt, 3)
    placed, *rest = run_out(attempt_at(tmp_path, 2, tmp_path))
    assert (placed.kind, rest) == ("trial_placed", [])
    assert list(folder.artifacts.iterdir()) == []


def test_what_keeps_a_checkpoint_from_appearing_leaves_nothing_behind(tmp_path):
    checkpoint.save(tmp_path, 1, {"step": 1})
    (tmp_path / "step-000000002.0badcafe.tmp").write_bytes(b"by a worker that died at it")

    def too_late():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, {"step": 2}, last_look=too_late)
    assert checkpoint.load_last(tmp_path)[:2] == (1, {"step": 1})
    checkpoint.save(tmp_path, 3, {"step": 3})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-000000001.safetensors",
        "step-000000003.safetensors",
    ]


def outcome(record):
    return {
        t.id: (t.seed, t.params, t.now, t.state, t.final, t.last, list(t.curve.steps), list(t.curve.values))
        for t in record.trials.values()
    }


def cut_off_at_random(round: int, orphans: list):
    """As `lab.work`; the driver loses sight of first attempts at a trial; they work on, and it hears of them later."""
    asked: Counter[tuple[str, int]] = Counter()

    def is_cut_off(spec: TrialSpec) -> bool:
        asked[spec.id, spec.attempt] += 1
        seeded = random.Random(f"{round} {spec.id} {spec.attempt}")
        return spec.attempt <= 3 and asked[spec.id, spec.attempt] > seeded.randrange(4)

    def work(driver, live, between):
        while not driver.finished:
            while (spec := driver.next()) is not None:
                live[spec.id] = Attempt(spec)
            for id, attempt in list(live.items()):
                if is_cut_off(attempt.spec):
                    orphans.append(live.pop(id))
                    driver.died(id, attempt.spec.attempt, "its node is lost", 0, began=True)
                    driver.gone(id)
                elif not driver.heard(id, attempt.spec.attempt, attempt.next(0.1)):
                    attempt.stop(5)
                    del live[id]
                    driver.gone(id)
            for orphan in orphans:
                assert not driver.heard(orphan.spec.id, orphan.spec.attempt, orphan.next(0.0))
            driver.tick()

    return work


@pytest.mark.parametrize("name", STUDIES)
def test_a_partition_that_heals_changes_nothing(name, tmp_path, monkeypatch):
    lab.session(tmp_path / "whole", STUDIES[name])
    whole = load_record(StudyFolder(tmp_path / "whole").journal)
    cut = 0
    for round in range(4):
        orphans: list[Attempt] = []
        monkeypatch.setattr(lab, "work", cut_off_at_random(round, orphans))
        root = tmp_path / str(round)
        lab.session(root, {**STUDIES[name], "failures": {"retries": 99}})
        for orphan in orphans:
            orphan.stop(5)
        record, cut = load_record(StudyFolder(root).journal), cut + len(orphans)
        assert outcome(record) == outcome(whole)
        steps = [(e.trial, e.step) for e, _ in read(StudyFolder(root).journal) if e.kind == "reported"]
        assert len(steps) == len(set(steps))
        for trial in record.trials.values():
            assert trial.failures == sum(o.spec.id == trial.id for o in orphans)
            if trial.state is State.FINISHED:
                kept = checkpoint.load_last(StudyFolder(root).trial(trial.id).checkpoint)
                assert kept is not None
                assert kept.step == trial.steps
    assert cut > 5
