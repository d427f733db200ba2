"""The built-in law: what it says of itself is what is drawn from it, and no other rule beats its best."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.multilabel import metrics
from tasks.multilabel.generated import Law

MANY = 200_000


@pytest.fixture(scope="module")
def law():
    return Law.drawn(labels=10, group=4, imbalance=1.0, noise=1.0, seed=3)


@pytest.fixture(scope="module")
def sample(law):
    inputs, holds = law.sample(MANY, np.random.default_rng(8))
    return inputs, holds, law.probabilities(inputs)


def test_probabilities_are_frequencies(sample):
    """Of the entries to which a probability is given, that share holds: each bin of each label within 5 σ."""
    _, holds, p = sample
    for label in range(holds.shape[1]):
        counts, claimed, held = metrics.calibration(p[:, label], holds[:, label], bins=10)
        sigma = np.sqrt(np.maximum(claimed * (1 - claimed), 1e-9) / np.maximum(1, counts))
        assert (abs(held - claimed)[counts > 50] < 5 * sigma[counts > 50]).all()


def test_probabilities_by_monte_carlo_at_one_input():
    """Hidden states drawn from their prior and weighted by how likely each shows the input: an independent Bayes."""
    law = Law.drawn(labels=4, group=4, imbalance=1.0, noise=0.8, seed=1)
    rng = np.random.default_rng(2)
    inputs, _ = law.sample(3, rng)
    state = rng.choice(law.prior.shape[1], size=400_000, p=law.prior[0])
    holds = rng.random((len(state), 4)) < law.chance[0, state]
    for x, wanted in zip(inputs, law.probabilities(inputs), strict=True):
        weight = np.exp(-((law.rotation @ x - law.centres[0, state]) ** 2).sum(-1) / (2 * 0.8**2))
        np.testing.assert_allclose((weight[:, None] * holds).sum(0) / weight.sum(), wanted, atol=0.01)


def test_no_other_rule_makes_fewer_mistakes(sample):
    _, holds, p = sample
    best = ((p > 0.5) != holds).mean()
    assert best == pytest.approx(np.minimum(p, 1 - p).mean(), abs=5 * 0.5 / np.sqrt(holds.size))
    for threshold in (0.3, 0.4, 0.6, 0.7):
        assert ((p > threshold) != holds).mean() > best


def test_no_other_threshold_finds_a_better_f1(law, sample):
    _, holds, p = sample
    threshold = law.best_threshold()
    best = metrics.f1_micro(p > threshold, holds)
    assert threshold == pytest.approx(best / 2, abs=0.005)  # half of the best F1
    tried = [metrics.f1_micro(p > t, holds) for t in np.linspace(0.05, 0.95, 91)]
    assert max(tried) - best < 0.001


def test_imbalance_makes_later_groups_rare():
    for imbalance, ratio in ((0.0, 1), (1.0, 5), (2.0, 25)):
        law = Law.drawn(labels=20, group=4, imbalance=imbalance, noise=1, seed=0)
        active = 1 - law.prior[:, 0]
        assert active[0] / active[-1] == pytest.approx(ratio)
        np.testing.assert_allclose(law.prior.sum(axis=1), 1)


def test_labels_of_a_group_depend_on_each_other_given_the_input():
    """Residuals y − p are uncorrelated between groups, and within a group only where it has one label."""
    for group, dependent in ((1, False), (4, True)):
        law = Law.drawn(labels=8, group=group, imbalance=0, noise=2.0, seed=0)
        inputs, holds = law.sample(MANY, np.random.default_rng(1))
        correlation = np.corrcoef((holds - law.probabilities(inputs)).T)
        same = np.arange(8)[:, None] // group == np.arange(8) // group
        assert abs(correlation[~same]).max() < 5 / np.sqrt(MANY)
        off = same & ~np.eye(8, dtype=bool)
        assert (abs(correlation[off]).max() > 0.1 if off.any() else False) == dependent


def test_less_noise_leaves_less_doubt():
    doubt = []
    for noise in (0.3, 1.0, 3.0):
        law = Law.drawn(labels=8, group=4, imbalance=0, noise=noise, seed=0)
        p = law.probabilities(law.sample(5000, np.random.default_rng(1))[0])
        doubt.append(np.minimum(p, 1 - p).mean())
    assert doubt == sorted(doubt)


@pytest.mark.parametrize(("labels", "group"), [(1, 1), (7, 4), (3, 100)])
def test_any_number_of_labels(labels, group):
    law = Law.drawn(labels, group, 1.0, 1.0, 0)
    inputs, holds = law.sample(10, np.random.default_rng(0))
    assert holds.shape == law.probabilities(inputs).shape == (10, labels)
