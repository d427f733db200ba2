"""Which photos make a batch: all in a random order, or pairs of a class as in kexue.fm/archives/4611.

Batches are drawn for all processes of a trial together; each takes its share of blocks of four rows, within which
photos are spliced and pasted (`tasks.dogs.augment`). So the numbers do not depend on how many processes there are.

>>> share(10, 0, 2), share(10, 1, 2)
(slice(0, 8, None), slice(8, 10, None))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tasks.api import InputError

BLOCK = 4  # rows that stay together


def batches(kind: str, rows: Tensor, labels: Tensor, size: int, count: int, order: torch.Generator) -> Iterator[Tensor]:
    """The rows of each batch of an epoch that shows ``count`` photos. ``labels`` are those of ``rows``."""
    return (_pairs if kind == "pairs" else _shuffled)(rows, labels, size, count, order)


def share(count: int, rank: int, processes: int) -> slice:
    """Which of a batch's ``count`` rows are one process's: whole blocks, as even as can be."""
    blocks = -(-count // BLOCK)
    first, last = (-(-blocks * part // processes) for part in (rank, rank + 1))
    return slice(min(count, first * BLOCK), min(count, last * BLOCK))


def check_pairs(labels: Tensor, classes: tuple[str, ...], size: int) -> None:
    """Raise `InputError` where pairs cannot be had."""
    counts = torch.bincount(labels, minlength=len(classes))
    if size // 2 > len(classes):
        raise InputError(
            f"sampler=pairs: a batch of {size} takes {size // 2} distinct classes, and there are {len(classes)}: "
            f"give batch_size={2 * len(classes)} or less"
        )
    if (counts < 2).any():
        lacking = classes[int((counts < 2).nonzero()[0])]
        raise InputError(
            f"sampler=pairs: class '{lacking}' has {int(counts.min())} readable training photos, and a pair takes two: "
            "add one, or give sampler=shuffled"
        )


def _shuffled(rows: Tensor, labels: Tensor, size: int, count: int, order: torch.Generator) -> Iterator[Tensor]:
    """A random order; the last batch may be smaller."""
    yield from rows[torch.randperm(len(rows), generator=order)[:count]].split(size)


def _pairs(rows: Tensor, labels: Tensor, size: int, count: int, order: torch.Generator) -> Iterator[Tensor]:
    """Each batch: size/2 distinct classes, drawn one after the other by frequency, and two photos of each."""
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    begins = counts.cumsum(0) - counts
    for _ in range(-(-count // size)):
        drawn = torch.multinomial(counts.double(), size // 2, replacement=False, generator=order)
        u, v = torch.rand(2, len(drawn), generator=order, dtype=torch.float64)
        n = counts[drawn]
        first = (u * n).long()
        second = (v * (n - 1)).long()
        second += second >= first
        places = begins[drawn][:, None] + torch.stack([first, second], 1)
        yield rows[by_class[places.flatten()]]
