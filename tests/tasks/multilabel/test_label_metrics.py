"""The metrics against scikit-learn, thresholds against trying them all."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, coverage_error, f1_score, label_ranking_loss

from tasks.multilabel import metrics


@pytest.fixture(params=["distinct", "tied"])
def drawn(request):
    """Scores and targets (60, 7); rows of none and all; with ties, few distinct scores."""
    rng = np.random.default_rng(4)
    scores = rng.standard_normal((60, 7))
    if request.param == "tied":
        scores = np.round(scores)
    holds = rng.random((60, 7)) < 0.3
    holds[0], holds[1] = False, True
    return scores, holds


def test_f1_is_sklearns(drawn):
    scores, holds = drawn
    assert metrics.f1_micro(scores > 0, holds) == pytest.approx(f1_score(holds, scores > 0, average="micro"))
    assert metrics.f1_macro(scores > 0, holds) == pytest.approx(f1_score(holds, scores > 0, average="macro"))


def test_macro_f1_leaves_out_labels_that_never_occur(drawn):
    scores, holds = drawn
    wider = np.concatenate([holds, np.zeros((60, 1), bool)], axis=1), np.concatenate([scores, scores[:, :1]], axis=1)
    assert metrics.f1_macro(wider[1] > 0, wider[0]) == metrics.f1_macro(scores > 0, holds)
    assert metrics.mean_average_precision(wider[1], wider[0]) == metrics.mean_average_precision(scores, holds)


def test_ranking_is_sklearns(drawn):
    scores, holds = drawn
    wanted = average_precision_score(holds, scores, average="macro")
    assert metrics.mean_average_precision(scores, holds) == pytest.approx(wanted, abs=1e-14)
    assert metrics.ranking_loss(scores, holds) == pytest.approx(label_ranking_loss(holds, scores), abs=1e-14)
    assert metrics.coverage(scores, holds) == pytest.approx(coverage_error(holds, scores), abs=1e-14)


def test_with_nothing_to_find():
    scores, holds = np.zeros((3, 4)), np.zeros((3, 4), bool)
    found = [metrics.f1_micro(scores > 0, holds), metrics.f1_macro(scores > 0, holds)]
    assert [*found, metrics.mean_average_precision(scores, holds), metrics.ranking_loss(scores, holds)] == [0, 0, 0, 0]
    assert metrics.coverage(scores, holds) == 0
    threshold, f1 = metrics.best_threshold(scores, holds)
    assert f1 == 0
    assert not (scores > threshold).any()


def test_calibration_error_by_hand():
    """Two bins: four entries that claim .25, of which one holds, and two that claim .9, of which one holds."""
    p = np.array([[0.25, 0.25, 0.25], [0.25, 0.9, 0.9]])
    holds = np.array([[True, False, False], [False, True, False]])
    counts, claimed, held = metrics.calibration(p, holds, bins=2)
    np.testing.assert_allclose(counts, [4, 2])
    np.testing.assert_allclose(claimed, [0.25, 0.9])
    np.testing.assert_allclose(held, [0.25, 0.5])
    assert metrics.calibration_error(p, holds, bins=2) == pytest.approx(2 / 6 * 0.4)
    assert metrics.calibration_error(np.array([[1.0, 0.0]]), np.array([[True, False]])) == 0


def test_the_best_threshold_is_the_best_of_all(drawn):
    scores, holds = drawn
    threshold, f1 = metrics.best_threshold(scores, holds)
    tried = [metrics.f1_micro(scores > cut, holds) for cut in [-np.inf, *np.unique(scores)]]
    assert f1 == pytest.approx(max(tried))
    assert metrics.f1_micro(scores > threshold, holds) == pytest.approx(f1)


def test_with_true_probabilities_the_threshold_is_half_of_the_best_f1():
    """Half the entries hold with p = 1, half with p = .3: taking all gives 1.3/(2+.65)·…, taking the sure ones less."""
    p = np.repeat([[1.0, 0.3]], 50, axis=0)
    threshold, f1 = metrics.best_threshold_known(p)
    all_taken, sure_taken = 2 * 1.3 / (2 + 1.3), 2 * 1.0 / (1 + 1.3)
    assert f1 == pytest.approx(max(all_taken, sure_taken))
    assert threshold == f1 / 2
    assert (threshold < 0.3) == (all_taken > sure_taken)
