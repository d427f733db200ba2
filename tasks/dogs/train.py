"""A trial from its photos to what it leaves behind: epochs, validation, checkpoints, artifacts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasks import logits
from tasks.api import Context
from tasks.dogs import drawn
from tasks.dogs.apart import FOLDER, others
from tasks.dogs.blend import Blend, cross_fitted, halves
from tasks.dogs.evaluate import METRICS, Predictions, accuracy, write_artifacts
from tasks.dogs.folders import Photos, find_photos
from tasks.dogs.learners import make_learner
from tasks.dogs.loading import Rows
from tasks.dogs.model import save_model
from tasks.dogs.probe import probe
from tasks.dogs.pseudo import PseudoLabels
from tasks.dogs.ranks import Ranks
from tasks.dogs.sampler import check_pairs
from tasks.dogs.trainer import NotFinite, Trainer

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams


def train(params: DogParams, context: Context) -> Mapping[str, float]:
    """Train, validating and checkpointing each epoch. Returns the last epoch's metrics; in rank 0 alone, if several."""
    params = params.effective()
    root = context.data or drawn.ensure(context.cache)
    ranks = Ranks(context)
    with ranks.joined():
        return _train(params, context, root, ranks)


def _train(params: DogParams, context: Context, root: Path, ranks: Ranks) -> Mapping[str, float]:
    unlabelled = params.pseudo_rounds > 0 and params.pseudo_source == "unlabelled"
    photos = find_photos(root, params.val_fraction, params.split_seed, unlabelled)
    torch.manual_seed(context.seed)  # the head's first weights
    begun = probe(params, context, photos, ranks) if params.regime == "finetune" and params.probe_epochs else None
    learner = make_learner(params, context, photos, begun)
    pseudo = PseudoLabels(params, learner.rows)
    if params.sampler == "pairs":
        check_pairs(pseudo.pool.labels, photos.classes, params.batch_size)
    keep_from = others(context.inputs, photos, learner.rows.train) if params.diversity else None
    trainer = Trainer(params, learner, context, ranks, len(photos.classes), pseudo.pool.count, keep_from)
    validation = _Known(photos, learner.rows, learner.rows.val, params.split_seed)
    history: list[dict[str, float]] = []
    if (kept := context.restore()) is not None:
        epoch, state = kept
        trainer.load(epoch, state)
        pseudo.load(state["pseudo"])
        history = list(state["history"])
    for epoch in range(trainer.epoch + 1, params.epochs + 1):
        try:
            trainer.train_epoch(epoch, pseudo.pool)
        except NotFinite as error:
            return _diverged(context, ranks, epoch, error)
        metrics = pseudo.metrics()
        if pseudo.due(epoch):
            found = pseudo.label(trainer.predict(pseudo.hidden)) if ranks.first and len(pseudo.hidden) else None
            pseudo.rows, pseudo.labels = ranks.agreed(found) or (pseudo.rows, pseudo.labels)
        if ranks.first:
            metrics |= validation.measure(trainer) | {"train/loss": trainer.loss}
            history.append({"epoch": epoch, **metrics})
            context.report(epoch, **metrics, **{"train/images_per_second": trainer.speed})
            context.save(epoch, {**trainer.state(), "pseudo": pseudo.state(), "history": history})
    if not ranks.first:
        return {}
    blend = validation.blend(trainer)
    predictions = validation.predictions(blend)
    write_artifacts(context, predictions, history)
    logits.write(context.artifact("logits/logits.npy").parent, validation.logits(blend.scores))
    if params.train_logits:
        known = _Known(photos, learner.rows, learner.rows.train, params.split_seed)
        scores = trainer.predict(learner.rows.train).blended(blend.alpha)
        logits.write(context.artifact(f"{FOLDER}/logits.npy").parent, known.logits(scores))
    save_model(params, context, learner.trained(trainer.model), photos.classes, predictions.paths[0], blend.alpha)
    return {name: value for name, value in history[-1].items() if name != "epoch"}


class _Known:
    """Photos of known classes that can be read, and what a model makes of them."""

    def __init__(self, photos: Photos, rows: Rows, chosen: Tensor, split_seed: int) -> None:
        self._rows, self._classes, self._unreadable = chosen, photos.classes, len(rows.problems)
        own = chosen.tolist()
        self._paths: Sequence[Path] = [photos.paths[row] for row in own]
        self._keys = tuple(photos.keys[row] for row in own)
        self._labels: np.ndarray = rows.labels[chosen].numpy()
        self._half = halves(self._keys, self._labels.tolist(), split_seed)

    def blend(self, trainer: Trainer) -> Blend:
        return cross_fitted(trainer.predict(self._rows), self._labels, self._half)

    def predictions(self, blend: Blend) -> Predictions:
        return Predictions(blend.scores, self._labels, self._paths, self._classes)

    def logits(self, scores: np.ndarray) -> logits.Logits:
        return logits.Logits(scores, self._keys, self._labels, self._classes)

    def measure(self, trainer: Trainer) -> dict[str, float]:
        blend = self.blend(trainer)
        return {**accuracy(self.predictions(blend)), **blend.metrics(), "data/unreadable": float(self._unreadable)}


def _diverged(context: Context, ranks: Ranks, epoch: int, error: NotFinite) -> dict[str, Any]:
    """Say what happened and hand over metrics that are no numbers, by which the trial ends as diverged."""
    print(f"diverged: {error}; a smaller lr, or a smaller backbone_lr, may help", flush=True)
    metrics = dict.fromkeys((*METRICS, "train/loss"), math.nan)
    if ranks.first:
        context.report(epoch, **metrics)
    return metrics
