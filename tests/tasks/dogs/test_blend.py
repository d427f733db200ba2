"""The blend of two heads: no photo is predicted with an α that has seen it."""

from __future__ import annotations

import numpy as np

from tasks.dogs.blend import GRID, Scores, choose, cross_fitted, halves


def planted():
    """Photos whose first half is right only by the head, whose second half only by the auxiliary head."""
    n, rng = 400, np.random.default_rng(0)
    labels, half = rng.integers(0, 3, n), np.arange(n) % 2
    right, wrong = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    heads = [np.where((half == own)[:, None], right, wrong) for own in (0, 1)]
    return Scores(*(np.log(0.1 + 0.7 * head) for head in heads)), labels, half


def test_a_half_is_predicted_with_what_the_other_chose():
    scores, labels, half = planted()
    blend = cross_fitted(scores, labels, half)
    assert blend.alphas[0] < 0.5 < blend.alphas[1]  # each half's own best is on the other side
    assert (blend.scores.argmax(1) == labels).mean() == 0  # an α that had seen its photos would be right on all
    assert choose(scores.part(np.flatnonzero(half == 0)), labels[half == 0]) > 0.5


def test_changing_a_halfs_labels_leaves_its_own_prediction_alone():
    scores, labels, half = planted()
    before = cross_fitted(scores, labels, half)
    changed = np.where(half == 0, (labels + 1) % 3, labels)
    after = cross_fitted(scores, changed, half)
    assert np.array_equal(before.scores[half == 0], after.scores[half == 0])
    assert not np.array_equal(before.scores[half == 1], after.scores[half == 1])


def test_the_blend_is_of_probabilities():
    rng = np.random.default_rng(1)
    p, q = (rng.dirichlet(np.ones(4), 50) for _ in range(2))
    for alpha in GRID:
        assert np.allclose(np.exp(Scores(np.log(p), np.log(q)).blended(alpha)), alpha * p + (1 - alpha) * q)


def test_without_an_auxiliary_head_nothing_changes():
    scores, labels, half = planted()
    alone = Scores(scores.main, None)
    blend = cross_fitted(alone, labels, half)
    assert blend.scores is alone.main
    assert (blend.alpha, blend.alphas, blend.metrics()) == (1.0, (), {})


def test_halves_are_even_in_each_class_and_follow_the_key_and_the_seed():
    keys = [f"val/{label}/{i}.jpg" for label in range(5) for i in range(7)]
    labels = [label for label in range(5) for _ in range(7)]
    half = halves(keys, labels, 0)
    for label in range(5):
        assert half[np.array(labels) == label].sum() in (3, 4)
    assert half.sum() in (17, 18)
    order = np.random.default_rng(0).permutation(35)
    shuffled = halves([keys[i] for i in order], [labels[i] for i in order], 0)
    assert np.array_equal(shuffled, half[order])
    assert not np.array_equal(halves(keys, labels, 1), half)


def test_equal_hits_are_decided_by_the_loss():
    labels = np.array([0, 1])
    good = np.log(np.array([[0.9, 0.1], [0.1, 0.9]]))
    less = np.log(np.array([[0.6, 0.4], [0.4, 0.6]]))
    assert choose(Scores(good, less), labels) == 1
    assert choose(Scores(less, good), labels) == 0


def test_scores_that_are_no_numbers_stay_so():
    scores, labels, half = planted()
    scores.main[3, 1] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(cross_fitted(scores, labels, half).scores[3]).any()
