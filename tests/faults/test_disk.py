"""The disk under the study's folder fills up: an error that names it, and a resume once there is room again."""

from __future__ import annotations

import os
import random
import subprocess

import invariants
import pytest
from running import Bench, outcome, some_events

from orchestrator.history.states import State

pytestmark = pytest.mark.faults

STUDY = {
    "search": {"algorithm": "random", "trials": 6, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 12, "saves": True, "noise": 0.1, "pace": 0.05},
}
SIZE = 260_000_000


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of a size."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), "s", **STUDY)
    bench.finish()
    return outcome(bench.record)


@pytest.mark.parametrize("seed", range(5))
def test_the_disk_fills_up(seed, undisturbed, small_disk):
    """At a seeded random moment nothing is left; the study says so and stops, and goes on when there is room."""
    rng, bench = random.Random(seed), Bench(small_disk, "s", **STUDY)
    process = bench.start()
    target = 10 + some_events(rng, 60)
    assert bench.until(lambda: bench.events() >= target, process)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, out + err
    assert "is full" in err
    assert str(small_disk) in err
    assert "orchestrator resume s" in err
    assert "Traceback" not in err
    os.unlink(ballast)
    bench.finish()
    assert outcome(bench.record) == undisturbed
    assert bench.record.state is State.FINISHED
    bench.finish("track", "s")
    invariants.check(bench.record, bench.folder.journal, bench.tracker)


def test_too_little_room_is_said_before_anything_starts(small_disk):
    (small_disk / "ballast").write_bytes(b"\0" * (SIZE - 100_000_000))
    bench = Bench(small_disk, "s", **STUDY)
    assert "MB left" in bench.finish(expect=3)
    assert not bench.folder.root.exists()
