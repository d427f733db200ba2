"""The task's own classifier: which digit a sample shows, and the features that pictures are compared by."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.dogs.store import locked
from tasks.ebgan.problem import Labelled

FEATURES = 64
_BATCH, _BLOCK = 128, 2048
_PASSES, _LEAST, _MOST = 30, 100, 1200
"""Passes over the pictures, and the steps that these come to at least and at most."""


@dataclass(frozen=True)
class Classifier:
    """A trained network and its accuracy on test pictures."""

    network: nn.Sequential
    accuracy: float

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(n, 1, side, side) → what the last hidden layer says (n, `FEATURES`)."""
        return torch.cat([self.network[:-1](block) for block in x.split(_BLOCK)])

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """(n, channels, side, side) → the digit of each channel as one number (n,): the first is the highest place."""
        scores = self.network[-1](self.features(x.flatten(0, 1)[:, None]))
        digits = scores.argmax(1).view(len(x), -1)
        return (digits * 10 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)


def obtain(data: Labelled, cache: Path) -> Classifier:
    """From the cache, or trained now and kept there: it depends on the pictures alone, so that all trials share it."""
    digest = hashlib.sha256()
    for part in (data.x, data.y):
        digest.update(part.numpy().tobytes())
    kept = cache / "ebgan" / f"classifier-{digest.hexdigest()[:16]}.pt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    network = _network(data.x.shape[-1])
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            _train(network, data)
            torch.save(network.state_dict(), kept.with_suffix(".tmp"))
            os.replace(kept.with_suffix(".tmp"), kept)
    network.load_state_dict(torch.load(kept, weights_only=True))
    network.eval().requires_grad_(False)
    found = Classifier(network, 0.0)
    right = found.classes(data.test_x) == data.test_y
    return Classifier(network, float(right.double().mean()))


def _network(side: int) -> nn.Sequential:
    after = side // 2 // 2
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * after * after, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 10),
    )  # fmt: skip


def _train(network: nn.Module, data: Labelled) -> None:
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # the global generator belongs to the trial
        if parameter.dim() > 1:
            bound = (6 / parameter[0].numel()) ** 0.5
            parameter.data.uniform_(-bound, bound, generator=random)
        else:
            parameter.data.zero_()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    steps = min(_MOST, max(_LEAST, _PASSES * len(data.x) // _BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(data.x), (_BATCH,), generator=random)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
        schedule.step()
