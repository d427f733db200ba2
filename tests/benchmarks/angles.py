"""Angles on one core against the obvious NumPy program, and a billion of them on two.

    python tests/benchmarks/angles.py [--quick]

The peer draws two float64 Gaussian matrices, normalises their rows and takes the arccosine of the rows' products. Each
figure is the median over rounds in which all that are compared run one after the other in this process. ``exact`` and
``direct`` end in θ, as the peer does; "with statistics" is what a shard does: samples, moments, cells and tails. The
billion is left out with ``--quick``.
"""

from __future__ import annotations

import os

# One core, said before NumPy asks how many there are.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from running import Bench  # noqa: E402

from tasks.angles.sample import CHUNK, Direct, Exact, Sampler  # noqa: E402
from tasks.angles.statistics import cells, collected  # noqa: E402

QUICK = "--quick" in sys.argv
ROUNDS = 5 if QUICK else 15
BILLION = 10**9
EXACT = {10: 20, 100: 150, 1000: 600}  # bars, by dimension
DIRECT = {10: 3, 100: 3, 1000: 1.6}
HALF_PI = np.float32(math.pi / 2)


def numpy_program(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """The peer: ``count`` angles."""
    x, y = rng.standard_normal((count, n)), rng.standard_normal((count, n))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return np.arccos((x * y).sum(axis=1))


def bare(sampler: Sampler, count: int) -> None:
    """θ and no more."""
    for block in sampler.blocks(count):
        np.add(block, HALF_PI, out=block)


def fill(sampler: Direct, count: int) -> None:
    """The generator alone, in the blocks in which `Direct` asks for its components."""
    for _ in range(count // (CHUNK * sampler.chunks)):
        for rows in sampler.groups:
            sampler.gaussians.fill(rows * sampler.chunks)


def rates(contestants: dict[str, tuple[int, Callable[[], object]]]) -> dict[str, float]:
    """Samples a second, each the median over the rounds; a contestant is how many samples it draws, and how."""
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(ROUNDS + 1):
        for name, (count, draw) in contestants.items():
            began = time.perf_counter()
            draw()
            if turn > 0:  # the first round warms up
                measured[name].append(count / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in measured.items()}


def one_core(n: int) -> list[Bar]:
    """All bars of one dimension."""
    rng, exact, direct = np.random.default_rng(1), Exact(n, seed=1, shard=0), Direct(n, seed=1, shard=0)
    few = max(1000, 2_000_000 // n)
    block = CHUNK * direct.chunks
    some, many = -(-(4_000_000 // n) // block) * block, 4_000_000
    cells(n)  # built once in a process
    rate = rates(
        {
            "peer": (few, lambda: numpy_program(n, few, rng)),
            "exact": (many, lambda: bare(exact, many)),
            "with statistics": (many, lambda: collected(n, exact.blocks(many))),
            "generator": (some, lambda: fill(direct, some)),
            "direct": (some, lambda: bare(direct, some)),
        }
    )
    print(f"n={n}: " + ", ".join(f"{name} {1e-6 * each:.3g} M/s" for name, each in rate.items()))
    return [
        Bar(f"{what}, n={n}, {of}", rate[what] / rate[peer], "×", bar, at_most=False)
        for what, peer, of, bar in (
            ("exact", "peer", "against NumPy", EXACT[n]),
            ("with statistics", "exact", "of exact's bare rate", 0.6),
            ("direct", "peer", "against NumPy", DIRECT[n]),
            ("direct", "generator", "of the generator's rate", 0.8),
        )
    ]


def billion(n: int) -> list[Bar]:
    """10⁹ exact samples by ``orchestrator run`` on two cores: how fast, in how much memory, and if the law holds."""
    with tempfile.TemporaryDirectory() as scratch:
        params = {"samples": BILLION, "shard": 10_000_000}
        search = {"algorithm": "grid", "space": {"n": {"choice": [n]}}}
        bench = Bench(Path(scratch), "angles", task="angles", params=params, search=search)
        peak = bench.watched("VmHWM")
        (trial,) = bench.record.trials.values()
    drawn, p_values = trial.maps["measure"], {k: v for k, v in trial.final.items() if k.endswith("p_value")}
    seconds = drawn.ended - drawn.started
    print(f"n={n}: {seconds:.1f} s, KS distance {trial.final['ks/distance']:.2g}, {p_values}")
    return [
        Bar("peak memory of a process, 10⁹ samples", peak, "MB", 500),
        Bar(f"samples counted, n={n}", trial.final["samples"], "", BILLION, at_most=False),
        Bar(f"least of {len(p_values)} p-values times their number, n={n}", min(p_values.values()) * len(p_values), "",
            0.01, at_most=False),
    ]  # fmt: skip


def main() -> None:
    bars = [bar for n in EXACT for bar in one_core(n)]
    if not QUICK:
        bars += billion(100)
    state("angles", bars)


if __name__ == "__main__":
    main()
