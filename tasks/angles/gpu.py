"""The samplers and their statistics in torch, for a GPU: the laws of `sample`, drawn from torch's own stream.

Source and idea: as in `sample` and `statistics`. The stream is torch's generator on that device (on a GPU also Philox),
seeded by a digest of (sampler, n, seed, shard). The same device gives the same numbers; a GPU's differ from the CPU's.

>>> measure_by_torch(10, "exact", 1, 0, 5000, "cpu").count
5000
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from tasks.angles import TAILS
from tasks.angles.statistics import CELLS, Moments, Statistics, cells

BLOCK = 2**22
"""Samples (exact) or pairs of components (direct) drawn at once. It is part of the stream's definition."""


def measure_by_torch(n: int, sampler: str, seed: int, shard: int, samples: int, device: str) -> Statistics:
    """The statistics of ``samples`` angles; sums in float64 on the device."""
    generator = torch.Generator(device).manual_seed(_digest(sampler, n, seed, shard))
    draw, at_once = (_exact, BLOCK) if sampler == "exact" else (_direct, max(1024, BLOCK // n))
    counts = torch.zeros(CELLS, dtype=torch.int64, device=device)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    tails = torch.zeros(len(TAILS), dtype=torch.int64, device=device)
    thresholds = torch.tensor([math.asin(epsilon) for epsilon in TAILS], dtype=torch.float32, device=device)
    for start in range(0, samples, at_once):
        deviations = draw(n, at_once, generator, device)[: samples - start]
        wide = deviations.double()
        sums += torch.stack([(wide**power).sum() for power in (1, 2, 3, 4)])
        tails += torch.stack([(deviations.abs() > threshold).sum() for threshold in thresholds])
        counts += torch.bincount(_cells_of(n, deviations), minlength=CELLS)
    s1, s2, s3, s4 = sums.tolist()
    moments = Moments.of_sums(samples, s1, s2, s3, s4)
    return Statistics(n, moments, counts.cpu().numpy().astype(np.int64), tuple(tails.tolist()))


def _digest(sampler: str, n: int, seed: int, shard: int) -> int:
    text = f"{sampler} {n} {seed} {shard}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _cells_of(n: int, deviations: torch.Tensor) -> torch.Tensor:
    grid = cells(n)
    place = torch.tanh(deviations * float(grid.alpha)) * float(grid.scale) + float(grid.half)
    return place.long().clamp(0, CELLS - 1)


def _exact(n: int, count: int, generator: torch.Generator, device: str) -> torch.Tensor:
    """δ (count,): see `sample.Exact`. Of 2³² values of U, so that rare angles are not rounded away."""
    words = torch.empty(2, count, dtype=torch.int64, device=device).random_(0, 2**32, generator=generator)
    phase = (words[1] - 2**31).float() * (math.pi * 2.0**-32)
    if n == 2:
        return phase
    unit = (words[0].double() + 0.5) * 2.0**-32
    radius = (-torch.expm1(unit.log() * (2 / (n - 2)))).sqrt().float()
    return torch.asin(phase.sin() * radius)


def _direct(n: int, count: int, generator: torch.Generator, device: str) -> torch.Tensor:
    """δ (count,): two Gaussian vectors (n, count) a block of rows at a time."""
    if n == 2:
        x, y = torch.randn(2, 2, count, generator=generator, device=device)
        return -torch.atan2((x * y).sum(0), (x[0] * y[1] - x[1] * y[0]).abs())
    xy, xx, yy = torch.zeros(3, count, device=device)
    rows = max(1, BLOCK // count)
    for start in range(0, n, rows):
        x, y = torch.randn(2, min(rows, n - start), count, generator=generator, device=device)
        xy += (x * y).sum(0)
        xx += (x * x).sum(0)
        yy += (y * y).sum(0)
    return -torch.asin((xy / (xx * yy).sqrt()).clamp(-1, 1))
