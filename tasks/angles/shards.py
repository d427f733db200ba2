"""One shard of a sample: what a worker computes, and all that it sends back.

>>> part = measure(Shard(n=10, sampler="exact", seed=1, index=0, samples=5000))
>>> part.count, int(part.counts.sum())
(5000, 5000)
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.angles.sample import SAMPLERS
from tasks.angles.statistics import Statistics, collected


@dataclass(frozen=True)
class Shard:
    """``samples`` angles in n dimensions: number ``index`` of those that ``seed`` gives."""

    n: int
    sampler: str
    seed: int
    index: int
    samples: int
    device: str = "cpu"


def measure(shard: Shard) -> Statistics:
    """Draw a shard and keep its statistics. A function of its argument only; on a GPU torch draws, other numbers."""
    if shard.device != "cpu":
        from tasks.angles.gpu import measure_by_torch

        return measure_by_torch(shard.n, shard.sampler, shard.seed, shard.index, shard.samples, shard.device)
    sampler = SAMPLERS[shard.sampler](shard.n, shard.seed, shard.index)
    return collected(shard.n, sampler.blocks(shard.samples))


def split(n: int, sampler: str, seed: int, samples: int, size: int, device: str) -> list[Shard]:
    """``samples`` in shards of ``size``, the last one with what is left."""
    return [
        Shard(n, sampler, seed, index, min(size, samples - start), device)
        for index, start in enumerate(range(0, samples, size))
    ]
