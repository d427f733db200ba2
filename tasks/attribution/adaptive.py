"""Adaptive integration of a gradient along a path, where what each part must add up to is known.

Idea: a gradient at a node comes with the score there, so of every panel [a, b] of the path the true ∫ₐᵇ is known: it is
F(b) − F(a). Panels that Simpson's rule gets wrong are therefore known, not guessed, and are halved; all nodes serve
again. A network of ReLUs changes in jumps, most of them near the baseline: nodes go there, and nowhere else.
The weights are Simpson's alone, never fitted to the score: the completeness gap stays a test.

A path is done when its gap is within the tolerance and the gaps of its panels, added without their signs, are within
five times that: errors of both signs that happen to cancel are not taken for convergence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.attribution.gradients import Gradients

PANELS = 4  # at the start: 9 nodes
SPLITS = 4  # panels that are halved a round: 8 nodes, known only by the path itself, so batches change no decision
LOCAL = 5.0  # how many times the tolerance the panels' gaps, added without their signs, may be
NARROWEST = 2.0**-30


@dataclass
class Node:
    value: float  # F
    slope: float  # dF/dα: the gradient's product with x − x̄
    gradient: Tensor


@dataclass
class Done:
    """What is kept of a path."""

    map: Tensor
    change: float
    nodes: int


@dataclass
class Path:
    """From one baseline (…) to its input (…): nodes by their α, which are dyadic and so exact."""

    item: int
    start: Tensor
    end: Tensor
    nodes: dict[float, Node] = field(default_factory=dict)
    panels: dict[tuple[float, float], float | None] = field(
        default_factory=lambda: {(k / PANELS, (k + 1) / PANELS): None for k in range(PANELS)}
    )
    """Each with Simpson's rule on it less what the score says, where its nodes are known."""

    def __len__(self) -> int:
        return len(self.nodes)

    def wanted(self) -> list[float]:
        """α of the nodes that the panels lack."""
        new = {at for panel, gap in self.panels.items() if gap is None for at in _three(*panel)}
        return sorted(new - self.nodes.keys())

    def add(self, alpha: float, value: float, gradient: Tensor) -> None:
        slope = torch.dot(gradient.flatten().double(), (self.end - self.start).flatten().double())
        self.nodes[alpha] = Node(value, float(slope), gradient)

    @property
    def change(self) -> float:
        return self.nodes[1.0].value - self.nodes[0.0].value

    def _gap(self, a: float, b: float) -> float:
        left, middle, right = (self.nodes[at] for at in _three(a, b))
        return (b - a) * (left.slope + 4 * middle.slope + right.slope) / 6 - (right.value - left.value)

    def split(self, tolerance: float, max_nodes: int, absolute: float) -> bool:
        """Halve the worst panels; False when the path is done or may take no more nodes."""
        gaps = {panel: self._gap(*panel) if gap is None else gap for panel, gap in self.panels.items()}
        self.panels = {**gaps}
        allowed = max(tolerance * abs(self.change), absolute)
        if abs(math.fsum(gaps.values())) <= allowed and math.fsum(map(abs, gaps.values())) <= LOCAL * allowed:
            return False
        worst = sorted(gaps, key=lambda panel: (-abs(gaps[panel]), panel))
        worst = [(a, b) for a, b in worst if b - a > NARROWEST][: min(SPLITS, (max_nodes - len(self)) // 2)]
        for a, b in worst:
            middle = (a + b) / 2
            del self.panels[a, b]
            self.panels |= {(a, middle): None, (middle, b): None}
        return bool(worst)

    def map(self) -> Tensor:
        """(x − x̄) ⊙ Σ weight · gradient."""
        total = torch.zeros_like(self.end)
        for a, b in sorted(self.panels):
            for at, weight in zip(_three(a, b), (1, 4, 1), strict=True):
                total.add_(self.nodes[at].gradient, alpha=(b - a) * weight / 6)
        return total * (self.end - self.start)


def integrate(
    gradients: Gradients, inputs: Tensor, baselines: Tensor, tolerance: float, max_nodes: int, absolute: float
) -> list[Done]:
    """Every item's path. As many are worked on together as fill a batch; those hold the gradients of their nodes."""
    done: dict[int, Done] = {}
    paths = [Path(item, baselines[item], inputs[item]) for item in range(len(inputs))]
    at_once = max(1, gradients.max_rows // (2 * SPLITS))
    waiting, active = paths[::-1], list[Path]()
    del paths
    while waiting or active:
        active += [waiting.pop() for _ in range(min(at_once - len(active), len(waiting)))]
        _evaluate(gradients, active)
        ended = [path for path in active if not path.split(tolerance, max_nodes, absolute)]
        done |= {path.item: Done(path.map(), path.change, len(path)) for path in ended}
        active = [path for path in active if path.item not in done]
    return [done[item] for item in range(len(inputs))]


def _evaluate(gradients: Gradients, paths: Sequence[Path]) -> None:
    asked = [(path, alpha) for path in paths for alpha in path.wanted()]
    rows = torch.stack([torch.lerp(path.start, path.end, alpha) for path, alpha in asked])
    values, slopes = gradients(rows, torch.tensor([path.item for path, _ in asked], device=rows.device))
    for (path, alpha), value, gradient in zip(asked, values.tolist(), slopes, strict=True):
        path.add(alpha, value, gradient)


def _three(a: float, b: float) -> tuple[float, float, float]:
    return a, (a + b) / 2, b
