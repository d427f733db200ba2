"""Files that are torn, flipped or gone, and two who want the same study: without Ray, but for what says so."""

from __future__ import annotations

import hashlib
import os
import random
import re
from pathlib import Path

import pytest
import torch
from lab import Killed, session
from running import Bench, outcome

from orchestrator.history import checkpoint
from orchestrator.history.events import Reported, Saved
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import Journal, load_record, read
from orchestrator.history.states import State
from orchestrator.trial import worker

STUDY = {
    "search": {"algorithm": "random", "trials": 4, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 6, "saves": True, "noise": 0.1},
}
LONG = {**STUDY, "search": {**STUDY["search"], "trials": 1}, "params": {**STUDY["params"], "steps": 20}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    made = {}

    def of(study):
        trials = study["search"]["trials"]
        if trials not in made:
            root = tmp_path_factory.mktemp("undisturbed") / "s"
            session(root, {"name": "s", **study})
            made[trials] = outcome(load_record(StudyFolder(root).journal))
        return made[trials]

    return of


def cut_off(root: Path, dies_after: int, study=STUDY) -> StudyFolder:
    """A study whose driver has died."""
    with pytest.raises(Killed):
        session(root, {"name": "s", **study}, dies_after=dies_after)
    return StudyFolder(root)


def offsets(journal: Path) -> list[tuple[object, int, int]]:
    """Each event, with where its line begins and ends."""
    found, begin = [], 0
    for event, end in read(journal):
        found.append((event, begin, end))
        begin = end
    return found


# ------------------------------------------------------------------------------------------------------- the journal


@pytest.mark.parametrize("seed", range(24))
def test_a_torn_tail(seed, undisturbed, tmp_path, monkeypatch):
    """Cut at any byte of what no fsync has made safe, as a machine that loses its power leaves it."""
    rng = random.Random(seed)
    monkeypatch.setattr(worker, "_GATHER_SECONDS", rng.choice([0.0, 0.001, 0.05]))
    folder = cut_off(tmp_path / "s", rng.randrange(8, 48))
    lines = offsets(folder.journal)
    safe = max(end for event, _, end in lines if not isinstance(event, Reported | Saved))
    last = lines[-1][1]
    first = last + 1 if seed % 2 else min(safe, last)  # only the last line, or all that is not safe
    at = rng.randrange(first, lines[-1][2])
    os.truncate(folder.journal, at)
    session(folder.root)
    record = load_record(folder.journal)
    assert record.state is State.RUNNING or record.reason  # the lab writes no end
    assert outcome(record) == undisturbed(STUDY), at
    steps = [(e.trial, e.step) for e, _ in read(folder.journal) if isinstance(e, Reported)]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_in_the_middle(seed, tmp_path):
    """Nobody guesses what it was: the message says where, and nothing on disk is touched."""
    rng = random.Random(seed)
    bench = Bench(tmp_path, "s", **STUDY)
    folder = cut_off(bench.folder.root, 40)
    lines = offsets(folder.journal)
    _, begin, end = rng.choice(lines[:-1])
    content = bytearray(folder.journal.read_bytes())
    content[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    folder.journal.write_bytes(content)
    before = everything(bench.runs.root)
    for words in (("resume", "s"), ("track", "s")):
        said = bench.finish(*words, expect=3)
        assert str(folder.journal) in said
        where = int(re.search(r"byte (\d+)", said)[1])
        assert begin <= where <= end  # a flip may make two lines of one
        assert everything(bench.runs.root) == before


def everything(root: Path) -> dict[str, str]:
    """The content of every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# --------------------------------------------------------------------------------------------------------- checkpoints


def damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[rng.randrange(1, len(content)) :]
    elif how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("how", ["truncated", "flipped", "empty"])
def test_a_damaged_last_checkpoint(how, seed, undisturbed, tmp_path):
    """The trial goes on from the one before, and its log says so."""
    rng = random.Random(seed)
    folder = cut_off(tmp_path / "s", rng.randrange(14, 36), LONG)
    trial = folder.trial("t0000")
    older, last = sorted(trial.checkpoint.glob("step-*.safetensors"))
    damage(last, how, rng)
    executed = len((trial.artifacts / "executed.txt").read_text().split())
    session(folder.root)
    assert outcome(load_record(folder.journal)) == undisturbed(LONG)
    assert f"checkpoint {last} is damaged" in trial.log.read_text()
    again = (trial.artifacts / "executed.txt").read_text().split()[executed:]
    assert int(again[0]) == int(older.stem[5:]) + 1


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(tmp_path, capsys):
    """Wherever it is, in a tensor or in plain values: the file is passed over, or says what it said."""
    state = {"w": torch.arange(6.0).reshape(2, 3), "walk": 0.123456789, "history": [1, 2, 3], "name": "toy"}
    rng, notes = random.Random(0), [{"trial": "t0000", "step": 2, "metrics": {"loss": 0.25}, "at": 1.5}]
    for number in range(150):
        folder = tmp_path / str(number)
        checkpoint.save(folder, 3, state, 0.5, notes)
        damage(next(folder.iterdir()), "flipped", rng)
        kept = checkpoint.load_last(folder)
        if kept is not None:
            assert kept.step == 3
            assert kept.notes == notes
            assert torch.equal(kept.state.pop("w"), state["w"])
            assert kept.state == {name: value for name, value in state.items() if name != "w"}
    assert capsys.readouterr().out.count("is damaged") > 100


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty"])
def test_without_any_whole_checkpoint_it_begins_anew(how, undisturbed, tmp_path):
    rng = random.Random(7)
    folder = cut_off(tmp_path / "s", 25, LONG)
    trial = folder.trial("t0000")
    files = sorted(trial.checkpoint.glob("step-*.safetensors"))
    for path in files:
        damage(path, how, rng)
    executed = len((trial.artifacts / "executed.txt").read_text().split())
    session(folder.root)
    assert outcome(load_record(folder.journal)) == undisturbed(LONG)
    assert trial.log.read_text().count("is damaged") == len(files) == 2
    assert (trial.artifacts / "executed.txt").read_text().split()[executed:] == [str(s) for s in range(1, 21)]


# ------------------------------------------------------------------------------------------------- two at one study


def test_two_at_one_study(tmp_path):
    bench = Bench(tmp_path, "s", **STUDY)
    folder = cut_off(bench.folder.root, 20)
    with Journal(folder.journal):
        before = everything(bench.runs.root)
        assert f"pid {os.getpid()} on " in bench.finish("resume", "s", expect=2)
        said = bench.finish("run", str(bench.file), expect=2)
        assert "'s' is running" in said
        assert f"pid {os.getpid()} on " in said
        assert everything(bench.runs.root) == before


def test_a_run_does_not_begin_beside_an_unfinished_one(tmp_path):
    bench = Bench(tmp_path, "s", **STUDY)
    cut_off(bench.folder.root, 20)
    before = everything(bench.runs.root)
    said = bench.finish("run", str(bench.file), expect=2)
    assert "'s' is unfinished: " in said
    assert "orchestrator resume s" in said
    assert everything(bench.runs.root) == before


@pytest.mark.faults
def test_a_second_driver_of_a_running_study_is_sent_away(tmp_path):
    """A real one: the second names the first's pid and disturbs nothing."""
    gate = tmp_path / "gate"
    bench = Bench(tmp_path, "s", **{**STUDY, "params": {**STUDY["params"], "wait_for": str(gate)}})
    process = bench.start()
    waits = lambda: bench.events() and any(t.steps == 1 for t in bench.record.trials.values())  # noqa: E731
    assert bench.until(waits, process)
    before = bench.events()
    for words in (("resume", "s"), ("run", str(bench.file))):
        assert f"pid {process.pid} on " in bench.finish(*words, expect=2)
    assert bench.events() - before <= 4  # of the trial beside it, which may have come to its gate meanwhile
    gate.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert bench.record.state is State.FINISHED
    assert [t.attempt for t in bench.record.trials.values()] == [1] * 4
