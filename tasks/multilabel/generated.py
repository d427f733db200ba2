"""A law whose best decisions are known: groups of labels, each hanging on a hidden state that the input shows blurred.

Idea: the g-th group of labels has a hidden state z; in state 0 hardly any of its labels holds, in each other state some
of them do. The input shows z as a Gaussian cloud about the state's centre, all groups' clouds side by side and then
turned by a rotation. Labels of a group are independent given z but not given the input, which leaves z in doubt, so
they depend on each other; later groups are active more rarely. P(label | input) is a sum over one group's states.

The best rule for the share of wrong decisions predicts where p > ½. The best for micro-F1 predicts where p > F*/2, half
of the greatest F1 itself (Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892, theorem 1).

>>> law = Law.drawn(labels=8, group=4, imbalance=1.0, noise=1.0, seed=0)
>>> inputs, holds = law.sample(1000, np.random.default_rng(1))
>>> inputs.shape, holds.shape, law.probabilities(inputs).shape
((1000, 12), (1000, 8), (1000, 8))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from tasks.multilabel.metrics import best_threshold_known
from tasks.multilabel.problem import Part, Problem

if TYPE_CHECKING:
    from tasks.multilabel import MultilabelParams

__all__ = ["Law", "make_generated"]

_STATES, _SIZE = 4, 6
_ACTIVE = 0.6  # how often the first group is not in state 0
_ON, _OFF = 0.9, 0.02  # how likely a label is in a state that has it, and in one that has it not
_MANY = 100_000  # rows that the threshold for F1 is computed on


@dataclass(frozen=True)
class Law:
    """``prior`` (groups, states), ``centres`` (groups, states, size), ``chance`` (groups, states, group) of each label
    given the state, ``rotation`` (groups·size, groups·size). Labels are in order of their groups, the first so many."""

    prior: np.ndarray
    centres: np.ndarray
    chance: np.ndarray
    rotation: np.ndarray
    noise: float
    labels: int

    @classmethod
    def drawn(cls, labels: int, group: int, imbalance: float, noise: float, seed: int) -> Law:
        """One law for each seed."""
        rng = np.random.default_rng((7359, seed))
        groups = -(-labels // group)
        active = _ACTIVE / np.arange(1, groups + 1) ** imbalance
        prior = np.concatenate([1 - active[:, None], np.repeat(active[:, None] / (_STATES - 1), _STATES - 1, 1)], 1)
        has = rng.random((groups, _STATES, group)) < 0.5
        has[:, 0] = False
        for states in has[:, 1:]:  # each state has a label at least
            states[np.arange(len(states)), rng.integers(group, size=len(states))] = True
        size = groups * _SIZE
        rotation, _ = np.linalg.qr(rng.standard_normal((size, size)))
        centres = rng.standard_normal((groups, _STATES, _SIZE))
        return cls(prior, centres, np.where(has, _ON, _OFF), rotation, noise, labels)

    def sample(self, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (rows, groups·size) and labels (rows, labels)."""
        groups = len(self.prior)
        below = self.prior.cumsum(axis=1)[None, :, :-1]
        state = (rng.random((rows, groups, 1)) > below).sum(axis=-1)
        each = np.arange(groups)
        shown = self.centres[each, state] + self.noise * rng.standard_normal((rows, groups, _SIZE))
        holds = rng.random((rows, groups, self.chance.shape[-1])) < self.chance[each, state]
        return shown.reshape(rows, -1) @ self.rotation, holds.reshape(rows, -1)[:, : self.labels]

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """P(label | input), (rows, labels): Σ_z P(z | input) P(label | z), by Bayes."""
        shown = (inputs @ self.rotation.T).reshape(len(inputs), len(self.prior), 1, _SIZE)
        far = ((shown - self.centres) ** 2).sum(axis=-1)
        state = softmax(np.log(self.prior) - far / (2 * self.noise**2), axis=-1)
        return np.einsum("ngz,gzl->ngl", state, self.chance).reshape(len(inputs), -1)[:, : self.labels]

    def best_threshold(self) -> float:
        """The probability above which to predict for the best micro-F1."""
        inputs, _ = self.sample(_MANY, np.random.default_rng(2014))
        threshold, _ = best_threshold_known(self.probabilities(inputs))
        return threshold


def make_generated(params: MultilabelParams, seed: int) -> Problem:
    """Rows of one law; the seed says which."""
    law = Law.drawn(params.labels, params.group, params.imbalance, params.noise, params.problem_seed)
    rng = np.random.default_rng(seed)
    drawn = [law.sample(rows, rng) for rows in (params.train_rows, params.held_rows, params.held_rows)]
    train, val, test = (Part(torch.from_numpy(x).float(), torch.from_numpy(y)) for x, y in drawn)
    size = drawn[0][0].shape[1]
    model = nn.Sequential(nn.Linear(size, params.hidden), nn.GELU(), nn.Linear(params.hidden, params.labels))
    return Problem(train, val, test, model, law.probabilities(drawn[2][0]), law.best_threshold())
