"""Heads: from a backbone's features to class scores, and the loss that trains them.

Source: kexue.fm/archives/4611. The contest's head is a gated layer with softmax, a second softmax on the features
themselves, and Wen et al.'s centre loss (ECCV 2016) with centres learned by gradient:

    loss = CE + aux_weight · CE_aux + centre_weight · ‖g − C_y‖²

At width h the squared distance is scaled by 64 / h: as in the contest at its width of 64, and as strong for each
dimension at any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams

CONTEST_WIDTH = 64


class Outputs(NamedTuple):
    """``scores`` and ``auxiliary`` are (n, classes), ``hidden`` (n, width) is what the centre loss looks at."""

    scores: Tensor
    auxiliary: Tensor | None
    hidden: Tensor


class Head(nn.Module):
    """``linear``: dropout, then scores. ``glu``: Dense(h) ⊙ σ(Dense(h)) first. ``dense``: Dense(h) first, no gate.

    (n, features) → `Outputs`. Scores of the features themselves start at zero: training starts at the loss of chance,
    ln(classes). Those of a hidden layer start as in the contest, by Glorot's rule: from zero they would send nothing
    back, and the centre loss would pull the hidden layer of all classes to one point meanwhile.
    """

    def __init__(
        self, kind: str, features: int, classes: int, hidden: int, dropout: float,
        auxiliary: bool = False, centres: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        gates = {
            "glu": lambda: nn.Sequential(nn.Linear(features, 2 * hidden), nn.GLU()),
            "dense": lambda: nn.Linear(features, hidden),
            "linear": nn.Identity,
        }
        self.gate = gates[kind]()
        self.scores = _from_zero(features, classes) if kind == "linear" else _from_glorot(hidden, classes)
        self.auxiliary = _from_zero(features, classes) if auxiliary else None
        self.centres = nn.Parameter(torch.zeros(classes, hidden)) if centres else None

    def forward(self, features: Tensor) -> Outputs:
        features = self.dropout(features)
        hidden = self.gate(features)
        return Outputs(self.scores(hidden), None if self.auxiliary is None else self.auxiliary(features), hidden)


class Scaling(nn.Module):
    """(f − mean) / std, by feature: what a head reads in both regimes; (n, features) → the same.

    Features as they are have a large part in common, and along it the centre loss pulls the gated features of all
    classes to one point long before scores can tell them apart: at the contest's weight nothing is learnt then.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor) -> None:
        """By the features of some photos, (photos, features)."""
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0) + 1e-6)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


def make_head(params: DogParams, features: int, classes: int) -> Head:
    """The head that the parameters ask for."""
    gated = params.head != "linear"
    return Head(
        params.head, features, classes, params.hidden, params.dropout,
        auxiliary=gated and params.aux_weight > 0, centres=gated and params.centre_weight > 0,
    )  # fmt: skip


def objective(params: DogParams, head: Head, outputs: Outputs, target: Tensor) -> Tensor:
    """The loss summed over photos, float32. ``target``: classes (n,), or their shares (n, classes) of mixed photos."""
    smoothing = params.label_smoothing
    loss = cross_entropy(outputs.scores.float(), target, label_smoothing=smoothing, reduction="sum")
    if outputs.auxiliary is not None:
        second = cross_entropy(outputs.auxiliary.float(), target, label_smoothing=smoothing, reduction="sum")
        loss = loss + params.aux_weight * second
    if head.centres is not None:
        loss = loss + params.centre_weight * centre_loss(outputs.hidden, head.centres, target)
    return loss


def centre_loss(hidden: Tensor, centres: Tensor, target: Tensor) -> Tensor:
    """64/h · Σ ‖g − C_y‖², float32; of a mixed photo, the mean over its classes by their shares."""
    hidden, centres = hidden.float(), centres.float()
    if target.ndim == 1:
        squares = (hidden - centres[target]).square().sum()
    else:
        own, mean = hidden.square().sum(1) * target.sum(1), target @ centres
        squares = (own - 2 * (hidden * mean).sum(1) + target @ centres.square().sum(1)).sum()
    return squares * (CONTEST_WIDTH / hidden.shape[1])


def _from_zero(width: int, classes: int) -> nn.Linear:
    layer = nn.Linear(width, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _from_glorot(width: int, classes: int) -> nn.Linear:
    layer = _from_zero(width, classes)
    nn.init.xavier_uniform_(layer.weight)
    return layer
