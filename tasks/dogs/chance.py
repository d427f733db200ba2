"""Randomness that depends on names alone: the trial's seed, the epoch, the process, and what it is for.

A trial that goes on from a checkpoint draws what it would have drawn, and no generator's state needs keeping.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A seed of 63 bits; another purpose or another number gives an unrelated one."""
    words = np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), *numbers)).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded by `derive`: the same numbers whatever device computes with them."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


def seed_globals(seed: int, *numbers: int) -> None:
    """Seed what draws from global generators: torch's dropout, and timm's mixup, which draws from numpy's."""
    torch.manual_seed(derive(seed, "torch", *numbers))
    np.random.seed(derive(seed, "numpy", *numbers[:1]) % 2**32)
