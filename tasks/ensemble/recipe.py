"""How a method turns what it saw of some photos into one classifier, and what that says of any photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.special import log_softmax

from tasks.ensemble import greedy
from tasks.ensemble.candidates import Candidates
from tasks.ensemble.measure import own
from tasks.ensemble.members import Members, right
from tasks.ensemble.stacking import stack
from tasks.ensemble.temperature import fit_temperature

if TYPE_CHECKING:
    from tasks.ensemble import EnsembleParams

LEAST_WEIGHT = 1e-4
"""Smaller weights, which stacking leaves behind, are none."""


class Soups(Protocol):
    """What makes one model of the weights of several, where that can be: see `tasks.ensemble.soup`."""

    def log_probabilities(self, which: tuple[int, ...]) -> np.ndarray:
        """What the mean of these members' weights says of all photos of the frame: (photos, classes)."""


@dataclass(frozen=True)
class Recipe:
    """``weights`` (members,) of sum 1; ``temperatures`` (members,) of each; ``final``: that of the combination.

    ``pool``: ``arithmetic`` averages probabilities, ``geometric`` log-probabilities, ``soup`` the models' weights.
    """

    pool: str
    weights: np.ndarray
    temperatures: np.ndarray
    final: float = 1.0

    @property
    def used(self) -> np.ndarray:
        """The members with a weight, heaviest first."""
        order = np.argsort(-self.weights, kind="stable")
        return order[self.weights[order] > 0]

    @property
    def effective(self) -> float:
        """Members that would spread as much, were their weights equal: 1/Σw²."""
        return float(1 / (self.weights**2).sum())


def ranking(members: Members, photos: np.ndarray, metric: str) -> np.ndarray:
    """All members, the best on these photos first: by the metric, then by the other one, then by name."""
    hits = members.hits[:, photos].sum(axis=1)
    loss = -members.own[:, photos].mean(axis=1, dtype=np.float64)
    first, second = (-hits, loss) if metric == "accuracy" else (loss, -hits)
    return np.lexsort((np.arange(len(members)), second, first))


def single(members: Members, photos: np.ndarray, params: EnsembleParams, metric: str) -> Recipe:
    """The member alone that is best by this metric, treated as the ensemble is."""
    one = _weights(len(members), ranking(members, photos, metric)[:1])
    return _finished(members, photos, Recipe("arithmetic", one, np.ones(len(members))), params, None)


def fit(
    members: Members, photos: np.ndarray, params: EnsembleParams, seed: int, folder: Path, soups: Soups | None = None
) -> Recipe:
    """Members, weights and temperatures by what these photos show, and by nothing else."""
    ranked = ranking(members, photos, params.metric)
    if params.top:
        ranked = ranked[: params.top]
    if params.method in ("soup", "greedy_soup"):
        assert soups is not None
        chosen = _soup(members, photos, params, soups, ranked)
        recipe = Recipe("soup", _weights(len(members), chosen), np.ones(len(members)))
        return _finished(members, photos, recipe, params, soups)
    temperatures = _temperatures(members, photos, params, ranked)
    if params.method in ("average", "geometric"):
        pool = "arithmetic" if params.method == "average" else "geometric"
        recipe = Recipe(pool, _weights(len(members), ranked[: params.size]), temperatures)
        return _finished(members, photos, recipe, params, None)
    which = np.sort(ranked)
    candidates = Candidates(members, which.tolist(), photos, temperatures[which], folder)
    if params.method == "stacking":
        shares = stack(candidates.own, params.prior)
    else:
        allowed = greedy.bags(len(which), params.bags, params.fraction, np.random.default_rng(seed))
        places = np.searchsorted(which, ranked)
        shares = greedy.weights(
            greedy.select(candidates, allowed, params.metric, places, params.size, params.start), len(which)
        )
    weights = np.zeros(len(members))
    weights[which] = np.where(shares < LEAST_WEIGHT, 0, shares)
    return _finished(members, photos, Recipe("arithmetic", weights / weights.sum(), temperatures), params, None)


def apply(members: Members, recipe: Recipe, photos: np.ndarray, soups: Soups | None = None) -> np.ndarray:
    """What the combination says of photos: log-probabilities (photos, classes)."""
    log_p: np.ndarray = log_softmax(_combined(members, recipe, photos, soups) / recipe.final, axis=1)
    return log_p


def _combined(members: Members, recipe: Recipe, photos: np.ndarray, soups: Soups | None) -> np.ndarray:
    if recipe.pool == "soup":
        assert soups is not None
        return soups.log_probabilities(tuple(int(m) for m in recipe.used))[photos]
    total = np.zeros((len(photos), len(members.frame.classes)))
    for m in recipe.used:
        log_p = members.all[m].log_probabilities(photos, float(recipe.temperatures[m]))
        total += recipe.weights[m] * (np.exp(log_p) if recipe.pool == "arithmetic" else log_p)
    return np.log(np.maximum(total, 1e-30)) if recipe.pool == "arithmetic" else total


def _finished(
    members: Members, photos: np.ndarray, recipe: Recipe, params: EnsembleParams, soups: Soups | None
) -> Recipe:
    """With the combination's own temperature."""
    if not params.recalibrate:
        return recipe
    final = fit_temperature(_combined(members, recipe, photos, soups), members.frame.labels[photos])
    return Recipe(recipe.pool, recipe.weights, recipe.temperatures, final)


def _temperatures(members: Members, photos: np.ndarray, params: EnsembleParams, which: np.ndarray) -> np.ndarray:
    if params.temperature != "fit":
        return np.full(len(members), float(params.temperature))
    found = np.ones(len(members))
    labels = members.frame.labels[photos]
    used = which[: params.size] if params.method in ("average", "geometric") else which
    for m in used:
        found[m] = fit_temperature(members.all[m].log_probabilities(photos), labels)
    return found


def _weights(members: int, chosen: np.ndarray) -> np.ndarray:
    weights = np.zeros(members)
    weights[chosen] = 1 / len(chosen)
    return weights


def _soup(members: Members, photos: np.ndarray, params: EnsembleParams, soups: Soups, ranked: np.ndarray) -> np.ndarray:
    """The best few, or of these, in their order, each that does not make the soup worse (Wortsman et al. 2022)."""
    if params.method == "soup":
        return ranked[: params.size]
    labels = members.frame.labels[photos]
    chosen: tuple[int, ...] = ()
    best = -np.inf
    for m in ranked[: params.size]:
        tried = (*chosen, int(m))
        log_p = soups.log_probabilities(tried)[photos]
        score = right(log_p, labels).mean() if params.metric == "accuracy" else own(log_p, labels).mean()
        if score >= best:
            chosen, best = tried, score
    return np.array(chosen)
