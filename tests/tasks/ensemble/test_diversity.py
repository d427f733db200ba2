"""How members differ, how sure an ensemble is, and the penalty that makes members differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.ensemble.diversity import negative_correlation
from tasks.ensemble.measure import diversity, reliability


def test_measures_of_two_members_by_hand():
    """Both right 4, only the first 2, only the second 1, neither 3: Q = (12 − 2)/(12 + 2)."""
    one, other = [1] * 4 + [1] * 2 + [0] + [0] * 3, [1] * 4 + [0] * 2 + [1] + [0] * 3
    found = diversity(np.array([one, other], bool))
    assert found.disagreement == pytest.approx(0.3)
    assert found.double_fault == pytest.approx(0.3)
    assert found.q_statistic == pytest.approx(10 / 14)
    assert found.pairs == pytest.approx(np.array([[0, 0.3], [0.3, 0]]))


def test_independent_members_have_a_q_of_nothing():
    hits = np.random.default_rng(0).random((5, 40_000)) < 0.8
    found = diversity(hits)
    assert found.q_statistic == pytest.approx(0, abs=0.03)
    assert found.disagreement == pytest.approx(2 * 0.8 * 0.2, abs=0.01)
    assert found.double_fault == pytest.approx(0.04, abs=0.005)


def test_a_member_alone_and_members_that_never_err():
    assert diversity(np.array([[True, False, True, True]])).double_fault == 0.25
    assert diversity(np.ones((3, 4), bool)).q_statistic == 0


def test_the_calibration_error_by_hand():
    """Ten photos at .95, eight right; ten at .55, six right: ½·.15 + ½·.05."""
    p = np.array([[0.95, 0.05]] * 10 + [[0.55, 0.45]] * 10)
    hits = np.array([1] * 8 + [0] * 2 + [1] * 6 + [0] * 4)
    assert reliability(np.log(p), hits).error == pytest.approx(0.1)


def test_the_penalty_is_that_of_the_definition():
    """−(pᵢ − p̄)² with p̄ over all members, the mean over photos."""
    logits = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(2)
    others = (p.sum(0) - p[1]) / 3
    wanted = -((p[1] - p.mean(0)) ** 2).sum(1).mean()
    assert float(negative_correlation(logits[1], others, members=4)) == pytest.approx(float(wanted), rel=1e-5)


def test_with_full_strength_squared_errors_and_penalties_are_the_ensembles_error():
    p = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0)).softmax(2)
    truth = torch.eye(3)[torch.arange(50) % 3]
    total = 0.0
    for m in range(4):
        others = (p.sum(0) - p[m]) / 3
        total += float(((p[m] - truth) ** 2).sum(1).mean() + negative_correlation(p[m].log(), others, members=4))
    assert total / 4 == pytest.approx(float(((p.mean(0) - truth) ** 2).sum(1).mean()), rel=1e-4)


def test_following_the_penalty_drives_a_member_from_the_others_and_moves_only_it():
    logits = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
    others = torch.tensor([[0.6, 0.3, 0.1]], requires_grad=True)
    before = negative_correlation(logits, others, members=2)
    before.backward()
    assert others.grad is None
    after = negative_correlation(logits - 0.1 * logits.grad, others, members=2)
    assert after.item() < before.item() < 0


def test_a_member_alone_is_refused():
    with pytest.raises(ValueError, match="members=1"):
        negative_correlation(torch.zeros(1, 2), torch.zeros(1, 2), members=1)
