"""What is learnt: pictures in folders, scikit-learn's digits, or a Gaussian regression with a known answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from tasks.api import InputError
from tasks.batchnorm.surface import Loss
from tasks.dogs import store
from tasks.dogs.folders import Photos, find_photos
from tasks.dogs.photos import Unreadable, read_photo

SIDE = 32
"""Side that pictures of a folder are brought to, px."""
HELD_OUT = 0.1
"""Share of the training samples that is validated on; the same for all trials of a study."""


@dataclass(frozen=True)
class Part:
    """Inputs (n, features) or (n, channels, h, w), float32; classes (n,), int64, or targets (n, outputs), float32."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def at(self, rows: Tensor) -> Part:
        return Part(self.x[rows], self.y[rows])

    def to(self, device: str) -> Part:
        return Part(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Data:
    """Inputs are shifted and scaled by one mean and one deviation of each channel of the training inputs."""

    train: Part
    val: Part
    test: Part
    outputs: int
    unreadable: int = 0

    @property
    def loss(self) -> Loss:
        return mse_loss if self.train.y.is_floating_point() else cross_entropy

    def score(self, outputs: Tensor, y: Tensor) -> float:
        """Share of the classes that are right; of regression the R², or 0 where that is negative."""
        if not y.is_floating_point():
            return float((outputs.argmax(1) == y).float().mean())
        unexplained = float((outputs - y).square().sum() / (y - y.mean(0)).square().sum())
        return max(0.0, 1 - unexplained)


def load(dataset: str, root: Path | None, cache: Path) -> Data:
    """The pictures under ``root``, or else the built-in data set."""
    if root is not None:
        return _pictures(root, cache)
    return _digits() if dataset == "digits" else _gaussian()


def rows_of(samples: int, batch: int, seed: int, step: int) -> Tensor:
    """The rows of the batch at a step (from 1): each pass in an order of its own, a last part of a batch left out.

    A function of seed and step alone, so that a run that is cut off needs no order kept.
    """
    each = samples // batch
    epoch, place = divmod(step - 1, each)
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(int(mixed) >> 1))
    return order[place * batch : (place + 1) * batch]


def batches(part: Part, batch: int, seed: int, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
    for step in steps:
        rows = rows_of(len(part), batch, seed, step)
        yield part.x[rows], part.y[rows]


def _digits() -> Data:
    """1,797 written digits, 8 × 8 px (UCI; scikit-learn's own copy): a fifth is tested on."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pictures / 16).float().view(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    tested = len(x) // 5
    return _standardised(Part(x, y).at(order[tested:]), Part(x, y).at(order[:tested]), 10)


def _gaussian(features: int = 32, outputs: int = 8, samples: int = 6000) -> Data:
    """Targets Wx + noise of x ~ N(μ, Σ): ‖μ‖² is several times Σ's trace, Σ's eigenvalues fall from 1 to .01."""
    random = torch.Generator().manual_seed(0)
    deviations = torch.logspace(0, -1, features)
    x = torch.randn(samples, features, generator=random) * deviations + 1
    w = torch.randn(features, outputs, generator=random)
    y = x @ w + 0.1 * torch.randn(samples, outputs, generator=random)
    y = (y - y.mean(0)) / y.std(0)
    return _split(Part(x, y).at(torch.arange(5000)), Part(x, y).at(torch.arange(5000, samples)), outputs)


def _pictures(root: Path, cache: Path) -> Data:
    """``root/{train,test}/<class>/*.jpg`` (or val/, or one folder for each class), decoded once for all trials."""
    found = find_photos(root)
    pixels, problems = _decoded(found, cache)
    for row, reason in sorted(problems.items()):
        print(f"left out: {found.paths[row]}: {reason}", flush=True)
    good = np.ones(len(found.paths), bool)
    good[list(problems)] = False
    labels, rows = np.array(found.labels), np.arange(len(found.paths))

    def part(chosen: np.ndarray) -> Part:
        x = torch.from_numpy(pixels[chosen]).permute(0, 3, 1, 2).float() / 255
        return Part(x.contiguous(), torch.from_numpy(labels[chosen]).long())

    trained, tested = rows[good & (rows < found.trained)], rows[good & (rows >= found.trained)]
    if min(len(trained), len(tested)) < 2:
        raise InputError(f"{root} has no readable pictures to train or to test on; the log names those left out")
    return _standardised(part(trained), part(tested), len(found.classes), len(problems))


def _decoded(found: Photos, cache: Path) -> tuple[np.ndarray, store.Problems]:
    """uint8 (pictures, 32, 32, 3), memory-mapped."""

    def compute(rows: range) -> tuple[np.ndarray, store.Problems]:
        out, problems = np.zeros((len(rows), SIDE, SIDE, 3), np.uint8), {}
        for at, row in enumerate(rows):
            try:
                out[at] = read_photo(found.paths[row], SIDE)
            except Unreadable as error:
                problems[row] = str(error)
        return out, problems

    return store.fill(cache / "pixels" / f"{SIDE}px-{found.digest()}", len(found.paths), 1000, compute)


def _standardised(train: Part, test: Part, outputs: int, unreadable: int = 0) -> Data:
    mean = train.x.mean((0, 2, 3), keepdim=True)
    deviation = train.x.std((0, 2, 3), keepdim=True)
    train, test = (Part((part.x - mean) / deviation, part.y) for part in (train, test))
    return _split(train, test, outputs, unreadable)


def _split(train: Part, test: Part, outputs: int, unreadable: int = 0) -> Data:
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))
    held = max(1, round(HELD_OUT * len(train)))
    return Data(train.at(order[held:]), train.at(order[:held]), test, outputs, unreadable)
