"""What `context.map` adds to the work itself, on two cores.

    python tests/benchmarks/map.py [--quick]

Three maps of the test task ``many``, each under ``orchestrator run`` with everything on (journal, tracker, Ray started
here). Speed-up: items of one second of real work, against the same items one after the other in one process, over two
cores; the time is that of the map in the journal. Small items: 100,000 of 10 numbers each. Memory: what the driver and
the trial's own process hold privately at most (their anonymous pages; libraries' code is shared) during that map.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
os.environ["ORCHESTRATOR_TASKS"] = str(ROOT / "tests" / "toy_tasks")
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from running import Bench  # noqa: E402

from orchestrator.history.record import MapRecord  # noqa: E402
from orchestrator.studies import registry  # noqa: E402

CORES = 2


def run(root: Path, name: str, watch: bool = False, **params: object) -> tuple[MapRecord, float]:
    """The first map of a study of one trial, and the most megabytes that a process of it held, if that is watched."""
    bench = Bench(root, name, task="many", search={"algorithm": "random", "trials": 1}, params=params)
    most = bench.watched("RssAnon") if watch else 0.0
    if not watch:
        bench.finish()  # looking costs processor time
    (trial,) = bench.record.trials.values()
    return trial.maps["draw"], most


def alone(root: Path, items: int, burn: float) -> float:
    """Seconds of these items one after the other, here."""
    task = registry.task("many")
    from tasks.many import Piece, draw

    pieces = [Piece(task.params(burn=burn, items=items), 1, index, root) for index in range(items)]
    began = time.perf_counter()
    for piece in pieces:
        draw(piece)
    return time.perf_counter() - began


def main() -> None:
    quick = "--quick" in sys.argv
    items, rounds, small = (10, 1, 10_000) if quick else (60, 3, 100_000)
    speed_ups = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for index in range(rounds):
            one_second = alone(root, 4, 1.0) / 4
            large, _ = run(root / f"large-{index}", "large", items=items, burn=1.0, size=10)
            assert large.ended is not None
            speed_ups.append(items * one_second / (large.ended - large.started) / CORES)
            print(f"{items} items of {one_second:.2f} s: {speed_ups[-1]:.0%} of the ideal on {CORES} cores", flush=True)
        many, megabytes = run(root / "small", "small", items=small, size=10, watch=True)
        assert many.ended is not None
        rate = small / (many.ended - many.started)
        print(f"{small} small items: {rate:.0f} a second in {len(many.batches)} batches, {megabytes:.0f} MB")
    state(
        "map",
        [
            Bar("share of the ideal speed-up", 100 * statistics.median(speed_ups), "%", 90, at_most=False),
            Bar("small items", rate, "items/s", 1000, at_most=False),
            Bar("driver's memory", megabytes, "MB", 300),
        ],
    )


if __name__ == "__main__":
    main()
