from __future__ import annotations

import errno
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import EnvironmentProblem, FolderBusy, JournalDamaged, JournalTaken
from orchestrator.history.events import (
    VERSION,
    Cause,
    ItemsDone,
    MapStarted,
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
    decode,
    encode,
)
from orchestrator.history.journal import Journal, is_written, load_record, read
from orchestrator.history.record import replay
from orchestrator.history.states import State

STUDY = {"name": "s", "task": "toy", "search": {"metric": "loss", "goal": "min"}}
EVENTS = [
    StudyStarted("u", STUDY, 2, at=1.5),
    TrialStarted("t0000", 7, {"x": 0.5, "name": "Hündin 犬"}, ("x",), at=2.5),
    TrialPlaced("t0000", "host", 12),
    Reported("t0000", 1, {"loss": 0.25}),
    Reported("t0000", 2, {"loss": math.inf}),
    TrialEnded("t0000", State.FAILED, "diverged at step 2: loss is inf", {"loss": math.inf}),
    Saved("t0000", 2),
    TrialInterrupted("t0000", Cause.STALLED, "it reported nothing", "Traceback …"),
    Mutated("t0000", 2, "t0001", {"x": 0.6}),
    TrialContinued("t0000", 2),
    StudyResumed(STUDY, 3),
    StudyEnded(State.FAILED, {"support": "undecided", "sentence": "–"}),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60).map(float)
times = st.floats(1e9, 2e9)
events = st.one_of(
    st.builds(Reported, st.just("t0000"), st.integers(1, 10**9), st.dictionaries(texts, numbers, max_size=3), at=times),
    st.builds(TrialPlaced, st.just("t0000"), texts, st.integers(1, 2**22), at=times),
    st.builds(TrialInterrupted, st.just("t0000"), st.sampled_from(Cause), texts, texts | st.none(), at=times),
    st.builds(TrialContinued, st.just("t0000"), st.integers(1, 99), at=times),
    st.builds(Saved, st.just("t0000"), st.integers(1, 10**9), at=times),
    st.builds(Mutated, st.just("t0000"), st.integers(1, 10**9), st.just("t0001"), st.just({"x": 0.25}), at=times),
    st.builds(StudyResumed, st.just(STUDY), st.integers(1, 99), at=times),
    st.builds(StudyEnded, st.sampled_from(State), st.none(), texts | st.none(), at=times),
    st.builds(
        TrialEnded,
        st.just("t0000"),
        st.sampled_from(State),
        texts | st.none(),
        st.just({}),
        texts | st.none(),
        at=times,
    ),
)


def test_every_event_survives_the_line():
    for event in EVENTS:
        assert decode(encode(event)) == event


def test_a_changed_byte_is_noticed():
    line = bytearray(encode(EVENTS[3]))
    for position in range(len(line) - 1):
        changed = bytes(line[:position]) + bytes([line[position] ^ 1]) + bytes(line[position + 1 :])
        with pytest.raises(ValueError, match=r"checksum|Expecting|JSON"):
            decode(changed)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=12), st.data())
def test_any_truncation_replays_to_the_state_before_it(tmp_path_factory, tail, data):
    written = [*EVENTS[:2], *tail]
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    with Journal(path) as journal:
        for event in written:
            journal.append(event)
    whole = path.read_bytes()
    ends = [end for _, end in read(path)]
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = sum(end <= cut for end in ends)
    assert replay(event for event, _ in read(path)) == replay(written[:kept])
    with Journal(path) as journal:  # a writer drops the torn end and goes on behind it
        assert journal.record == replay(written[:kept])
        journal.append(EVENTS[0])
    assert [event for event, _ in read(path)] == [*written[:kept], EVENTS[0]]


def test_damage_in_the_middle_is_an_error_that_names_the_place(tmp_path):
    path = tmp_path / "journal.jsonl"
    lines = [encode(event) for event in EVENTS]
    lines[2] = lines[2].replace(b"host", b"hose")
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalDamaged, match=f"byte {len(lines[0]) + len(lines[1])}"):
        list(read(path))


def test_one_writer_only(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path):
        assert is_written(path)
        with pytest.raises(FolderBusy, match="pid"):
            Journal(path)
    assert not is_written(path)


def test_a_writer_that_has_lost_its_lock_stops_when_another_goes_on(tmp_path, monkeypatch):
    """As on a disk whose locks do not reach from host to host: the study belongs to who resumed it last."""
    path = tmp_path / "journal.jsonl"
    monkeypatch.setattr("orchestrator.history.journal._lock", lambda fd, path: None)
    old = Journal(path)
    old.append(*EVENTS[:3])
    new = Journal(path)
    old.append(EVENTS[3])  # the first to write goes on
    with pytest.raises(JournalTaken, match="this one stops"):
        new.append(StudyResumed(STUDY, 3))
    new.close()
    new = Journal(path)
    new.append(StudyResumed(STUDY, 3))
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(JournalTaken, match=r"written by another process, too \(pid \d+ on"):
            old.append(EVENTS[4])
    assert path.read_bytes() == before
    old.close()
    assert path.with_suffix(".pid").exists(), "it names the process that goes on"
    new.append(EVENTS[9])
    assert new.record == replay(event for event, _ in read(path))
    new.close()
    assert not path.with_suffix(".pid").exists()


def test_a_disk_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("orchestrator.history.journal.fcntl.flock", no_locks)
    with pytest.raises(EnvironmentProblem, match=r"locks no files \(No locks available\)"):
        Journal(tmp_path / "journal.jsonl")


def test_a_study_whose_process_died_is_stopped(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(encode(event) for event in EVENTS[:4]))
    record = load_record(path)
    assert record.state is State.STOPPED
    assert record.trials["t0000"].state is State.STOPPED
    assert record.trials["t0000"].metrics == {"loss": 0.25}


def test_a_newer_format_is_refused_and_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(encode(StudyStarted("u", STUDY, 2, version=99)))
    with pytest.raises(EnvironmentProblem, match=f"format 99; this version reads up to {VERSION}"):
        load_record(path)


def test_several_events_are_written_together_or_not_at_all(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(*EVENTS[:2])
        before = path.read_bytes()
        with pytest.raises(TypeError):
            journal.append(EVENTS[2], Reported("t0000", 1, {"loss": object()}))
        assert path.read_bytes() == before
        assert journal.record == replay(EVENTS[:2])


def test_time_is_counted_by_session_and_by_attempt():
    """Pauses between sessions and waiting for a place are no work; an attempt ends with its driver's last word."""
    record = replay(
        [
            StudyStarted("u", STUDY, 2, at=0.0),
            TrialStarted("t0000", 7, {}, (), at=1.0),
            TrialPlaced("t0000", "host", 1, at=3.0),
            Reported("t0000", 1, {"loss": 1.0}, at=5.0),  # then its driver dies
            StudyResumed(STUDY, 2, at=100.0),
            TrialContinued("t0000", 2, at=101.0),
            TrialPlaced("t0000", "host", 2, at=102.0),
            TrialEnded("t0000", State.FINISHED, metrics={"loss": 1.0}, at=112.0),
            StudyEnded(State.FINISHED, at=115.0),
        ]
    )
    assert record.seconds_at(1000.0) == 5 + 15
    assert record.gpu_seconds_at(1000.0, 0.5) == 0.5 * (2 + 10)


def test_of_a_trial_that_maps_its_items_hold_the_gpus():
    record = replay(
        [
            StudyStarted("u", STUDY, 1, at=0.0),
            TrialStarted("t0000", 7, {}, (), at=1.0),
            MapStarted("t0000", "draw", 3, at=2.0),
            ItemsDone("t0000", "draw", 0, 2, 30.0, "host", at=20.0),
            MapStarted("t0000", "draw", 3, at=21.0),  # what was stored was lost: it took its time all the same
            ItemsDone("t0000", "draw", 0, 3, 40.0, "host", at=60.0),
        ]
    )
    assert record.gpu_seconds_at(1000.0, 0.5) == 0.5 * (30 + 40)
    assert record.trials["t0000"].maps["draw"].seconds == 40
