"""The samplers: their streams, their laws, and what they do at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.angles import gpu
from tasks.angles.exact import Angle
from tasks.angles.goodness import Goodness
from tasks.angles.sample import CHUNK, SAMPLERS, Direct, Exact, Gaussians, Words, stream
from tasks.angles.shards import Shard, measure

BOTH = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@BOTH
@pytest.mark.parametrize("n", [2, 10, 100])
def test_samples_do_not_depend_on_how_many_are_worked_on_at_once(sampler, n):
    whole = sampler(n, seed=5, shard=7).take(3000)
    assert whole.dtype == np.float32
    assert np.array_equal(whole, sampler(n, 5, 7, chunks=1).take(3000))
    assert np.array_equal(whole[:1500], sampler(n, 5, 7, chunks=2).take(1500))


@BOTH
def test_each_of_seed_dimension_and_shard_makes_another_stream(sampler):
    takes = [sampler(*key).take(200) for key in ((10, 5, 7), (10, 5, 8), (10, 6, 7), (11, 5, 7))]
    takes.append(SAMPLERS["direct" if sampler is Exact else "exact"](10, 5, 7).take(200))
    for i, one in enumerate(takes):
        for other in takes[i + 1 :]:
            assert not np.isin(one, other).any()


def test_shards_are_uncorrelated():
    a, b = (Exact(10, 1, shard).take(100_000) for shard in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(100_000)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4 / math.sqrt(100_000)


@BOTH
@pytest.mark.parametrize("n", [2, 3, 4, 10, 65, 200])
def test_the_law_is_the_exact_one_by_another_implementation_of_the_test(sampler, n):
    theta = sampler(n, seed=2, shard=0).take(40_000).astype(float) + math.pi / 2
    assert stats.kstest(theta, Angle(n).cdf).pvalue > 0.001


def test_direct_and_exact_agree():
    exact, direct = (sampler(6, seed=3, shard=0).take(100_000) for sampler in (Exact, Direct))
    assert stats.ks_2samp(exact, direct).pvalue > 0.001


def test_direct_is_the_angle_between_the_vectors_it_draws():
    n = 70  # more than one group of rows
    gaussians = Gaussians(Words(stream(Direct.purpose, n, 1, 4)), 35)
    drawn = [np.array(gaussians.fill(35), float) for _ in range(2)]
    x, y = np.concatenate(drawn, axis=1)  # (n, CHUNK) each
    cos = (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))
    assert Direct(n, 1, 4).take(CHUNK) == pytest.approx(np.arccos(cos) - math.pi / 2, abs=2e-6)


def test_gaussians_are_standard_normal_and_independent():
    x, y = Gaussians(Words(stream(9, 2, 1, 0)), 100).fill(100)
    for values in (x, y):
        assert stats.kstest(values.ravel(), stats.norm.cdf).pvalue > 0.001
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 4 / math.sqrt(x.size)
    assert abs(np.corrcoef(x.ravel() ** 2, y.ravel() ** 2)[0, 1]) < 4 / math.sqrt(x.size)


@BOTH
def test_angles_near_zero_are_not_blurred_in_the_plane(sampler):
    """arccos of a float32 near 1 is a multiple of 3.5e-4; of 2 million angles some 400 lie below it."""
    deviation = np.abs(sampler(2, seed=4, shard=0).take(2_000_000).astype(float))
    near = math.pi / 2 - deviation[deviation > math.pi / 2 - 3e-4]
    assert 300 < len(near) < 470
    assert stats.kstest(near / 3e-4, "uniform").pvalue > 0.001


def test_rare_angles_have_their_probability():
    """Tails of 1e-4 … 1e-6 out of 10⁷ draws, where too few bits in a radius would show."""
    s = np.abs(np.sin(Exact(10, seed=8, shard=0).take(10_000_000)))
    for probability in (1e-4, 1e-5, 1e-6):
        epsilon = -math.cos(float(Angle(10).quantile(1 - probability / 2)))
        expected = probability * len(s)
        assert abs(np.count_nonzero(s > epsilon) - expected) < 4 * math.sqrt(expected)


@BOTH
def test_high_dimensions_keep_their_digits(sampler):
    n, count = (10**6, 200_000) if sampler is Exact else (20_000, 1024)
    deviations = sampler(n, seed=1, shard=0).take(count)
    assert len(np.unique(deviations)) > 0.98 * count
    assert stats.kstest(deviations.astype(float) + math.pi / 2, Angle(n).cdf).pvalue > 0.001


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [2, 3, 30])
def test_torch_draws_the_same_law(name, n):
    part = gpu.measure_by_torch(n, name, seed=1, shard=0, samples=100_000, device="cpu")
    again = gpu.measure_by_torch(n, name, seed=1, shard=0, samples=100_000, device="cpu")
    test = Goodness(part)
    assert np.array_equal(part.counts, again.counts)
    assert part.count == part.counts.sum() == 100_000
    assert min(test.ks().p_value, test.chi2(100).p_value, test.variance().p_value) > 0.001
    assert min(test.log10_tail(epsilon, seed=1).p_value for epsilon in (0.1, 0.5)) > 0.001


def test_a_shard_on_another_device_is_drawn_by_torch():
    shard = Shard(n=10, sampler="exact", seed=1, index=0, samples=2000, device="cpu:0")
    assert measure(shard).moments == gpu.measure_by_torch(10, "exact", 1, 0, 2000, "cpu").moments
