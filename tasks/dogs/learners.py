"""The two regimes as one thing to the training loop: what is trained, on which batches, and what it predicts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tasks.api import Context
from tasks.dogs import sampler, store
from tasks.dogs.augment import Augment, Settings, centre, draw
from tasks.dogs.backbone import load_backbone
from tasks.dogs.blend import Scores
from tasks.dogs.chance import generator
from tasks.dogs.features import VIEWS, features
from tasks.dogs.folders import Photos
from tasks.dogs.heads import Head, Outputs, Scaling, make_head
from tasks.dogs.loading import Rows, ahead, decoded, readable, take
from tasks.dogs.stages import Stage, backbone_groups, head_groups, last_stages, stage_of

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams


_MEASURED = 512  # photos, by whose features they are scaled when the backbone is tuned


class Batch(NamedTuple):
    """This process's share of a batch: inputs, classes, row numbers, and how many photos the whole batch has."""

    x: Tensor
    y: Tensor
    rows: Tensor
    size: int


@dataclass(frozen=True)
class Pool:
    """What is trained on in an epoch: rows and their classes. An epoch shows ``count`` of them."""

    rows: Tensor
    labels: Tensor
    count: int

    def batches(self, params: DogParams, seed: int, epoch: int) -> Iterator[Tensor]:
        """The rows of each whole batch of an epoch."""
        order = generator(seed, "order", epoch)
        return sampler.batches(params.sampler, self.rows, self.labels, params.batch_size, self.count, order)


class Learner(Protocol):
    """A model in one regime."""

    model: nn.Module
    """Maps inputs to `Outputs`."""
    head: Head
    rows: Rows
    frozen: bool
    """Whether the backbone stayed as it was."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their peak learning rates."""

    def begin_epoch(self, epoch: int) -> None:
        """Set what is trained in this epoch (from 1)."""

    def batches(self, pool: Pool, epoch: int) -> Iterator[Batch]:
        """This process's shares of an epoch's batches."""

    def kept(self, model: nn.Module) -> nn.Module:
        """What of a model of this kind is validated and kept."""

    def predict(self, model: nn.Module, rows: Tensor, precision: AbstractContextManager[Any]) -> Scores:
        """What a model of this kind says of some photos."""

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        """What a model needs beyond its backbone's first weights: ``head.*``, ``scaling.*``, maybe ``backbone.*``."""


class FrozenLearner:
    """A head on features that are computed once. An epoch shows each photo once, in a view drawn at random."""

    frozen = True

    def __init__(self, params: DogParams, context: Context, photos: Photos) -> None:
        self._params, self._context = params, context
        views: list[Tensor] = []
        problems: store.Problems = {}
        for view in range(params.views):
            array, problems = features(
                photos, params.backbone, params.weights, params.resolution, view, context.cache, context.device
            )
            views.append(torch.from_numpy(array.copy()))
        self.rows = readable(photos, problems)
        x = torch.stack(views)  # (views, photos, features)
        self.scaling = Scaling(x[0, self.rows.train])
        self._x = self.scaling(x).to(context.device)
        self.head = make_head(params, x.shape[2], len(photos.classes)).to(context.device)
        self.model: nn.Module = self.head

    def groups(self) -> list[dict[str, Any]]:
        return head_groups(self.head, self._params.lr)

    def begin_epoch(self, epoch: int) -> None:
        self.model.train()

    def batches(self, pool: Pool, epoch: int) -> Iterator[Batch]:
        context, sides = self._context, generator(self._context.seed, "views", epoch)
        label_of = _by_row(pool, len(self.rows.labels))
        for rows in pool.batches(self._params, context.seed, epoch):
            views = torch.randint(self._params.views, rows.shape, generator=sides)
            part = sampler.share(len(rows), context.rank, context.processes)
            own, views = rows[part], views[part]
            yield Batch(self._x[views, own], label_of[own].to(context.device), own, len(rows))

    def kept(self, model: nn.Module) -> nn.Module:
        return model

    @torch.no_grad()
    def predict(self, model: nn.Module, rows: Tensor, precision: AbstractContextManager[Any]) -> Scores:
        model.eval()
        with precision:
            return _scores(_mean_of_views([model(x[rows]) for x in self._x]))

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        return prefixed("head", model.state_dict()) | prefixed("scaling", self.scaling.state_dict())


class FinetuneLearner:
    """Backbone and head: the head alone first, then also the backbone's last stages, at the end on clean photos.

    Photos are decoded once to a shared store, and augmented anew each epoch where the model is. The backbone's batch
    norms keep their ImageNet statistics: batches are small and classes many.
    """

    frozen = False

    def __init__(
        self, params: DogParams, context: Context, photos: Photos, probe: FrozenLearner | None = None
    ) -> None:  # fmt: skip
        """The head begins where that of ``probe`` has come to, if there is one."""
        self._params, self._context = params, context
        self._pixels, problems = decoded(photos, math.ceil(params.resolution / params.crop), context)
        self.rows = readable(photos, problems)
        self._backbone = load_backbone(params.backbone, params.weights, context.seed)
        self._backbone.net.to(context.device).eval()
        if probe is None:
            self.head = make_head(params, self._backbone.features, len(photos.classes))
            scaling = Scaling(self._some_features())
        else:
            self.head, scaling = probe.head, probe.scaling
        self.model: nn.Module = nn.Sequential(self._backbone.net, scaling, self.head).to(context.device)
        self._stages = last_stages(self._backbone.net, params.unfrozen_stages)
        self._first = [p.detach().clone() for p in self._drawn_back(self.model)] if params.tuned_share < 1 else []

    @torch.no_grad()
    def _some_features(self) -> Tensor:
        """Of training photos from all over the classes, as the backbone sees them before it learns."""
        rows = self.rows.train[:: math.ceil(len(self.rows.train) / _MEASURED)]
        parts = rows.split(self._params.batch_size)
        return torch.cat([self._backbone.net(self._as_validated(part)).float() for part in parts])

    def _as_validated(self, rows: Tensor) -> Tensor:
        photos = centre(take(self._pixels, rows), self._params.resolution).to(self._context.device)
        return self._backbone.normalise(photos)

    def groups(self) -> list[dict[str, Any]]:
        params, net = self._params, self._backbone.net
        return head_groups(self.head, params.lr) + backbone_groups(
            net, self._stages, params.backbone_lr, params.layer_decay, params.weight_decay
        )

    def begin_epoch(self, epoch: int) -> None:
        self._backbone.net.eval().requires_grad_(False)
        self.head.train()
        if epoch > self._params.frozen_epochs:
            for parameter in self._stages:
                parameter.requires_grad_(True)

    def batches(self, pool: Pool, epoch: int) -> Iterator[Batch]:
        params, device = self._params, self._context.device
        augment = self._augment(epoch)
        label_of = _by_row(pool, len(self.rows.labels))
        chance = generator(self._context.seed, "augment", epoch)

        def read() -> Iterator[tuple[Tensor, Tensor, Any, int]]:
            for rows in pool.batches(params, self._context.seed, epoch):
                drawn = draw(augment.settings, len(rows), chance)  # for all processes: each applies its part
                part = sampler.share(len(rows), self._context.rank, self._context.processes)
                own = rows[part]
                yield take(self._pixels, own, pinned=device == "cuda"), own, drawn.part(part), len(rows)

        for photos, own, drawn, size in ahead(read()):
            labels = label_of[own]
            x = augment.apply_drawn(photos.to(device, non_blocking=True), labels, drawn)
            yield Batch(x, labels.to(device), own, size)

    def _augment(self, epoch: int) -> Augment:
        p = self._params
        settings = Settings(p.flip, p.rotation, p.zoom, p.shift, p.colour, p.mask, p.splice)
        if stage_of(p, epoch) is Stage.CLEAN:
            settings = settings.clean()
        return Augment(settings, p.resolution, p.crop, self._backbone.mean, self._backbone.std)

    @torch.no_grad()
    def kept(self, model: nn.Module) -> nn.Module:
        """Between the weights as they were and as they are now, by ``tuned_share``."""
        if not self._first:
            return model
        between = copy.deepcopy(model)
        for now, first in zip(self._drawn_back(between), self._first, strict=True):
            now.copy_(torch.lerp(first, now, self._params.tuned_share))
        return between

    def _drawn_back(self, model: nn.Module) -> list[nn.Parameter]:
        """The backbone's parameters; the head's too, if it began as one that was trained."""
        net, _, head = model.children()
        return [*net.parameters(), *(head.parameters() if self._params.probe_epochs else ())]

    @torch.no_grad()
    def predict(self, model: nn.Module, rows: Tensor, precision: AbstractContextManager[Any]) -> Scores:
        model.eval()
        parts = []
        with precision:
            for some in rows.split(self._params.batch_size):
                x = self._as_validated(some)
                parts.append(_mean_of_views([model(view(x)) for view in VIEWS[: self._params.views]]))
        return _scores([torch.cat(heads) for heads in zip(*parts, strict=True)])

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        names = ("backbone", "scaling", "head")
        parts = zip(names, model.children(), strict=True)
        return {k: v for name, part in parts for k, v in prefixed(name, part.state_dict()).items()}


def make_learner(params: DogParams, context: Context, photos: Photos, probe: FrozenLearner | None = None) -> Learner:
    """``probe`` is what a fine-tuning begins from."""
    if params.regime == "frozen":
        return FrozenLearner(params, context, photos)
    return FinetuneLearner(params, context, photos, probe)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _by_row(pool: Pool, count: int) -> Tensor:
    """The class of each row that is trained on, by row number."""
    labels = torch.full((count,), -1)
    labels[pool.rows] = pool.labels
    return labels


def _mean_of_views(views: Sequence[Outputs]) -> list[Tensor]:
    """Log-probabilities of each head: the mean of those of the views, made probabilities again."""
    each = [[scores for scores in (view.scores, view.auxiliary) if scores is not None] for view in views]
    means = [torch.stack([s.float().log_softmax(1) for s in head]).mean(0) for head in zip(*each, strict=True)]
    return [mean.log_softmax(1).cpu() for mean in means]


def _scores(heads: list[Tensor]) -> Scores:
    return Scores(heads[0].numpy(), heads[1].numpy() if len(heads) > 1 else None)
