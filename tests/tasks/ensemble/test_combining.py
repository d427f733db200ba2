"""Pools, stacking and temperatures where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from tasks.ensemble import EnsembleParams, recipe
from tasks.ensemble.builtin import Generated, accuracy
from tasks.ensemble.members import gather, right
from tasks.ensemble.stacking import stack
from tasks.ensemble.temperature import fit_temperature


def loss(scores, labels, temperature):
    return -log_softmax(scores / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def fitted(generated, tmp_path, **params):
    """The members, what was fitted on all photos, and its log-probabilities of them."""
    members = gather((name, logits, None) for name, logits in generated.draw(5))
    photos = np.arange(generated.photos)
    found = recipe.fit(members, photos, EnsembleParams(**params), 1, tmp_path)
    return members, found, recipe.apply(members, found, photos)


@pytest.mark.parametrize("planted", [0.3, 1.0, 2.5, 40.0])
def test_the_temperature_is_the_one_planted_and_scipys(planted):
    generated = Generated((2.0,), 0.0, 8, 20_000)
    logits = generated.draw(0)[0][1]
    scores = logits.scores.astype(float) * planted
    found = fit_temperature(scores, logits.labels)
    assert found == pytest.approx(planted, rel=0.05)
    best = minimize_scalar(lambda t: loss(scores, logits.labels, np.exp(t)), bounds=(-4, 6), method="bounded")
    assert loss(scores, logits.labels, found) <= best.fun + 1e-9


def test_a_classifier_that_never_errs_gets_a_finite_temperature():
    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert 0 < fit_temperature(scores, np.array([0, 1, 2, 0])) <= 0.1


def test_a_classifier_that_always_errs_gets_the_flattest():
    assert fit_temperature(np.eye(3, dtype=np.float32)[[1, 2, 0]], np.array([0, 1, 2])) > 100


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_geometric_mean_of_equal_members_is_the_best_combination_and_its_temperature_is_known(
    correlation, tmp_path
):
    """Σ⁻¹s is even over the members, so that Σ sₘxₘ / (1 + (K−1)ρ) is calibrated: T = (1 + (K−1)ρ)/K of the mean."""
    k = 6
    generated = Generated((1.0,) * k, correlation, 10, 20_000)
    members, found, log_p = fitted(generated, tmp_path, method="geometric")
    wanted = accuracy(np.sqrt(k / (1 + (k - 1) * correlation)), 10)
    assert generated.best_accuracy == pytest.approx(wanted)
    error = np.sqrt(wanted * (1 - wanted) / 20_000)
    assert abs(right(log_p, members.frame.labels).mean() - wanted) < 4 * error
    assert found.final == pytest.approx((1 + (k - 1) * correlation) / k, rel=0.05)


def test_generated_members_are_as_accurate_as_the_formula_says():
    generated = Generated((1.0, 2.0, 3.0), 0.4, 10, 20_000)
    for (_, logits), s in zip(generated.draw(1), generated.strengths, strict=True):
        wanted = accuracy(s, 10)
        found = right(logits.scores, logits.labels).mean()
        assert abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 20_000)


def test_stacking_finds_the_optimum_of_the_simplex():
    rng = np.random.default_rng(0)
    own = rng.uniform(0.05, 1, (300, 4)) * [1, 0.9, 0.7, 0.4]

    def objective(free):
        weights = np.exp(log_softmax(np.append(free, 0)))
        return -np.log(own @ weights).sum() - 2 / 4 * np.log(weights).sum()

    best = minimize(objective, np.zeros(3), method="BFGS")
    found = stack(own, prior=2.0)
    assert found == pytest.approx(np.exp(log_softmax(np.append(best.x, 0))), abs=5e-3)
    assert found.sum() == pytest.approx(1)


def test_a_strong_prior_spreads_the_weights():
    own = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert stack(own, prior=1e6) == pytest.approx([0.5, 0.5], abs=1e-3)


def test_an_average_of_the_best_is_the_mean_of_their_probabilities(tmp_path):
    generated = Generated((0.5, 2.0, 2.5), 0.0, 4, 400)
    members, found, log_p = fitted(generated, tmp_path, method="average", size=2, recalibrate=False)
    assert found.weights.tolist() == [0, 0.5, 0.5]
    p = [np.exp(member.log_probabilities()) for member in members.all]
    assert np.exp(log_p) == pytest.approx((p[1] + p[2]) / 2, abs=1e-5)
    assert found.effective == pytest.approx(2)


def test_members_of_other_sharpness_are_brought_to_one_scale(tmp_path):
    """One member shouts: fitted temperatures take that from it."""
    names = Generated((1.5,) * 2, 0.0, 5, 8000).draw(0)
    loud = type(names[1][1])(names[1][1].scores * 8, names[1][1].keys, names[1][1].labels, names[1][1].classes)
    members = gather([("a", names[0][1], None), ("b", loud, None)])
    found = recipe.fit(members, np.arange(8000), EnsembleParams(method="geometric", temperature="fit"), 0, tmp_path)
    assert found.temperatures == pytest.approx([1, 8], rel=0.1)


@pytest.mark.parametrize("method", ["average", "geometric", "greedy", "stacking"])
def test_top_leaves_only_the_best_as_candidates(method, tmp_path):
    generated = Generated((0.5, 2.0, 0.6, 2.5, 2.2), 0.0, 4, 600)
    _, found, _ = fitted(generated, tmp_path, method=method, top=2, bags=3)
    assert set(found.used) <= {3, 4}
