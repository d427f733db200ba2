"""Greedy selection from a thousand classifiers of 3,600 photos in 120 classes: how long, and are the picks right?

    python tests/benchmarks/ensemble.py [--quick]

Drawn classifiers of .75 to .88 top-1, whose errors go together in part, leave their scores in a thousand folders as
trials do. Measured: reading them all, and a selection of 50 picks in each of 20 bags by accuracy and by log loss, on
one core; private memory while that runs, sampled. The plain search, which sums and compares everything in float64 for
every candidate and every pick, is run on a small case beside it and must make the same picks. ``--quick``: a hundred.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tasks" / "ensemble")]

from plain import plain_greedy  # noqa: E402

from tasks import logits as left  # noqa: E402
from tasks.api import Input  # noqa: E402
from tasks.ensemble import EnsembleParams, greedy, recipe  # noqa: E402
from tasks.ensemble.candidates import Candidates  # noqa: E402
from tasks.ensemble.members import Members, of_inputs  # noqa: E402

QUICK = "--quick" in sys.argv
MEMBERS, PHOTOS, CLASSES = (100, 1200, 120) if QUICK else (1000, 3600, 120)
SMALL = (20, 150, 10)


class PrivateMemory:
    """The most private memory, MB, that this process held while it lasted."""

    def __enter__(self) -> PrivateMemory:
        self.most, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.most = max(self.most, kilobytes / 1024)


def draw(folder: Path, members: int, photos: int, classes: int) -> list[Input]:
    """Trials of drawn classifiers, their scores in folders."""
    rng = np.random.default_rng(1)
    labels = np.arange(photos) % classes
    names = tuple(f"class{c:03}" for c in range(classes))
    keys = tuple(f"val/{names[y]}/{i:05}.jpg" for i, y in enumerate(labels))
    shared = rng.standard_normal((photos, classes), dtype=np.float32)
    rows, inputs = np.arange(photos), []
    for m in range(members):
        strength = 3.5 + 0.9 * m / members
        scores = 0.8 * shared + 0.6 * rng.standard_normal((photos, classes), dtype=np.float32)
        scores[rows, labels] += strength
        artifacts = folder / f"{m:04}"
        left.write(artifacts / "logits", left.Logits(scores * strength, keys, labels, names))
        inputs.append(Input("drawn", f"{m:04}", {}, {}, 0, artifacts))
    return inputs


def timed(members: Members, metric: str, folder: Path) -> float:
    """Seconds of one selection on all photos."""
    began = time.monotonic()
    params = EnsembleParams(metric=metric, recalibrate=False)
    found = recipe.fit(members, np.arange(len(members.frame.keys)), params, 1, folder)
    seconds = time.monotonic() - began
    print(f"{metric}: {len(found.used)} members, effectively {found.effective:.1f}, {seconds:.1f} s", flush=True)
    return seconds


def agreement(members: Members, folder: Path) -> float:
    """Of the picks on a small case, the share that the plain search makes as well."""
    photos = np.arange(len(members.frame.keys))
    log_p = np.stack([member.log_probabilities() for member in members.all])
    same = total = 0
    for metric in ("accuracy", "log_loss"):
        ranking = recipe.ranking(members, photos, metric)
        allowed = greedy.bags(len(members), 4, 0.5, np.random.default_rng(0))
        candidates = Candidates(members, range(len(members)), photos, np.ones(len(members)), folder)
        for one, bag in zip(greedy.select(candidates, allowed, metric, ranking, 12, 3), allowed, strict=True):
            plain = plain_greedy(np.exp(log_p), members.frame.labels, bag, metric, ranking, 12, 3)
            same += sum(a == b for a, b in zip(one.picks, plain, strict=True))
            total += len(plain)
    return same / total


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("ORCHESTRATOR_SCRATCH")) as place:
        folder = Path(place)
        inputs = draw(folder / "many", MEMBERS, PHOTOS, CLASSES)
        with PrivateMemory() as memory:
            began = time.monotonic()
            members = of_inputs(inputs)
            reading = time.monotonic() - began
            by_accuracy, by_loss = (timed(members, metric, folder) for metric in ("accuracy", "log_loss"))
        equal = agreement(of_inputs(draw(folder / "few", *SMALL)), folder)
    of = f"{MEMBERS:,} models, {PHOTOS:,} photos, {CLASSES} classes"
    state(
        "ensemble",
        [
            Bar(f"reading {of}", reading, "s", 60),
            Bar("greedy by accuracy, 20 bags of 50 picks", by_accuracy, "s", 60),
            Bar("greedy by log loss, 20 bags of 50 picks", by_loss, "s", 60),
            Bar("private memory, reading and selecting", memory.most, "MB", 1000),
            Bar("share of picks that the plain search makes too, small case", equal, "", 1, at_most=False),
        ],
    )


if __name__ == "__main__":
    main()
