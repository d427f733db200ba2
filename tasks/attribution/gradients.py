"""Values and gradients of a score, in batches that fit into memory, each evaluation counted.

>>> import torch
>>> gradients = Gradients(lambda rows, items: (rows**2).sum(1), max_rows=2)
>>> value, gradient = gradients(torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), torch.arange(3))
>>> value.tolist(), gradient[0].tolist(), gradients.evaluated
([5.0, 9.0, 1.0], [2.0, 4.0], 3)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.api import InputError
from tasks.attribution.lean import LeanBackward

Score = Callable[[Tensor, Tensor], Tensor]
"""``(rows (r, …), items (r,)) -> (r,)``: each row's score; ``items`` says which of the explained things a row is of."""
KINDS = ("logit", "log_probability", "probability")


def class_score(model: Callable[[Tensor], Tensor], targets: Tensor, kind: str = "logit") -> Score:
    """The score of class ``targets[i]`` (n,) for rows of item i; ``model`` maps rows to class scores (r, classes)."""
    if kind not in KINDS:
        raise ValueError(f"no score '{kind}'; there are {', '.join(KINDS)}")

    def score(rows: Tensor, items: Tensor) -> Tensor:
        scores = model(rows)
        if kind != "logit":
            scores = scores.log_softmax(1)
        chosen = scores.gather(1, targets[items, None])[:, 0]
        return chosen.exp() if kind == "probability" else chosen

    return score


class Gradients:
    """A score and its gradient with respect to its rows. At most ``max_rows`` rows go through the model at once."""

    def __init__(self, score: Score, max_rows: int = 64) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, got {max_rows}")
        self.score, self.max_rows = score, max_rows
        self.evaluated = 0
        """Rows that went forward and back."""
        self.forwarded = 0
        """Rows that went forward alone."""

    def __call__(self, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (r,) and gradients (r, …). Raises `InputError` where either is no number."""
        values, gradients = [], []
        for part, index in zip(rows.split(self.max_rows), items.split(self.max_rows), strict=True):
            leaf = part.detach().requires_grad_()
            with LeanBackward():
                value = self.score(leaf, index)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            values.append(_finite(value.detach(), index, "score"))
            gradients.append(_finite(gradient, index, "gradient of the score"))
        self.evaluated += len(rows)
        return _joined(values), _joined(gradients)

    @torch.no_grad()
    def values(self, rows: Tensor, items: Tensor) -> Tensor:
        """Scores alone, (r,)."""
        parts = zip(rows.split(self.max_rows), items.split(self.max_rows), strict=True)
        self.forwarded += len(rows)
        return torch.cat([_finite(self.score(part, index), index, "score") for part, index in parts])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _finite(tensor: Tensor, items: Tensor, what: str) -> Tensor:
    if math.isfinite(tensor.sum()):  # no sum of what is infinite or NaN is
        return tensor
    good = tensor.flatten(1).isfinite().all(1) if tensor.dim() > 1 else tensor.isfinite()
    if not bool(good.all()):  # a sum may overflow where no number does
        item = int(items[~good][0])
        raise InputError(
            f"the {what} is NaN or infinite on the path of item {item}: the model's weights or its inputs are, "
            "or it divides by zero there"
        )
    return tensor
