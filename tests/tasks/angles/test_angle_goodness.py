"""The tests are calibrated: uniform under the truth, and blind to none of the usual mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.angles import TAILS
from tasks.angles.exact import Angle
from tasks.angles.goodness import Goodness, importance_log_tail
from tasks.angles.sample import Exact
from tasks.angles.statistics import Statistics, collected
from tasks.api import InputError


@pytest.fixture(scope="module", params=[2, 10], ids=["n=2", "n=10"])
def replicas(request):
    """The tests of 600 samples of 20,000 each."""
    n = request.param
    return [Goodness(collected(n, Exact(n, seed=77, shard=i).blocks(20_000))) for i in range(600)]


@pytest.mark.parametrize(
    "test",
    [lambda g: g.ks(), lambda g: g.chi2(100), lambda g: g.chi2(7), lambda g: g.variance()],
    ids=["ks", "chi2", "chi2 of 7 bins", "variance"],
)
def test_p_values_are_uniform_under_the_truth(replicas, test):
    p = np.array([test(replica).p_value for replica in replicas])
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert abs(np.count_nonzero(p < 0.05) - 30) < 4 * math.sqrt(30)


def test_p_values_of_tails_are_never_too_small(replicas):
    for epsilon in TAILS:
        p = np.array([replica.log10_tail(epsilon, seed=1).p_value for replica in replicas])
        for level in (0.01, 0.05, 0.2, 0.5):
            assert np.count_nonzero(p <= level) <= level * 600 + 4 * math.sqrt(level * 600)
        assert np.count_nonzero(p <= 0.5) > 200  # nor much too large


def test_intervals_hold_the_truth_as_often_as_they_say(replicas):
    angle = replicas[0].angle
    variance, tail, distance = 0, 0, 0
    for replica in replicas:
        found = replica.variance()
        variance += found.low <= angle.variance <= found.high
        found = replica.log10_tail(0.3, seed=1)
        tail += found.low <= replica.log10_exact(0.3) <= found.high
        distance += replica.ks().low == 0  # the true distance
    assert 550 <= variance <= 588
    assert tail >= 550
    assert 550 <= distance <= 588


def test_ks_is_the_classical_one_to_a_cells_width():
    sample = Exact(10, seed=1, shard=0).take(50_000)
    ours = Goodness(Statistics.of(10, sample)).ks()
    peer = stats.kstest(sample.astype(float) + math.pi / 2, Angle(10).cdf)
    assert ours.value <= peer.statistic + 1e-6
    assert peer.statistic <= ours.value + 1.14 / 16384 + 1e-6
    assert ours.p_value == pytest.approx(peer.pvalue, rel=0.05)
    assert ours.low <= peer.statistic <= ours.high


def cube(n, rng, count):
    x, y = rng.uniform(-1, 1, (2, count, n))
    return x, y


def correlated(n, rng, count):
    common = 0.5 * rng.standard_normal((2, count, 1))
    return rng.standard_normal((2, count, n)) + common


def shifted(n, rng, count):
    x, y = rng.standard_normal((2, count, n))
    return x + 0.2, y + 0.2


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("vectors", [cube, correlated, shifted])
def test_a_wrong_sampler_is_rejected(vectors, n):
    x, y = vectors(n, np.random.default_rng(1), 400_000)
    cos = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    test = Goodness(Statistics.of(n, -np.arcsin(cos).astype(np.float32)))
    assert least(test) < 1e-4


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_one_dimension_too_many_or_too_few_is_rejected_by_every_test(n, wrong):
    sample = Exact(n + wrong, seed=1, shard=0).take(1_000_000)
    test = Goodness(Statistics.of(n, sample))
    assert test.ks().p_value < 1e-3
    assert test.chi2(100).p_value < 1e-3
    assert test.variance().p_value < 1e-6
    assert test.log10_tail(0.1, seed=1).p_value < 1e-4
    assert test.ks().low > 0


@pytest.mark.parametrize("wrong", [-1, 1])
def test_one_dimension_of_a_hundred_is_seen_by_a_million_samples(wrong):
    """The variance is off by 1 %, which is 7 of its standard errors."""
    test = Goodness(Statistics.of(100, Exact(100 + wrong, seed=1, shard=0).take(1_000_000)))
    assert test.variance().p_value < 1e-6


def test_a_normal_angle_is_rejected_where_it_is_wrong():
    normal = np.random.default_rng(1).normal(0, math.sqrt(Angle(10).variance), 1_000_000)
    test = Goodness(Statistics.of(10, np.clip(normal, -1.57, 1.57).astype(np.float32)))
    assert test.variance().p_value > 1e-3  # the variance is right, the shape is not
    assert test.ks().p_value < 1e-6
    assert test.chi2(100).p_value < 1e-6


def test_a_sample_with_an_empty_tail_is_rejected_and_its_share_finite():
    sample = Exact(10, seed=1, shard=0).take(10_000)
    test = Goodness(Statistics.of(10, sample[np.abs(np.sin(sample)) < 0.5]))
    tail = test.log10_tail(0.5, seed=1)
    assert tail.p_value < 1e-10
    assert math.isfinite(tail.value)
    assert tail.high < test.log10_exact(0.5)


def least(test: Goodness) -> float:
    tests = [test.ks(), test.chi2(100), test.variance(), *(test.log10_tail(e, seed=1) for e in TAILS)]
    return min(found.p_value for found in tests)


@pytest.mark.parametrize(("n", "epsilon"), [(50, 0.9), (512, 0.3), (512, 0.5), (4096, 0.6), (10**6, 0.5), (3, 0.99)])
def test_importance_sampling_finds_the_exact_tail(n, epsilon):
    found = importance_log_tail(Angle(n), epsilon, seed=1)
    exact = float(Angle(n).log_tail(epsilon)) / math.log(10)
    assert found.low - 1e-8 <= exact <= found.high + 1e-8
    assert found.high - found.low < 0.02
    assert found.p_value > 0.01


def test_importance_samplings_p_values_are_uniform():
    p = [importance_log_tail(Angle(20), 0.5, seed, draws=4096).p_value for seed in range(500)]
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_a_tail_is_counted_where_ten_are_expected_and_weighted_beyond():
    test = Goodness(collected(100, Exact(100, seed=1, shard=0).blocks(100_000)))
    counted, weighted = test.log10_tail(0.3, seed=1), test.log10_tail(0.5, seed=1)
    assert counted.value == pytest.approx(math.log10(test.statistics.tails[2] / 100_000))
    assert weighted.value == pytest.approx(test.log10_exact(0.5), abs=0.01)  # −7: no sample has seen it
    assert test.statistics.tails[3] == 0


def test_what_cannot_be_tested_is_said():
    test = Goodness(collected(5, Exact(5, seed=1, shard=0).blocks(1000)))
    with pytest.raises(InputError, match=r"a histogram of 1 bins tests nothing.*params\.bins=100"):
        test.chi2(1)
    with pytest.raises(InputError, match=r"1000 samples are too few .* 201 bins.*params\.samples=1005 or more"):
        test.chi2(201)
    with pytest.raises(InputError, match="there are no samples to test"):
        Goodness(collected(5, []))
    with pytest.raises(InputError, match="epsilon=1: a tail"):
        importance_log_tail(Angle(5), 1, seed=1)
