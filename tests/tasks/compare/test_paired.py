"""Paired statistics against closed forms, other libraries and their promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.compare.paired import bootstrap, crossed, holm, mcnemar, signs


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (2, 10), (1, 0), (30, 25), (0, 7)])
def test_mcnemar_is_the_binomial_test_less_half_of_what_was_seen(gained, lost):
    """Fagerland's definition: the exact two-sided p less the probability of the very table."""
    exact = stats.binomtest(gained, gained + lost, 0.5).pvalue
    assert mcnemar(gained, lost) == pytest.approx(exact - stats.binom.pmf(gained, gained + lost, 0.5))


def test_mcnemar_without_a_difference():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == pytest.approx(1)


def test_the_bootstrap_of_a_normal_sample_is_near_the_t_interval():
    values = np.random.default_rng(0).normal(0.3, 1, 2000)
    found = bootstrap(values, 1)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.1 * half)
    assert bootstrap(values, 1) == found


def test_the_bootstrap_covers_as_often_as_it_says():
    """Differences of −1, 0, 1 as classifiers give them; 300 samples, so that 5 % misses mean 15 ± 4."""
    rng = np.random.default_rng(0)
    misses = 0
    for seed in range(300):
        values = rng.choice([-1, 0, 1], 600, p=[0.04, 0.9, 0.06])
        found = bootstrap(values, seed)
        misses += not found.low <= 0.02 <= found.high
    assert 3 <= misses <= 30


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03])
def test_the_interval_over_photos_and_seeds_covers(spread):
    """At least as often as it says, whether or not seeds matter: 300 samples of 3 seeds and 500 photos."""
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(300):
        seeds = rng.normal(0, spread, 3)[:, None]
        photos = rng.normal(0, 0.1, 500)
        found = crossed(0.02 + seeds + photos + rng.normal(0, 0.2, (3, 500)))
        misses += not found.low <= 0.02 <= found.high
    assert misses <= 27


def test_over_photos_alone_an_interval_misses_what_seeds_do():
    """Why seeds must count: three seeds that differ by 3 points, and photos that hardly do."""
    rng = np.random.default_rng(2)
    misses = 0
    for seed in range(60):
        drawn = rng.normal(0, 0.03, 3)[:, None] + rng.normal(0, 0.1, (3, 500))
        found = bootstrap(drawn.mean(axis=0), seed)
        misses += not found.low <= 0 <= found.high
    assert misses > 30


def test_two_random_factors_by_hand():
    """Photo means 2, 4 and seed means 2, 3, 4: variances 2/2 and 1/3; 16/9 / (1/1 + (1/9)/2) degrees of freedom."""
    found = crossed(np.array([[1.0, 3], [2, 4], [3, 5]]))
    half = stats.t.ppf(0.975, (16 / 9) / (1 + 1 / 18)) * np.sqrt(4 / 3)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(3 / np.sqrt(4 / 3), (16 / 9) / (1 + 1 / 18)))


def test_no_difference_at_all_has_no_width():
    found = crossed(np.zeros((3, 9)))
    assert (found.low, found.high, found.p_value) == (0, 0, 1)


def test_a_single_seed_has_no_interval():
    with pytest.raises(ValueError, match="two seeds"):
        crossed(np.zeros((1, 9)))


def test_signs_count_photos_by_the_sum_over_seeds():
    assert signs(np.array([[1, -1, 0, 1], [1, 1, 0, 0], [0, -1, 0, 0]])) == (2, 1)


def test_holm_is_monotone_and_never_above_bonferroni():
    p = np.random.default_rng(0).uniform(0, 0.2, 20).tolist()
    adjusted = holm(p)
    assert [adjusted[i] for i in np.argsort(p)] == sorted(adjusted)
    assert all(a <= min(1, 20 * q) + 1e-12 for a, q in zip(adjusted, p, strict=True))
    assert min(adjusted) == pytest.approx(min(1, 20 * min(p)))
    assert holm([0.2, 0.9]) == [0.4, 0.9]
