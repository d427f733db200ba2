"""The training loop of both regimes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from tasks.api import Context
from tasks.dogs import drawn
from tasks.dogs.evaluate import Predictions, accuracy, write_artifacts
from tasks.dogs.folders import find_photos
from tasks.dogs.learners import Learner, make_learner
from tasks.dogs.model import save_model

if TYPE_CHECKING:
    from tasks.dogs import DogParams

_OWN = ("initial_lr", "max_lr", "min_lr", "weight_decay")


def train(params: DogParams, context: Context) -> Mapping[str, float]:
    """Train with AdamW and a one-cycle schedule, validating and checkpointing each epoch."""
    root = context.data or drawn.ensure(context.cache)
    photos = find_photos(root, params.val_fraction, params.split_seed)
    torch.manual_seed(context.seed)
    learner = make_learner(params, context, photos)
    rows = learner.rows
    trainer = _Trainer(params, learner, context)
    val_paths = [photos.paths[row] for row in rows.val.tolist()]
    val_labels = rows.labels[rows.val].numpy()
    for epoch in range(trainer.epoch + 1, params.epochs + 1):
        trainer.train_epoch(epoch)
        predictions = Predictions(learner.validate().numpy(), val_labels, val_paths, photos.classes)
        metrics = {
            **accuracy(predictions),
            "train/loss": trainer.loss,
            "data/unreadable": float(len(rows.problems)),
        }
        trainer.history.append({"epoch": epoch, **metrics})
        context.report(epoch, **metrics, **{"train/images_per_second": trainer.speed})
        context.save(epoch, trainer.state())
    predictions = Predictions(learner.validate().numpy(), val_labels, val_paths, photos.classes)
    write_artifacts(context, predictions, trainer.history)
    save_model(params, context, learner, photos, val_paths[0])
    return {name: value for name, value in trainer.history[-1].items() if name != "epoch"}


class _Trainer:
    """Optimiser, schedule and data order; everything that a checkpoint must hold."""

    def __init__(self, params: DogParams, learner: Learner, context: Context) -> None:
        self._params, self._learner = params, learner
        self.epoch, self.loss, self.speed = 0, math.nan, math.nan
        self.history: list[dict[str, float]] = []
        steps = params.epochs * math.ceil(len(learner.rows.train) / params.batch_size)
        groups = learner.groups()
        self._optimizer = torch.optim.AdamW(groups, weight_decay=params.weight_decay)
        peaks = [group["lr"] for group in groups]
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, peaks, total_steps=steps + 1, pct_start=0.1
        )
        self._order = torch.Generator().manual_seed(context.seed)
        if (kept := context.restore()) is not None:
            self._load(*kept)

    def train_epoch(self, epoch: int) -> None:
        self._learner.begin_epoch(epoch)
        began, seen, total = time.monotonic(), 0, 0.0
        for x, y in self._learner.batches(self._order):
            loss = cross_entropy(self._learner.model(x), y, label_smoothing=self._params.label_smoothing)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            seen, total = seen + len(y), total + loss.item() * len(y)
        self.epoch, self.loss, self.speed = epoch, total / seen, seen / (time.monotonic() - began)

    def state(self) -> dict[str, Any]:
        return {
            "model": self._learner.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": _plain(self._schedule.state_dict()),
            "order": self._order.get_state(),
            "rng": torch.get_rng_state(),
            "history": self.history,
        }

    def _load(self, epoch: int, state: Mapping[str, Any]) -> None:
        self._learner.model.load_state_dict(state["model"])
        self._load_optimizer(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._order.set_state(state["order"])
        torch.set_rng_state(state["rng"])
        self.epoch, self.history = epoch, list(state["history"])

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        """The moments are the checkpoint's; rates and decay are this trial's own, which population-based training may
        have changed since the checkpoint was written."""
        own = [{name: group[name] for name in _OWN} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(dict(state))
        for group, values in zip(self._optimizer.param_groups, own, strict=True):
            if group["max_lr"] != values["max_lr"]:
                group["lr"] *= values["max_lr"] / group["max_lr"]
            group.update(values)


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's numbers; its functions are the class's own and come back with it."""
    return {k: v for k, v in state.items() if isinstance(v, bool | int | float | str | list | tuple | type(None))}
