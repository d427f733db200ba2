"""Training apart: a trial is pushed away from what earlier trials say of the training photos.

Source: Liu & Yao, Ensemble learning via negative correlation (Neural Networks 12, 1999); the term is
`tasks.ensemble.diversity.negative_correlation`. There all members are trained at once. Trials of a study know nothing
of each other, so here they keep apart from those of the studies that theirs is chained to, each of which left its
scores of the training photos (``train_logits: true``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks import logits
from tasks.api import Input, InputError
from tasks.dogs.folders import Photos
from tasks.ensemble.diversity import negative_correlation

FOLDER = "logits-train"
"""Of a trial's artifacts: its scores of the training photos, as they are."""


@dataclass(frozen=True)
class Others:
    """``mean`` (photos, classes), float32: the other members' mean probabilities, by row number; 0 in the rows of
    photos that are not trained on."""

    mean: Tensor
    members: int

    def term(self, scores: Tensor, rows: Tensor) -> Tensor:
        """The penalty on agreeing with the others, summed over the photos of ``rows``: a scalar, at most 0."""
        others = self.mean[rows].to(scores.device)
        return negative_correlation(scores.float(), others, self.members + 1) * len(rows)


def others(inputs: Sequence[Input], photos: Photos, rows: Tensor) -> Others:
    """What the trials of the inputs say of the training photos in ``rows``. Raises `InputError` naming the trial that
    says nothing of one of them, or of other classes."""
    if not inputs:
        raise InputError("params.diversity keeps apart from the trials of earlier studies: give inputs={from: STUDY}")
    mean = torch.zeros(len(photos.paths), len(photos.classes))
    for given in inputs:
        mean[rows] += _probabilities(given, photos, rows) / len(inputs)
    return Others(mean, len(inputs))


def _probabilities(given: Input, photos: Photos, rows: Tensor) -> Tensor:
    name = f"trial {given.study}/{given.trial}"
    try:
        left = logits.read(given.artifacts / FOLDER)
    except InputError as error:
        raise InputError(
            f"params.diversity needs the scores of {name} on the training photos: run {given.study} with "
            f"params.train_logits=true ({error})"
        ) from error
    if left.classes != photos.classes:
        raise InputError(f"{name} has other classes than this data: it must have been trained on the same")
    place = {key: row for row, key in enumerate(left.keys)}
    if missing := [photos.keys[row] for row in rows.tolist() if photos.keys[row] not in place]:
        raise InputError(f"{name} has no scores of {len(missing)} of the training photos, {missing[0]} for one")
    own = torch.tensor([place[photos.keys[row]] for row in rows.tolist()])
    return torch.from_numpy(left.scores[own.numpy()].copy()).softmax(1)
