"""`context.map` without Ray: every item once, in order, whatever dies; what went wrong is said with its item."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import run_with_deaths, session

from orchestrator.history.events import ItemsDone, MapStarted
from orchestrator.history.journal import load_record, read
from orchestrator.history.record import MapRecord
from orchestrator.history.states import State
from orchestrator.trial.jobs import Died, InProcess, compute
from orchestrator.trial.maps import MapFailed, Maps, _Batches
from tasks.api import InputError

STUDY = {"task": "many", "search": {"algorithm": "random", "trials": 2}}


def square(x: int) -> int:
    return x * x


def picky(x: int) -> int:
    if x == 7:
        raise ValueError("seven is not to be had")
    return x


def demanding(x: int) -> int:
    raise InputError(f"no {x} here: give another")


def opened(x: int) -> object:
    return open(__file__)


@pytest.fixture
def maps(tmp_path):
    """Makes an attempt's maps: ``maps(journaled, executor) → (maps, events)``."""

    def make(journaled=None, executor=None):
        events = []
        one = Maps(
            "t0000", tmp_path / "maps", tmp_path / "cache", journaled or {}, events.append, executor or InProcess(),
        )  # fmt: skip
        return one, events

    return make


def journaled(events) -> dict[str, MapRecord]:
    """What the journal makes of these events."""
    found: dict[str, MapRecord] = {}
    for event in events:
        if isinstance(event, MapStarted):
            found[event.map] = MapRecord(event.items, event.at)
        else:
            found[event.map].add(event)
    return found


class Mortal(InProcess):
    """Workers that die, by chance or always on one item; what they had computed may or may not be stored."""

    def __init__(self, seed=0, rate=0.3, deadly=None, slots=3):
        super().__init__()
        self.rng, self.rate, self.deadly, self.slots = random.Random(seed), rate, deadly, slots
        self.computed = Counter()

    def done(self, patience):
        job = self._jobs[self.rng.randrange(len(self._jobs))]  # in any order
        self._jobs.remove(job)
        if self.deadly in range(job.start, job.stop):
            return [(job, Died("its worker died"))]
        if self.rng.random() < self.rate:
            if self.rng.random() < 0.5:
                compute(job)
            return [(job, Died("its worker died"))]
        self.computed.update(range(job.start, job.stop))
        return [(job, compute(job))]


# ------------------------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize("items", [0, 1, 2, 1000, 12345])
def test_results_are_in_the_order_of_the_items(maps, items):
    one, events = maps()
    results = one.run(square, range(items), None, None)
    assert list(results) == [x * x for x in range(items)]
    assert len(results) == items
    assert events[0] == MapStarted("t0000", "square", items, at=events[0].at)
    done = sorted((e.start, e.stop) for e in events[1:])
    assert [start for start, _ in done] == [0, *(stop for _, stop in done[:-1])][: len(done)]
    assert not done or done[-1][1] == items


@given(st.integers(0, 2000), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_batches_are_every_item_once_however_long_items_take(items, slots, rng):
    batches, seen = _Batches([range(items // 2), range(items // 2, items)], 100), []
    while (batch := batches.next(slots)) is not None:
        if rng.random() < 0.1 and len(batch) > 1:
            batches.again(batch)
            continue
        seen += batch
        batches.learn(len(batch), rng.choice([0.0, 1e-6, 0.01, 10.0]) * len(batch))
        assert len(batch) <= 100
    assert sorted(seen) == list(range(items))


def test_small_items_are_batched_and_large_ones_are_not(maps):
    one, events = maps()
    one.run(square, range(100_000), None, None)
    assert len(events) < 300
    batches = _Batches([range(1000)], 1000)
    for _ in range(20):
        assert len(batches.next(2)) == 1
        batches.learn(1, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_deaths_change_nothing(maps, seed):
    one, _ = maps(executor=Mortal(seed, rate=0.1))
    assert list(one.run(square, range(500), None, None)) == [x * x for x in range(500)]


def test_an_item_whose_worker_always_dies_is_named(maps):
    one, _ = maps(executor=Mortal(rate=0, deadly=17))
    with pytest.raises(MapFailed, match=r"^item 17 of map 'square': its worker died \(after 4 tries\)$"):
        one.run(square, range(50), None, None)


# ------------------------------------------------------------------------------------------------------------- resume


def test_what_the_journal_has_is_not_computed_again(maps):
    first, events = maps()
    first.run(square, range(100), None, None)
    for known in range(1, len(events) + 1):
        executor = Mortal(rate=0)
        again, said = maps(journaled(events[:known]), executor)
        assert list(again.run(square, range(100), None, None)) == [x * x for x in range(100)]
        there = {i for e in events[1:known] for i in range(e.start, e.stop)}
        assert set(executor.computed) == set(range(100)) - there
        whole = journaled([*events[:known], *said])["square"]
        assert (whole.done, whole.items) == (100, 100)


def test_what_is_damaged_is_computed_again_and_the_journal_told(maps, tmp_path):
    first, events = maps()
    first.run(square, range(100), None, None)
    damaged = sorted((tmp_path / "maps" / "square").iterdir())[2]
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    executor = Mortal(rate=0)
    again, said = maps(journaled(events), executor)
    assert list(again.run(square, range(100), None, None)) == [x * x for x in range(100)]
    start, stop = (int(part) for part in damaged.name.split("-"))
    assert set(executor.computed) == set(range(start, stop))
    assert isinstance(said[0], MapStarted)
    whole = journaled([*events, *said])["square"]
    assert (whole.done, whole.computed) == (100, stop - start)


@pytest.mark.parametrize("items", [range(1, 101), range(90), range(110)])
def test_results_of_other_items_do_not_count(maps, items):
    first, events = maps()
    first.run(square, range(100), None, None)
    again, said = maps(journaled(events))
    assert list(again.run(square, items, None, None)) == [x * x for x in items]
    assert journaled([*events, *said])["square"].done == len(items)


@pytest.mark.parametrize("deaths", [[n] for n in range(3, 40, 3)] + [[5, 4, 6, 5], [12, 7, 9]])
def test_a_driver_that_dies_anywhere(tmp_path, deaths):
    whole = session(tmp_path / "whole", STUDY)
    raw = {**STUDY}
    run_with_deaths(tmp_path / "s", raw, deaths)
    found, expected = (load_record(tmp_path / name / "journal.jsonl") for name in ("s", "whole"))
    assert {t.id: t.final for t in found.trials.values()} == {t.id: t.final for t in expected.trials.values()}
    assert whole.finished
    for trial in found.trials.values():
        assert trial.state is State.FINISHED
        assert {name: (m.done, m.items) for name, m in trial.maps.items()} == {"draw": (12, 12), "add": (3, 3)}
    drawn = Counter((tmp_path / "s" / "trials" / "t0000" / "artifacts" / "drawn.txt").read_text().split()[::2])
    journaled_twice = Counter(
        i for e, _ in read(tmp_path / "s" / "journal.jsonl") if isinstance(e, ItemsDone) and e.trial == "t0000"
        and e.map == "draw" and e.node is not None for i in range(e.start, e.stop)
    )  # fmt: skip
    assert set(drawn) == {str(i) for i in range(12)}
    assert set(journaled_twice.values()) == {1}, "what was journaled was never computed again"


# --------------------------------------------------------------------------------------------------------------- keys


def test_with_keys_only_what_is_new_is_computed(maps):
    for items, new in ((range(5), range(5)), (range(8), range(5, 8)), (range(3, 6), range(0))):
        executor = Mortal(rate=0)
        one, events = maps(executor=executor)
        results = one.run(square, items, None, [f"k{i}" for i in items])
        assert list(results) == [x * x for x in items]
        assert {items[i] for i in executor.computed} == set(new)
        assert journaled(events)["square"].done == len(items)
        assert journaled(events)["square"].computed == len(new)


def test_two_trials_that_need_the_same_compute_it_once(maps):
    executors, threads = [Mortal(rate=0, slots=1) for _ in range(4)], []
    for executor in executors:
        one, _ = maps(executor=executor)
        work = threading.Thread(target=one.run, args=(square, range(20), "squares", [f"k{i}" for i in range(20)]))
        threads.append(work)
        work.start()
    for thread in threads:
        thread.join(60)
    assert sum((executor.computed for executor in executors), Counter()) == Counter(range(20))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["a", "b"], "3 items and 2 different keys"),
        (["a", "b", "a"], "3 items and 2 different keys"),
        (["a", "b", "../c"], "cannot be a key"),
        (["a", "b", ".c"], "cannot be a key"),
    ],
)
def test_keys_that_cannot_be(maps, keys, says):
    with pytest.raises(ValueError, match=says):
        maps()[0].run(square, range(3), None, keys)


# ------------------------------------------------------------------------------------------------------------- errors


def test_an_item_that_fails_names_itself_and_its_traceback(maps):
    with pytest.raises(MapFailed) as raised:
        maps()[0].run(picky, range(20), "numbers", None)
    assert str(raised.value) == "item 7 of map 'numbers' (7) failed: ValueError: seven is not to be had"
    assert 'raise ValueError("seven is not to be had")' in str(raised.value.__cause__)


def test_bad_input_is_the_users(maps):
    with pytest.raises(InputError, match=r"^no 0 here: give another$"):
        maps()[0].run(demanding, range(3), None, None)


def test_a_result_that_cannot_be_stored(maps):
    with pytest.raises(MapFailed, match=r"item 0 of map 'opened' \(0\) failed: TypeError: cannot pickle"):
        maps()[0].run(opened, range(3), None, None)


def test_a_function_that_cannot_travel(maps):
    with pytest.raises(TypeError, match="defined at a module's top"):
        maps()[0].run(lambda x: x, range(3), "numbers", None)


def test_names(maps):
    one, _ = maps()
    one.run(square, range(3), None, None)
    with pytest.raises(ValueError, match="has a map 'square' already: give this one another name="):
        one.run(square, range(3), None, None)
    for name in ("../x", "a b", ".x"):
        with pytest.raises(ValueError, match="cannot name a map"):
            one.run(square, range(3), name, None)


def test_a_task_that_does_not_say_that_it_maps(tmp_path, monkeypatch):
    from dataclasses import replace

    from orchestrator.studies import registry

    honest = registry.task("many")
    monkeypatch.setattr(registry, "task", lambda name, where=None: replace(honest, maps=False))
    driver = session(tmp_path / "s", {**STUDY, "failures": {"retries": 0}})
    assert {t.reason for t in driver._record.trials.values()} == {
        "TypeError: task 'many' uses context.map: its Task must say maps=True"
    }


def test_what_a_finished_trial_stored_goes_and_what_a_failed_one_did_stays(tmp_path):
    session(tmp_path / "well", STUDY)
    assert not (tmp_path / "well" / "trials" / "t0000" / "maps").exists()
    session(tmp_path / "raise", {**STUDY, "params": {"mood": "raise"}, "failures": {"retries": 1}})
    assert any((tmp_path / "raise" / "trials" / "t0000" / "maps" / "draw").iterdir())
    record = load_record(tmp_path / "raise" / "journal.jsonl")
    assert record.trials["t0000"].reason.startswith("item 5 of map 'draw' (Piece(params=ManyParams(items=12")
    assert record.trials["t0000"].reason.endswith("failed: RuntimeError: the piece broke (after 2 attempts)")
    assert "go_wrong" in record.trials["t0000"].traceback
