"""The main job as a user meets it: wall times of whole commands, and the accuracy of the shipped search.

    python tests/benchmarks/main_job.py [--quick]

``--quick`` leaves out the search on real photos (about 15 minutes on two cores). That needs the data set ``dogs``
under $ORCHESTRATOR_REAL_DATA or in shared/data beside the checkout. Runs and caches go to a folder of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ORCHESTRATOR_REAL_DATA", ROOT.parent / "shared" / "data")) / "dogs"


def main() -> None:
    bars = []
    with tempfile.TemporaryDirectory(prefix="main-job-") as scratch:
        refused = [timed(scratch, "run", "dogs", "resources.gpus=64", expect=2)[0] for _ in range(5)]
        bars.append(Bar("slowest of 5 refusals of a trial that no node holds", max(refused), "s", 3))
        seconds, _ = timed(scratch, "demo")
        bars.append(Bar("demo, first run", seconds, "s", 180))
        trials = len(json.loads(timed(scratch, "leaderboard", "dogs-demo", "--json")[1]))
        bars.append(Bar("demo, trials", trials, "trials", 8, at_most=False))
        if "--quick" not in sys.argv:
            bars += real_search(scratch)
    state("main_job", bars)


def real_search(scratch: str) -> list[Bar]:
    """The shipped study with its defaults, twice: the second finds the features in the cache."""
    if not DATA.is_dir():
        print(f"no photos at {DATA}: the search on real data is left out")
        return []
    first, _ = timed(scratch, "run", "dogs", f"data={DATA}")
    second, _ = timed(scratch, "run", "dogs", f"data={DATA}")
    bars = [
        Bar("search on 12,000 photos, features included", first / 60, "min", 25),
        Bar("the same again, features cached", second / 60, "min", 3),
    ]
    for name in ("dogs", "dogs-2"):
        board = json.loads(timed(scratch, "leaderboard", name, "--json")[1])
        bars.append(Bar(f"{name}: trials", len(board), "trials", 16, at_most=False))
        bars.append(Bar(f"{name}: best top-1", board[0]["value"], "share of 3,600", 0.87, at_most=False))
    return bars


def timed(scratch: str, *words: str, expect: int = 0) -> tuple[float, str]:
    """Wall time and output of one whole ``orchestrator`` command."""
    environment = {**os.environ, "ORCHESTRATOR_RUNS": scratch}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *words],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if done.returncode != expect:
        sys.exit(f"orchestrator {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    print(f"orchestrator {' '.join(words)}: {seconds:.1f} s", flush=True)
    return seconds, done.stdout


if __name__ == "__main__":
    main()
