"""What a trial's process uses: when it is looked at, and that the numbers are its own."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from types import ModuleType

import pytest

from orchestrator.history.events import Reported, Sampled, TrialEnded, TrialPlaced, decode, encode
from orchestrator.trial import sampling, worker
from orchestrator.trial.sampling import Sampler


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_looks_come_soon_then_every_five_seconds_then_ever_more_seldom():
    clock = Clock()
    sampler, looks = Sampler(clock), []
    for second in range(1, 24 * 3600):
        clock.now = 100.0 + second
        if sampler.look():
            looks.append(second)
    assert looks[:4] == [1, 6, 11, 16]
    gaps = [after - before for before, after in itertools.pairwise(looks)]
    assert gaps == sorted(gaps)
    assert 24 * 3600 / gaps[-1] == pytest.approx(60, rel=0.05)
    assert 350 < len(looks) < 450


def test_the_last_look_is_at_the_end_unless_there_has_just_been_one():
    clock = Clock()
    sampler = Sampler(clock)
    clock.now += 0.9
    assert sampler.look(ends=True) == {}
    clock.now += 0.1
    assert sampler.look()
    clock.now += 0.5
    assert sampler.look(ends=True) == {}
    clock.now += 0.5
    assert sampler.look(ends=True)


def test_it_counts_what_children_compute_and_hold():
    """A child that computes for a while beside this process that waits for it, as workers that load data do."""
    clock = Clock()
    sampler = Sampler(clock)
    _, alone = sampling._used()
    code = "import time; held = b'x' * 200_000_000\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        clock.now += 1.0
        usage = sampler.look()
        child.communicate(b"\n")
    assert usage["cpu_percent"] >= 45  # 0.5 s in what the clock says is one; ticks are hundredths
    assert usage["memory_megabytes"] >= (alone + 190e6) / 1e6
    clock.now += 5.0
    assert 0 <= sampler.look()["cpu_percent"] < 50  # its seconds do not count again now that it has ended
    assert sampling._used()[1] < alone + 100e6


def test_numbers_are_the_systems_own():
    code = "import os; from orchestrator.trial import sampling; print(*sampling._used(), *os.times()[:4])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # has nothing below it
    seconds, memory, *times = map(float, asked.stdout.split())
    assert seconds == pytest.approx(sum(times), abs=0.2)
    assert memory > 10_000_000


def test_a_process_that_has_ended_has_nothing_below_it():
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        pass
    assert list(sampling._family(gone.pid)) == [gone.pid]


def test_a_gpu_is_looked_at_once_it_is_used(monkeypatch):
    card = ModuleType("torch.cuda")
    card.is_initialized = lambda: False
    card.memory_reserved = lambda device: 3_000_000_000
    card.utilization = lambda device: 87
    card.power_draw = lambda device: 250_500
    monkeypatch.setitem(sys.modules, "torch.cuda", card)
    assert sampling._gpu() == {}
    card.is_initialized = lambda: True
    found = {"gpu_memory_megabytes": 3000.0, "gpu_utilization_percent": 87.0, "gpu_power_watts": 250.5}
    assert sampling._gpu() == found

    def refuses(device):
        raise RuntimeError("not supported")

    card.power_draw = refuses
    assert sampling._gpu() == {name: found[name] for name in list(found)[:2]}
    monkeypatch.setitem(sys.modules, "torch.cuda", ModuleType("torch.cuda"))  # in the middle of its import
    assert sampling._gpu() == {}


def test_an_attempt_says_it_before_its_end(tmp_path, monkeypatch):
    """Behind its end nothing counts."""
    from orchestrator.history.folder import Runs, StudyFolder
    from orchestrator.history.record import TrialRecord
    from orchestrator.studies.studyfile import build
    from orchestrator.trial.spec import TrialSpec

    monkeypatch.setattr(sampling, "_FIRST_SECONDS", 0.0)
    folder = StudyFolder(Runs(tmp_path).root / "toy")
    folder.trial("t0000").root.mkdir(parents=True)
    study = build({"task": "toy", "search": {"trials": 1}, "params": {"steps": 2}})
    trial = TrialRecord("t0000", 1, study.params_of({}).model_dump(), (), time.time())
    attempt = worker.Attempt(TrialSpec.of(trial, study, folder, tmp_path / "cache", None))
    heard = []
    while not heard or not isinstance(heard[-1], TrialEnded):
        heard += attempt.next(5.0)
    kinds = [type(event) for event in heard]
    assert (kinds[0], kinds[-1]) == (TrialPlaced, TrialEnded)
    assert kinds.count(Reported) == 2
    samples = [event for event in heard if isinstance(event, Sampled)]
    assert samples
    assert decode(encode(samples[0])) == samples[0]
