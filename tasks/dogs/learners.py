"""The two regimes as one thing to the training loop: what is trained, on which batches, and how it is validated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from tasks.api import Context, InputError
from tasks.dogs import store
from tasks.dogs.backbone import last_stages, load_backbone
from tasks.dogs.features import SHARD, features
from tasks.dogs.folders import Photos
from tasks.dogs.heads import Head
from tasks.dogs.photos import Unreadable, read_photo

if TYPE_CHECKING:
    from tasks.dogs import DogParams


@dataclass(frozen=True)
class Rows:
    """The readable photos by row number, and why the others are left out."""

    train: Tensor
    val: Tensor
    labels: Tensor
    problems: store.Problems


class Learner(Protocol):
    """A model in one regime."""

    model: nn.Module
    head: nn.Module
    rows: Rows
    frozen: bool
    """Whether the backbone stayed as it was."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their peak learning rates."""

    def begin_epoch(self, epoch: int) -> None:
        """Set what is trained in this epoch (from 1)."""

    def batches(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of one epoch, in an order drawn from the generator."""

    def validate(self) -> Tensor:
        """Scores of the validation photos, (photos, classes), on the CPU."""

    def trained(self) -> dict[str, Tensor]:
        """What a model needs beyond its backbone's first weights: ``head.*``, and ``scaling.*`` or ``backbone.*``."""


class FrozenLearner:
    """A head on features that are computed once. An epoch shows each photo once, in a view drawn at random."""

    frozen = True

    def __init__(self, params: DogParams, context: Context, photos: Photos) -> None:
        self._params, self._device = params, context.device
        views: list[Tensor] = []
        problems: store.Problems = {}
        for view in range(params.views):
            array, problems = features(
                photos, params.backbone, params.weights, params.resolution, view, context.cache, context.device
            )
            views.append(torch.from_numpy(np.array(array)))
        self.rows = readable(photos, problems)
        x = torch.stack(views)  # (views, photos, features)
        mean, std = x[0, self.rows.train].mean(0), x[0, self.rows.train].std(0) + 1e-6
        self._x = ((x - mean) / std).to(self._device)
        self._scaling = {"mean": mean, "std": std}
        self.head: nn.Module = Head(params.head, x.shape[2], len(photos.classes), params.hidden, params.dropout).to(
            self._device
        )
        self.model: nn.Module = self.head

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters()), "lr": self._params.lr}]

    def begin_epoch(self, epoch: int) -> None:
        self.model.train()

    def batches(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in shuffled(self.rows.train, self._params.batch_size, order):
            views = torch.randint(self._params.views, rows.shape, generator=order)
            yield self._x[views, rows], self.rows.labels[rows].to(self._device)

    @torch.no_grad()
    def validate(self) -> Tensor:
        self.model.eval()
        return torch.stack([self.model(x[self.rows.val]).log_softmax(1) for x in self._x]).mean(0).cpu()

    def trained(self) -> dict[str, Tensor]:
        return prefixed("head", self.head.state_dict()) | prefixed("scaling", self._scaling)


class FinetuneLearner:
    """Backbone and head, trained in two stages: the head alone, then also the backbone's last stages.

    Photos are decoded once to a shared store and cropped and flipped anew each epoch. The backbone's batch norms keep
    their ImageNet statistics: batches are small and classes many.
    """

    frozen = False

    def __init__(self, params: DogParams, context: Context, photos: Photos) -> None:
        self._params, self._device = params, context.device
        side = math.ceil(params.resolution / 0.875)  # validation looks at the middle 7/8, as ImageNet's does
        self._pixels, problems = decoded(photos, side, context)
        self.rows = readable(photos, problems)
        self._backbone = load_backbone(params.backbone, params.weights, context.seed)
        self.head: nn.Module = Head(
            params.head, self._backbone.features, len(photos.classes), params.hidden, params.dropout
        )
        self.model: nn.Module = nn.Sequential(self._backbone.net, self.head).to(self._device)
        self._stages = last_stages(self._backbone.net, params.unfrozen_stages)
        self._augment = v2.Compose(
            [
                # Breeds differ in proportions: crops keep them nearly as they are.
                v2.RandomResizedCrop(params.resolution, scale=(0.6, 1.0), ratio=(0.9, 1.1), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ]
        )
        self._crop = v2.CenterCrop(params.resolution)

    def groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(self.head.parameters()), "lr": self._params.lr},
            {"params": self._stages, "lr": self._params.backbone_lr},
        ]

    def begin_epoch(self, epoch: int) -> None:
        self._backbone.net.eval().requires_grad_(False)
        self.head.train()
        if epoch > self._params.frozen_epochs:
            for parameter in self._stages:
                parameter.requires_grad_(True)

    def batches(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in shuffled(self.rows.train, self._params.batch_size, order):
            photos = torch.stack([self._augment(self._photo(row)) for row in rows.tolist()])
            yield self._normalised(photos), self.rows.labels[rows].to(self._device)

    @torch.no_grad()
    def validate(self) -> Tensor:
        self.model.eval()
        scores = []
        for rows in self.rows.val.split(self._params.batch_size):
            photos = torch.stack([self._crop(self._photo(row)) for row in rows.tolist()])
            scores.append(self.model(self._normalised(photos)).cpu())
        return torch.cat(scores)

    def trained(self) -> dict[str, Tensor]:
        return prefixed("head", self.head.state_dict()) | prefixed("backbone", self._backbone.net.state_dict())

    def _photo(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(self._pixels[row])).permute(2, 0, 1)  # uint8 (3, side, side)

    def _normalised(self, photos: Tensor) -> Tensor:
        return self._backbone.normalise(photos.to(self._device).permute(0, 2, 3, 1))


def make_learner(params: DogParams, context: Context, photos: Photos) -> Learner:
    return (FrozenLearner if params.regime == "frozen" else FinetuneLearner)(params, context, photos)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def decoded(photos: Photos, side: int, context: Context) -> tuple[np.ndarray, store.Problems]:
    """All photos as uint8 (photos, side, side, 3), memory-mapped, shared by all trials."""

    def compute(rows: range) -> tuple[np.ndarray, store.Problems]:
        out, problems = np.zeros((len(rows), side, side, 3), np.uint8), {}
        for at, row in enumerate(rows):
            try:
                out[at] = read_photo(photos.paths[row], side)
            except Unreadable as error:
                problems[row] = str(error)
        print(f"decoded photos {rows.start}–{rows.stop} of {len(photos.paths)}", flush=True)
        return out, problems

    return store.fill(context.cache / "pixels" / f"{side}px-{photos.digest()}", len(photos.paths), SHARD, compute)


def readable(photos: Photos, problems: store.Problems) -> Rows:
    """The rows that can be used. Raises `InputError` when a class has no photo left to train or validate with."""
    labels = torch.tensor(photos.labels)
    good = torch.ones(len(labels), dtype=torch.bool)
    good[list(problems)] = False
    for row, reason in sorted(problems.items()):
        print(f"left out: {photos.paths[row]}: {reason}", flush=True)
    rows = torch.arange(len(labels))
    train, val = rows[good & (rows < photos.trained)], rows[good & (rows >= photos.trained)]
    for part, name in ((train, "training"), (val, "validation")):
        counts = torch.bincount(labels[part], minlength=len(photos.classes))
        if (counts == 0).any():
            missing = photos.classes[int((counts == 0).nonzero()[0])]
            raise InputError(f"class '{missing}' has no readable {name} photo; the log names those that were left out")
    return Rows(train, val, labels, problems)


def shuffled(rows: Tensor, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """The rows in a random order, in batches; the last may be smaller."""
    yield from rows[torch.randperm(len(rows), generator=order)].split(size)
