"""What is learnt: rows of inputs and label sets, in three parts, and the best rule where it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from tasks.api import Context

if TYPE_CHECKING:
    from tasks.multilabel import MultilabelParams

__all__ = ["Part", "Problem", "make_problem"]


@dataclass(frozen=True)
class Part:
    """``inputs`` (n, …) as the model takes them, ``targets`` (n, labels) bool."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs, but {len(self.targets)} rows of targets")

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Problem:
    """train: to learn from; val: to choose by (threshold, learning rate); test: to report on.

    ``probabilities`` (test rows, labels) and ``threshold``, where the law is known: P(label | input), and the one above
    which to predict for the best micro-F1.
    """

    train: Part
    val: Part
    test: Part
    model: nn.Module
    probabilities: np.ndarray | None = None
    threshold: float = 0.5


def make_problem(params: MultilabelParams, context: Context) -> Problem:
    """Draw the rows and an untrained model; both follow from the context's seed and torch's state."""
    if params.problem == "generated":
        from tasks.multilabel.generated import make_generated

        return make_generated(params, context.seed)
    if params.problem == "digits":
        from tasks.multilabel.digits import make_digits

        return make_digits(params, context)
    from tasks.multilabel.sentences import make_sentences

    return make_sentences(params, context)
