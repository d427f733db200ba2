"""What is learnt from, and what it is measured on, for each problem by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tasks.api import InputError
from tasks.ebgan.params import ANOMALY, TOYS
from tasks.ebgan.toys import Toy, make_toy

if TYPE_CHECKING:
    from tasks.ebgan.params import EbganParams


@dataclass(frozen=True)
class Labelled:
    """Pictures and labels that a classifier is trained and tested on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Problem:
    """Samples of one shape: a law in the plane, or what ``pool`` holds."""

    shape: tuple[int, ...]
    pool: Tensor | None = None
    """(n, …) training samples; of stacked pictures the single ones."""
    toy: Toy | None = None
    stacked: bool = False
    test: Tensor | None = None
    """Anomaly detection: what is scored."""
    anomalous: Tensor | None = None
    """(len(test),) bool."""
    labelled: Labelled | None = None
    """Pictures with known classes: what the task's own classifier learns from."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, …) samples, with replacement."""
        if self.toy is not None:
            return self.toy.draw(n, generator)
        assert self.pool is not None
        shape = (n, 3) if self.stacked else (n,)
        rows = torch.randint(len(self.pool), shape, generator=generator, device=generator.device)
        return stack(self.pool, rows) if self.stacked else self.pool[rows]


def stack(pictures: Tensor, rows: Tensor) -> Tensor:
    """Pictures (n, 1, s, s) as the channels of others: ``rows`` (m, 3) → (m, 3, s, s)."""
    return pictures[rows].squeeze(2)


def load(params: EbganParams, data: Path | None, device: str, seed: int) -> Problem:
    """Raises `InputError` when the data cannot be used or is less than a batch."""
    problem = _load(params, data, seed)
    if problem.pool is None:
        return problem
    pool = problem.pool[: params.samples or None]
    if params.batch_size > len(pool):
        raise InputError(
            f"params.batch_size={params.batch_size}: there are but {len(pool)} samples to train on; set it to "
            f"{len(pool)} or less"
        )
    return Problem(
        problem.shape, pool.to(device), None, problem.stacked, problem.test, problem.anomalous, problem.labelled
    )


def _load(params: EbganParams, data: Path | None, seed: int) -> Problem:
    if params.problem in TOYS:
        return Problem((2,), toy=make_toy(params.problem))
    from tasks.ebgan import pictures

    if params.problem == "digits":
        x, y = pictures.digits()
        held = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % 5 == 0
        return Problem((1, 8, 8), x[~held], labelled=Labelled(x[~held], y[~held], x[held], y[held]))
    assert data is not None
    if params.problem == "kdd99":
        return _kdd(data, seed, validate=params.validation)
    if params.problem == "cifar10":
        pool = pictures.cifar(data)
        return Problem(tuple(pool.shape[1:]), pool)
    x, y, test_x, test_y = pictures.mnist(data)
    if params.problem in ANOMALY:
        return _held_out_digit(torch.cat([x, test_x]), torch.cat([y, test_y]), params.held_out, seed)
    stacked = params.problem == "stacked-mnist"
    return Problem((3 if stacked else 1, 28, 28), x, stacked=stacked, labelled=Labelled(x, y, test_x, test_y))


def _kdd(data: Path, seed: int, *, validate: bool) -> Problem:
    from tasks.ebgan.kdd import find_file, load_table

    table = load_table(find_file(data), seed, validate=validate)
    train, test, anomalous = map(torch.from_numpy, (table.train, table.test, table.anomalous))
    return Problem(tuple(train.shape[1:]), train, test=test, anomalous=anomalous)


def _held_out_digit(x: Tensor, y: Tensor, digit: int, seed: int) -> Problem:
    """As Zenati et al. 2018: train on four in five of the other digits; test on the rest and on all of the held-out."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    others, anomalies = order[y[order] != digit], order[y[order] == digit]
    cut = len(others) * 4 // 5
    tested = torch.cat([others[cut:], anomalies])
    return Problem((1, 28, 28), x[others[:cut]], test=x[tested], anomalous=y[tested] == digit)
