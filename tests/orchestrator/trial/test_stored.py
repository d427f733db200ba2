"""Results on disk: what comes back, what is mapped and what is found damaged."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from orchestrator.history.events import ItemsDone
from orchestrator.history.record import MapRecord
from orchestrator.objectstore.storage import Mirror
from orchestrator.trial import stored
from orchestrator.trial.jobs import InProcess
from orchestrator.trial.maps import Maps
from orchestrator.trial.stored import Place, StoredResults

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner),
    max_leaves=8,
)
ARRAYS = arrays(
    st.sampled_from(["u1", "i4", "u8", "f4", "f8", "c16", "?", "U3"]), array_shapes(min_dims=0, max_side=4, min_side=0)
)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


@given(st.lists(PLAIN | ARRAYS, max_size=5))
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, results):
    path = tmp_path_factory.mktemp("stored") / "x"
    crc = stored.write(path, results, "digest")
    back = stored.read(path)
    assert len(back) == len(results)
    assert all(same(a, b) for a, b in zip(results, back, strict=True))
    assert stored.checksum_of(path, "digest") == crc
    assert stored.checksum_of(path, "another") is None
    assert [p.name for p in path.parent.iterdir()] == ["x"]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("stored") / "x"
    stored.write(path, [{"a": np.arange(20.0)}, "text"], "digest")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    assert stored.checksum_of(path, "digest") is None


def test_a_file_that_is_not_there_is_not_whole(tmp_path):
    assert stored.checksum_of(tmp_path / "x", "digest") is None


def test_large_arrays_are_mapped_and_read_only(tmp_path):
    large = np.arange(1_000_000)
    stored.write(tmp_path / "x", [large, [large[:500_000], {"b": large.astype("f4")}]], "digest")
    before = pages()
    first, (second, third) = stored.read(tmp_path / "x")
    assert pages() - before < 200, "nothing was read yet"
    assert not first.flags.writeable
    assert first.ctypes.data % 64 == 0
    assert np.array_equal(first, large)
    assert np.array_equal(second, large[:500_000])
    assert np.array_equal(third["b"], large.astype("f4"))


def pages() -> int:
    """Resident pages of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def test_a_result_that_cannot_be_pickled_leaves_nothing(tmp_path):
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        stored.write(tmp_path / "x", [lambda: 0], "digest")
    assert list(tmp_path.iterdir()) == []


def test_results_are_a_sequence_over_their_files(tmp_path):
    batches = [(0, 1), (1, 4), (4, 9)]
    places = []
    for start, stop in reversed(batches):
        path = tmp_path / str(start)
        places.append(Place(start, stop, path, stored.write(path, [10 * i for i in range(start, stop)], "")))
    results = StoredResults(places)
    expected = [10 * i for i in range(9)]
    assert list(results) == expected
    assert [results[i] for i in range(-9, 9)] == expected * 2
    assert results[2:7:2] == expected[2:7:2]
    assert [handle.load() for handle in results.handles] == expected
    assert [handle.load() for handle in pickle.loads(pickle.dumps(results.handles))] == expected  # noqa: S301
    for index in (9, -10):
        with pytest.raises(IndexError):
            results[index]
    os.unlink(tmp_path / "4")
    assert results[3] == 30, "other files are not looked at"


def test_no_results():
    results = StoredResults([])
    assert (len(results), list(results), list(results.handles)) == (0, [], [])


def test_results_are_loaded_where_they_are_not(tmp_path, monkeypatch):
    """One machine computes, another loads; a third goes on with the map. Only what is missing travels."""
    monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / "a"))
    mirror, calls = Mirror(f"file://{tmp_path}/store"), []

    def a_map(journaled=None):
        events = []
        maps = Maps(
            "t0000", mirror.root / "s/maps", mirror.root / "cache", journaled or {}, events.append, InProcess(), mirror
        )
        return maps.run(np.sqrt, [np.arange(5.0), np.arange(9.0)], "roots", None), events

    results, events = a_map()
    packed = pickle.dumps(list(results.handles))
    monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / "b"))
    handles = pickle.loads(packed)  # noqa: S301 - our own
    assert np.array_equal(handles[1].load(), np.sqrt(np.arange(9.0)))
    obtain = Mirror.obtain
    monkeypatch.setattr(Mirror, "obtain", lambda *args, **options: (calls.append(args), obtain(*args, **options)))
    assert np.array_equal(handles[1].load(), np.sqrt(np.arange(9.0)))
    assert calls == []
    monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / "c"))
    batches = {(event.start, event.stop) for event in events if isinstance(event, ItemsDone)}
    results, events = a_map({"roots": MapRecord(2, 0.0, sorted(batches))})
    assert events == []
    assert len(calls) == len(batches)
    assert np.array_equal(results[0], np.sqrt(np.arange(5.0)))
