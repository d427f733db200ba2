"""Integrated gradients: agreement, cost and speed beside Captum.

    python tests/benchmarks/attribution.py [--quick] [--speed]

``--speed`` measures agreement and speed alone, and leaves out the search for Captum's smallest number of nodes.
Model: EfficientNet-Lite0 with its packaged ImageNet weights; explained is the logit of the class it predicts, Captum's
usual target; the baseline is black. 200 validation photos of real dogs, 96 px (24 photos with ``--quick``).
Agreement: the greatest difference of two maps over the greatest value of Captum's, at equal nodes.
Cost: gradients are counted as photos × nodes, forward and back. Captum's is the smallest number of Gauss–Legendre
nodes, on a grid in steps of a tenth and then between two steps, that leaves none of 16 photos a gap above 1 %: those of
the 200 that the adaptive rule found dearest. For all 200 it takes as many or more, so the ratio is an upper bound. A
number is refuted by one photo; our own rule, which agrees with Captum's, does the search, and Captum itself says that
the number passes and that one node less does not.
Ours is the mean over photos of all that the adaptive rule evaluated; that it also keeps the gaps of its panels within
5 %, Captum does not have to.
Speed: photos a second at the same nodes, on one core, ours and Captum's in turn and each first in every second round:
with the rows a forward that suit each best (tried first, on rounds of their own), and with the same rows. The median of
the rounds' ratios, by processor time and by the clock, with its 95 % interval (rounds drawn anew). Both explain the
same frozen model in the same memory format. Captum is installed into a folder of its own, once, below the system's
folder for temporary files, beside this interpreter's torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # waiting threads spin: two on a busy machine are slower than one
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bars import Bar, state  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import Tensor  # noqa: E402

from tasks.attribution.gradients import Gradients, class_score  # noqa: E402
from tasks.attribution.integrated import fixed, integrated_gradients  # noqa: E402
from tasks.dogs.classifier import imagenet_classifier  # noqa: E402
from tasks.dogs.photos import read_photo  # noqa: E402

DATA = Path(os.environ.get("ORCHESTRATOR_REAL_DATA", ROOT.parent / "shared" / "data")) / "dogs"
CAPTUM = "captum==0.8.0"
FOLDER = Path(tempfile.gettempdir()) / "orchestrator-attribution-peer"
HARD = 16
SIDE, ROWS, TOLERANCE, EQUAL = 96, 16, 0.01, 32  # px; rows a forward; the gap; nodes of the equal comparisons
TRIED, TIMED = (8, 16, 32, 64), slice(0, 2)  # rows a forward to choose from; photos of a round: 64 rows in all


def captum(model: torch.nn.Module):
    """Captum's integrated gradients of a model; nothing else of it, or of what it pins, is installed."""
    if not (FOLDER / "complete").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(FOLDER), CAPTUM]
        subprocess.run(command, check=True)
        (FOLDER / "complete").touch()
    sys.path.append(str(FOLDER))
    from captum.attr import IntegratedGradients

    return IntegratedGradients(model)


class Compared:
    """The photos, the model, and both ways to explain them."""

    def __init__(self, count: int) -> None:
        self.model = imagenet_classifier("tf_efficientnet_lite0", "packaged", SIDE).model
        breeds = [sorted(breed.iterdir()) for breed in sorted((DATA / "val").iterdir())]
        paths = [breed[turn] for turn in range(2) for breed in breeds][:count]
        pixels = torch.from_numpy(np.stack([read_photo(path, SIDE) for path in paths]))
        self.photos = pixels.permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            self.targets = torch.cat([self.model(part).argmax(1) for part in self.photos.split(ROWS)])
            both = [self.model(x).gather(1, self.targets[:, None])[:, 0]
                    for x in (self.photos, torch.zeros_like(self.photos))]  # fmt: skip
        self.change = (both[0] - both[1]).double()
        self.peer = captum(self.model)

    def gradients(self, chosen: slice | list[int] = slice(None), rows: int = ROWS) -> Gradients:
        return Gradients(class_score(self.model, self.targets[chosen]), rows)

    def ours(self, chosen: slice | list[int], nodes: int, rows: int = ROWS) -> Tensor:
        photos = self.photos[chosen]
        return fixed(self.gradients(chosen, rows), photos, torch.zeros_like(photos[:1]), "gausslegendre", nodes)

    def theirs(self, chosen: slice | list[int], nodes: int, rows: int = ROWS) -> Tensor:
        return self.peer.attribute(
            self.photos[chosen], target=self.targets[chosen], n_steps=nodes, internal_batch_size=rows
        )

    def gap(self, maps: Tensor, chosen: slice | list[int]) -> Tensor:
        change = self.change[chosen]
        return ((maps.flatten(1).double().sum(1) - change) / change).abs()


def smallest(compared: Compared, hard: list[int]) -> tuple[int, float, int, float]:
    """The smallest number of nodes at which Captum's gaps of the hard photos are small, the worst of them, and the same
    of one node less, which fails. Between the last step of the grid that is refuted and the first that is not, the
    number is found by halving."""
    order, refuters = list(hard), dict[int, int]()

    def refuted(nodes: int) -> bool:
        for photo in order:
            if compared.gap(compared.ours([photo], nodes), [photo])[0] > TOLERANCE:
                order.remove(photo)
                order.insert(0, photo)
                refuters[nodes] = photo
                print(f"{nodes} nodes: refuted by photo {photo}", flush=True)
                return True
        return False

    low, high = 15, 16
    while True:
        while refuted(high):
            low, high = high, max(high + 1, round(1.1 * high))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if refuted(middle) else (low, middle)
        gaps = compared.gap(compared.theirs(hard, high), hard)
        worst, photo = float(gaps.max()), hard[int(gaps.argmax())]
        if worst <= TOLERANCE:
            below = [refuters[low]]
            return high, worst, low, float(compared.gap(compared.theirs(below, low), below)[0])
        print(f"{high} nodes: refuted by photo {photo} (Captum)", flush=True)
        refuters[high] = photo
        low, high = high, max(high + 1, round(1.1 * high))


@dataclass(frozen=True)
class Took:
    """Seconds of a round."""

    processor: float
    clock: float


def timed(explain: Callable[[slice, int, int], Tensor], rows: int) -> Took:
    clock, processor = time.perf_counter(), time.process_time()
    explain(TIMED, EQUAL, rows)
    return Took(time.process_time() - processor, time.perf_counter() - clock)


def best_rows(compared: Compared, rounds: int) -> tuple[int, int]:
    """Rows a forward that take ours and Captum's the least processor time, by the median of rounds."""
    ways = [(explain, rows) for rows in TRIED for explain in (compared.ours, compared.theirs)]
    tried = [[timed(*way).processor for way in ways] for _ in range(rounds)]
    medians = np.median(tried, axis=0).reshape(len(TRIED), 2)
    for rows, (ours, theirs) in zip(TRIED, medians, strict=True):
        print(f"{rows} rows a forward: {ours:.3f} s, Captum {theirs:.3f} s", flush=True)
    ours, theirs = (TRIED[int(k)] for k in medians.argmin(0))
    return ours, theirs


@dataclass(frozen=True)
class Speed:
    """Photos a second over Captum's, a round each."""

    rows: tuple[int, int]
    processor: NDArray[np.float64]
    clock: NDArray[np.float64]

    def bars(self, of: str) -> list[Bar]:
        """The medians; prints their intervals beside them."""
        bars = []
        for name, ratios in (("processor time", self.processor), ("clock", self.clock)):
            drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
            low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
            quartiles = np.percentile(ratios, [0, 25, 50, 75, 100])
            spread = " ".join(f"{each:.3f}" for each in quartiles)
            print(f"{of}, {name}: median {quartiles[2]:.3f} (95 % {low:.3f} to {high:.3f}); quartiles {spread}")
            told = f"photos/s over Captum's at {EQUAL} nodes, {of} ({self.rows[0]} and {self.rows[1]} rows), {name}"
            bars.append(Bar(told, float(quartiles[2]), "×", 1, at_most=False))
        return bars


def speed(compared: Compared, rows: tuple[int, int], rounds: int) -> Speed:
    """Ours and Captum's in turn, with these rows a forward each."""
    took: list[tuple[Took, Took]] = []
    for number in range(rounds):
        if number % 2:
            ours, theirs = timed(compared.ours, rows[0]), timed(compared.theirs, rows[1])
        else:
            theirs, ours = timed(compared.theirs, rows[1]), timed(compared.ours, rows[0])
        took.append((ours, theirs))
    return Speed(
        rows,
        np.array([theirs.processor / ours.processor for ours, theirs in took]),
        np.array([theirs.clock / ours.clock for ours, theirs in took]),
    )


def main() -> None:
    if not DATA.is_dir():
        raise SystemExit(f"no real data at {DATA} (set ORCHESTRATOR_REAL_DATA)")
    quick = "--quick" in sys.argv
    compared = Compared(24 if quick else 200)
    few = slice(0, 8)
    maps = compared.theirs(few, EQUAL)
    apart = float((compared.ours(few, EQUAL) - maps).abs().max() / maps.abs().max())
    rounds = 11 if quick else 25
    best = speed(compared, best_rows(compared, 3), rounds).bars("each at its best batch")
    same = speed(compared, (ROWS, ROWS), rounds).bars("at the same batch")
    if "--speed" in sys.argv:
        state("attribution", [Bar(f"difference from Captum's maps at {EQUAL} nodes", apart, "", 1e-5), *best, *same])
        return

    gradients = compared.gradients()
    began = time.perf_counter()
    found = integrated_gradients(gradients, compared.photos, torch.zeros_like(compared.photos), tolerance=TOLERANCE)
    spent = gradients.evaluated / len(compared.photos)
    print(
        f"adaptive: {spent:.1f} gradients a photo (median {int(found.nodes.median())}, most {int(found.nodes.max())}), "
        f"worst gap {float(found.relative.max()):.5f}, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    hard = found.nodes.argsort(descending=True).tolist()[:HARD]
    nodes, worst, below, fails = smallest(compared, hard)
    print(f"Captum: worst gap {worst:.5f} at {nodes} nodes, {fails:.5f} at {below}", flush=True)
    state(
        "attribution",
        [
            Bar(f"difference from Captum's maps at {EQUAL} nodes", apart, "", 1e-5),
            Bar("worst gap, adaptive", float(found.relative.max()), "", TOLERANCE),
            Bar("photos whose gap is above 1 %", int((~found.reached).sum()), "", 0),
            Bar(f"worst gap of Captum at {nodes} nodes, the {HARD} hardest photos", worst, "", TOLERANCE),
            Bar(
                f"gradients of the adaptive rule on all {len(compared.photos)} photos over Captum's smallest fixed "
                f"nodes for the {HARD} hardest",
                spent / nodes,
                "×",
                0.5,
            ),
            *best,
            *same,
        ],
    )


if __name__ == "__main__":
    main()
