"""Classifiers whose best combination is known in closed form: what the task runs on without inputs.

Member m sees, of a photo of class y, xₘ = sₘ·e_y + noise, unit normal, whose part ρ of the variance all members share.
Its calibrated scores are sₘ·xₘ. The best combination of all sums β·x with β = Σ⁻¹s, where Σ = (1−ρ)I + ρ11ᵀ; it sees
what one member of strength √(sᵀΣ⁻¹s) does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

from tasks.logits import Logits


@dataclass(frozen=True)
class Generated:
    """``strengths``: s of each member; ``correlation``: ρ of any two members' noise; ``overconfidence``: what their
    scores are multiplied with, so that temperatures have something to mend."""

    strengths: tuple[float, ...]
    correlation: float
    classes: int
    photos: int
    overconfidence: float = 1.0

    @property
    def best(self) -> np.ndarray:
        """β: the weights of the best combination of what the members see (members,)."""
        s = np.array(self.strengths)
        shared = self.correlation / (1 + (len(s) - 1) * self.correlation)
        return np.asarray((s - shared * s.sum()) / (1 - self.correlation))

    @property
    def best_accuracy(self) -> float:
        """Of the best combination, in expectation."""
        return accuracy(math.sqrt(float(self.best @ np.array(self.strengths))), self.classes)

    def draw(self, seed: int) -> list[tuple[str, Logits]]:
        """The members' scores as ``(name, scores)``; the photos are named as dogs names them."""
        rng = np.random.default_rng(seed)
        labels = np.arange(self.photos) % self.classes
        names = tuple(f"class{c:03}" for c in range(self.classes))
        keys = tuple(f"val/{names[y]}/{i:05}.jpg" for i, y in enumerate(labels))
        shape = (self.photos, self.classes)
        shared = math.sqrt(self.correlation) * rng.standard_normal(shape)
        truth = np.eye(self.classes)[labels]
        drawn = []
        for m, s in enumerate(self.strengths):
            x = s * truth + shared + math.sqrt(1 - self.correlation) * rng.standard_normal(shape)
            scores = (self.overconfidence * s * x).astype(np.float32)
            drawn.append((f"generated/{m:03}", Logits(scores, keys, labels, names)))
        return drawn


def accuracy(strength: float, classes: int) -> float:
    """Of a member of strength s: P(t + s exceeds ``classes`` − 1 further normals) = ∫ φ(t − s) Φ(t)^{C−1} dt.

    >>> round(accuracy(0.0, 4), 6), round(accuracy(2.0, 2), 6) == round(float(stats.norm.cdf(2 / 2**0.5)), 6)
    (0.25, True)
    """
    density = stats.norm.pdf
    value, _ = integrate.quad(
        lambda t: density(t - strength) * stats.norm.cdf(t) ** (classes - 1), strength - 10, strength + 10
    )
    return float(value)
