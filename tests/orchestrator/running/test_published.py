"""Studies at a URL: journals in parts, leases, and drivers whose machine is gone, with all that was on it."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from itertools import pairwise
from time import time

import lab
import pytest
from running import outcome

from orchestrator.errors import FolderBusy, UnknownName, UserError
from orchestrator.history.events import StudyStarted
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import Journal, is_written, lease_of, load_record, read
from orchestrator.history.states import State
from orchestrator.objectstore import lease, parts
from orchestrator.objectstore.storage import Mirror
from orchestrator.running import publisher
from orchestrator.running.publisher import open_journal
from orchestrator.trial import trialfiles

BEGUN = StudyStarted("uid", {"search": {"metric": "loss"}}, 1)
STUDY = {
    "search": {"algorithm": "random", "trials": 4, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 5, "saves": True, "noise": 0.1},
}
PBT = {
    "search": {
        "algorithm": "random", "trials": 4, "space": {"x": {"uniform": [-1, 1]}},
        "scheduler": {"kind": "pbt", "interval": 2, "quantile": 0.5},
    },
    "params": {"steps": 8, "saves": True, "noise": 0.1},
}  # fmt: skip
HYPERBAND = {
    "search": {**STUDY["search"], "trials": 6, "scheduler": {"kind": "hyperband", "max_steps": 9}},
    "params": {"steps": 9, "saves": True, "noise": 0.1},
}


@pytest.fixture
def on(monkeypatch, tmp_path):
    def move(machine: str) -> None:
        monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / machine))
        monkeypatch.setattr(lease, "_machine", lambda: machine)

    move("a")
    return move


@pytest.fixture
def mirror(tmp_path, on):
    return Mirror(f"file://{tmp_path}/store")


def study(mirror: Mirror, name: str = "s") -> StudyFolder:
    return StudyFolder(mirror.root / name, mirror)


# ------------------------------------------------------------------------------------------------------------- parts


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 10)


def grow(mirror, text, published):
    journal = study(mirror).journal
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text(text)
    parts.publish_journal(mirror, journal, len(text), published)
    return journal


def test_a_journal_in_parts_comes_back_whole(mirror, on, small_parts):
    for before, length in pairwise((0, 3, 10, 17, 20, 45)):
        on("a")
        text = "".join(str(i % 10) for i in range(length))
        grow(mirror, text, before)
        on("b")
        assert parts.obtain_journal(mirror, study(mirror).journal) == length
        assert study(mirror).journal.read_text() == text


def test_only_the_end_travels(mirror, on, small_parts, monkeypatch):
    grow(mirror, "x" * 45, 0)
    on("b")
    parts.obtain_journal(mirror, study(mirror).journal)
    on("a")
    sent, got, write, read_one = [], [], Mirror.write, Mirror.read
    monkeypatch.setattr(Mirror, "write", lambda self, path, *rest: (sent.append(path.name), write(self, path, *rest)))
    monkeypatch.setattr(Mirror, "read", lambda self, path: (got.append(path.name), read_one(self, path))[1])
    grow(mirror, "x" * 52, 45)
    assert sent == ["000004", "000005"]
    on("b")
    parts.obtain_journal(mirror, study(mirror).journal)
    assert got == ["000004", "000005"]
    parts.obtain_journal(mirror, study(mirror).journal)
    assert len(got) == 2


def test_who_wrote_last_keeps_what_was_not_sent(mirror, small_parts):
    journal = grow(mirror, "x" * 25, 0)
    journal.write_text("x" * 25 + "more")
    assert parts.obtain_journal(mirror, journal) == 25
    assert journal.read_text() == "x" * 25 + "more"


def test_what_another_machine_went_on_with_replaces_what_was_not_sent(mirror, on, small_parts):
    journal = grow(mirror, "x" * 25, 0)
    journal.write_text("x" * 25 + "lost")
    on("b")
    grow(mirror, "x" * 25 + "here", 25)
    on("a")
    parts.obtain_journal(mirror, journal)
    assert journal.read_text() == "x" * 25 + "here"


def test_an_end_that_was_torn_is_not_read(mirror, on, small_parts):
    """The first part was cut with its torn line, the second is of before that."""
    grow(mirror, "x" * 15, 0)
    grow(mirror, "y" * 8, 0)
    on("b")
    parts.obtain_journal(mirror, study(mirror).journal)
    assert study(mirror).journal.read_text() == "y" * 8


# ------------------------------------------------------------------------------------------------------------- lease


def test_one_machine_at_a_time(mirror, on):
    with open_journal(study(mirror)) as journal:
        journal.append(BEGUN)
        on("b")
        with pytest.raises(FolderBusy, match=r"'s' is being written by pid \d+ on"), open_journal(study(mirror)):
            pass
        on("a")
    on("b")
    with open_journal(study(mirror)) as journal:
        assert journal.end > 0
    assert lease.holder(mirror, lease_of(study(mirror).journal)) is None


def test_a_machine_that_is_gone_is_waited_for_a_minute(mirror, on, monkeypatch):
    lease.take(mirror, lease_of(study(mirror).journal))
    on("b")
    path = lease_of(study(mirror).journal)
    monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0)
    with pytest.raises(FolderBusy):
        lease.take(mirror, path)
    monkeypatch.setattr(lease, "STALE_SECONDS", 0)
    lease.take(mirror, path)
    assert lease.holder(mirror, path).machine == "b"


def test_who_was_taken_for_dead_writes_nothing_more(mirror, on, monkeypatch):
    """It comes back to life, finds the lease taken, and leaves the URL as it is."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0)
    monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0)
    with pytest.raises(lease.LeaseLost, match="is written by pid"), open_journal(study(mirror)) as journal:  # noqa: PT012
        journal.append(BEGUN)
        journal.settle()
        before = mirror.read(study(mirror).journal.with_suffix(".parts") / "000000")
        monkeypatch.setattr(lease, "STALE_SECONDS", 0)
        monkeypatch.setattr(lease, "_machine", lambda: "b")
        lease.take(mirror, lease_of(study(mirror).journal))
        journal.append(BEGUN)
        journal.settle()
    assert mirror.read(study(mirror).journal.with_suffix(".parts") / "000000") == before
    assert lease.holder(mirror, lease_of(study(mirror).journal)).machine == "b"


def test_a_dead_process_of_this_machine_is_not_waited_for(mirror):
    path = lease_of(study(mirror).journal)
    lease.take(mirror, path)
    held = lease.holder(mirror, path)
    assert held.is_live
    assert not replace(held, pid=2**22 + 1).is_live
    assert replace(held, pid=2**22 + 1, machine="another").is_live
    assert not replace(held, renewed=time() - 100).is_live


def test_readers_elsewhere_see_that_it_runs(mirror, on):
    with open_journal(study(mirror)) as journal:
        journal.append(BEGUN)
        journal.settle()
        on("b")
        folder = Runs(mirror.root, mirror).study("s")
        assert is_written(folder.journal)
        on("a")
    on("b")
    assert not is_written(Runs(mirror.root, mirror).study("s").journal)


# ------------------------------------------------------------------------------------------- a driver's machine goes


@pytest.fixture
def slow_rounds(monkeypatch):
    """Nothing is published that nobody waits for: the journal at the URL is as far behind as it can be."""
    monkeypatch.setattr(publisher, "ROUND_SECONDS", 1000.0)


@pytest.mark.parametrize("raw", [STUDY, PBT, HYPERBAND], ids=["random", "pbt", "hyperband"])
@pytest.mark.parametrize("seed", range(3))
def test_the_machine_goes_again_and_again(raw, seed, mirror, on, tmp_path, slow_rounds):
    """And what it had of the journal beyond the URL with it; the checkpoints at the URL are ahead then."""
    lab.session(tmp_path / "undisturbed" / "s", raw)
    undisturbed = outcome(load_record(tmp_path / "undisturbed" / "s" / "journal.jsonl"))
    rng = random.Random(seed)
    root, resumed = study(mirror).root, False
    for dies_after in [rng.randrange(1, 60) for _ in range(4)] + [10**9]:
        shutil.rmtree(mirror.root, ignore_errors=True)
        try:
            lab.session(root, None if resumed else raw, dies_after=dies_after, mirror=mirror)
        except lab.Killed:
            resumed = True
        else:
            break
    on("b")
    folder = Runs(mirror.root, mirror).study("s")
    record = load_record(folder.journal)
    assert outcome(record) == undisturbed
    for trial in record.trials.values():
        place = folder.trial(trial.id)
        place.obtain(place.root)
        assert {"attempts.txt", "executed.txt"} <= {path.name for path in place.artifacts.iterdir()}
        assert place.log.read_text()
    assert list(read(folder.journal))


def test_a_journal_too_far_behind_costs_a_trial_its_progress_and_nothing_else(
    mirror, tmp_path, slow_rounds, monkeypatch
):
    monkeypatch.setattr(trialfiles, "_LAG_SECONDS", -1.0)  # checkpoints know of no lag
    paced = {**STUDY, "params": {**STUDY["params"], "pace": 0.2}}  # each step is a message of its own
    lab.session(tmp_path / "undisturbed" / "s", paced)
    with pytest.raises(lab.Killed):
        lab.session(study(mirror).root, paced, dies_after=9, mirror=mirror)
    shutil.rmtree(mirror.root)
    lab.session(study(mirror).root, mirror=mirror)
    record = load_record(study(mirror).journal)
    assert outcome(record) == outcome(load_record(tmp_path / "undisturbed" / "s" / "journal.jsonl"))
    assert "the journal has lost reports" in study(mirror).trial("t0000").log.read_text()


def test_a_checkpoint_of_other_parameters_is_not_gone_on_from(mirror, tmp_path, slow_rounds):
    """The search had chosen them for a trial that the journal has lost, knowing what the journal has lost too."""
    with pytest.raises(lab.Killed):
        lab.session(study(mirror).root, STUDY, dies_after=9, mirror=mirror)
    shutil.rmtree(mirror.root)
    shutil.rmtree(tmp_path / "store" / "s" / "journal.parts")
    other = {**STUDY, "seed": 1}
    lab.session(study(mirror).root, other, mirror=mirror)
    lab.session(tmp_path / "other" / "s", other)
    assert outcome(load_record(study(mirror).journal)) == outcome(
        load_record(tmp_path / "other" / "s" / "journal.jsonl")
    )
    assert "the journal has lost the trial" in study(mirror).trial("t0000").log.read_text()


# ------------------------------------------------------------------------------------------------------- other parts


def test_runs_are_told_by_their_url(mirror, on, monkeypatch):
    lab.session(study(mirror).root, {**STUDY, "name": "s"}, mirror=mirror)
    monkeypatch.setenv("ORCHESTRATOR_RUNS", mirror.url)
    on("b")
    runs = Runs.default()
    assert [folder.name for folder in runs.studies()] == ["s"]
    assert load_record(runs.studies()[0].journal).state is State.STOPPED  # the lab does not write an end
    assert runs.newest("s").name == "s"
    assert runs.new_study("s").name == "s-2"
    with pytest.raises(UnknownName, match=r"in file://"):
        runs.study("t")


def test_a_page_written_anew_reaches_the_store_with_its_figures(mirror, on, monkeypatch, command):
    lab.session(study(mirror).root, {**STUDY, "name": "s"}, mirror=mirror)
    monkeypatch.setenv("ORCHESTRATOR_RUNS", mirror.url)
    on("b")
    assert command("report", "s")[0] == 0
    on("c")
    elsewhere = Runs.default().study("s")
    elsewhere.obtain_pages()
    assert elsewhere.report.exists()
    assert (elsewhere.figures / "study-curves.png").exists()


def test_orders_do_not_travel(mirror, on):
    from orchestrator.running.control import Command, order

    with open_journal(study(mirror)) as journal:
        journal.append(BEGUN)
        journal.settle()
        on("b")
        folder = Runs(mirror.root, mirror).study("s")
        with pytest.raises(UserError, match=r"is run by another machine \(pid \d+ on"):
            order(folder, Command.STOP)
        on("a")


def test_the_journal_is_not_opened_twice_here(mirror):
    with open_journal(study(mirror)), pytest.raises(FolderBusy), open_journal(study(mirror)):
        pass
    with Journal(study(mirror).journal) as journal:
        assert journal.end == 0
