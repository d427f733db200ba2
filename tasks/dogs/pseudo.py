"""Pseudo-labels: photos without a label join the training under the class that the model is sure of.

Source: kexue.fm/archives/4611, which merges predictions into the training set and iterates. Here each round replaces
the labels of the one before, so that an early mistake can be taken back. An epoch stays as long as it was: it shows as
many photos as have labels, drawn from all. Both heads count the same, so no validation label helps to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasks.dogs.blend import Scores
from tasks.dogs.chance import generator
from tasks.dogs.learners import Pool
from tasks.dogs.loading import Rows

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams


class PseudoLabels:
    """Which photos are trained on under which label."""

    def __init__(self, params: DogParams, rows: Rows) -> None:
        self._params, self._true = params, rows.labels
        self._labelled, self.hidden = rows.train, rows.train[:0]
        if params.pseudo_rounds:
            if params.pseudo_source == "train":
                self._labelled, self.hidden = _hide(rows, params.pseudo_fraction, params.split_seed)
            else:
                self.hidden = rows.unlabelled if params.pseudo_source == "unlabelled" else rows.val
        if self.transductive:
            print("transductive: the validation photos serve as unlabelled training photos", flush=True)
        self.rows, self.labels = self.hidden[:0], rows.labels[:0]

    @property
    def transductive(self) -> bool:
        return self._params.pseudo_rounds > 0 and self._params.pseudo_source == "validation"

    @property
    def pool(self) -> Pool:
        """Photos with labels, and those that have one from the last round."""
        labels = torch.cat([self._true[self._labelled], self.labels])
        return Pool(torch.cat([self._labelled, self.rows]), labels, len(self._labelled))

    def due(self, epoch: int) -> bool:
        """Whether a round follows on this epoch: the rounds part the epochs evenly."""
        epochs, rounds = self._params.epochs, self._params.pseudo_rounds
        return epoch < epochs and epoch in {max(1, epochs * k // (rounds + 1)) for k in range(1, rounds + 1)}

    def label(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """Of the hidden photos those that the model is sure of, as ``(rows, labels)``."""
        p = np.exp(scores.blended(0.5))
        sure = torch.from_numpy(p.max(1) >= self._params.pseudo_threshold)
        return self.hidden[sure], torch.from_numpy(p.argmax(1))[sure]

    def metrics(self) -> dict[str, float]:
        if not self._params.pseudo_rounds:
            return {}
        found = {"pseudo/photos": float(len(self.rows)), "pseudo/transductive": float(self.transductive)}
        if self._params.pseudo_source != "unlabelled" and len(self.rows):
            found["pseudo/right"] = float((self._true[self.rows] == self.labels).double().mean())
        return found

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "labels": self.labels}

    def load(self, state: Mapping[str, Any]) -> None:
        self.rows, self.labels = state["rows"], state["labels"]


def _hide(rows: Rows, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Training photos that keep their labels (two of each class at least, if it has them), and the others."""
    kept, hidden = [], []
    for label in rows.labels[rows.train].unique().tolist():
        own = rows.train[rows.labels[rows.train] == label]
        own = own[torch.randperm(len(own), generator=generator(seed, "hide", label))]
        count = max(min(2, len(own)), len(own) - round(fraction * len(own)))
        kept.append(own[:count])
        hidden.append(own[count:])
    return torch.cat(kept).sort().values, torch.cat(hidden).sort().values
