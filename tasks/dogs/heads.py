"""Heads: from a backbone's features to class scores."""

from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """``linear``: dropout, then scores. ``glu``: Dense(h) ⊙ σ(Dense(h)) first, the gate of kexue.fm/archives/4611.

    (n, features) → (n, classes). The last layer starts at zero, so training starts at the loss of chance, ln(classes).
    """

    def __init__(self, kind: str, features: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Sequential(nn.Linear(features, 2 * hidden), nn.GLU()) if kind == "glu" else nn.Identity()
        self.scores = nn.Linear(hidden if kind == "glu" else features, classes)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.scores(self.gate(self.dropout(features)))
