"""Mergeable statistics: one pass and any split give the same, and what is counted is what was drawn."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.angles import TAILS
from tasks.angles.exact import Angle
from tasks.angles.sample import Exact
from tasks.angles.shards import measure, split
from tasks.angles.statistics import CELLS, Moments, Statistics, cells, collected

ARRAYS = st.lists(st.floats(-1.5, 1.5, width=32), max_size=50).map(lambda values: np.array(values, np.float32))


def of(values: np.ndarray) -> Statistics:
    return Statistics.of(5, values)


def assert_same(a: Statistics, b: Statistics) -> None:
    """Counts exactly, moments to the rounding of float32 sums."""
    assert np.array_equal(a.counts, b.counts)
    assert a.tails == b.tails
    assert a.moments.count == b.moments.count
    n = max(1, a.moments.count)
    for name in ("mean", "m2", "m3", "m4"):
        assert getattr(a.moments, name) == pytest.approx(getattr(b.moments, name), rel=1e-5, abs=3e-6 * n)


@given(ARRAYS, ARRAYS)
def test_merging_commutes(a, b):
    assert_same(of(a).merged(of(b)), of(b).merged(of(a)))


@given(ARRAYS, ARRAYS, ARRAYS)
def test_merging_is_associative(a, b, c):
    assert_same(of(a).merged(of(b)).merged(of(c)), of(a).merged(of(b).merged(of(c))))


@given(ARRAYS, ARRAYS)
def test_merged_parts_are_the_whole(a, b):
    assert_same(of(a).merged(of(b)), of(np.concatenate([a, b])))


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), min_size=1, max_size=5), st.floats(-1e6, 1e6))
def test_moments_merge_stably_far_from_zero(parts, centre):
    """Two-pass moments of each part, merged: no digits are lost to a mean a thousand times the deviations."""

    def two_pass(values):
        mean = float(np.mean(values))
        return Moments(len(values), mean, *(float(((values - mean) ** k).sum()) for k in (2, 3, 4)))

    parts = [np.array(part) + centre for part in parts]
    merged, whole = Moments(0), two_pass(np.concatenate(parts))
    for part in parts:
        merged = merged.merged(two_pass(part))
    spread = max(1.0, float(np.ptp(np.concatenate(parts))))
    assert merged.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-9)
    for k in (2, 3, 4):
        name = f"m{k}"
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-6, abs=1e-6 * spread**k)


def test_moments_are_those_of_scipy():
    values = Exact(3, seed=1, shard=0).take(150_001)  # rows, and a rest of fewer
    moments = collected(3, [values]).moments
    wide = values.astype(float)
    assert moments.mean == pytest.approx(wide.mean(), abs=1e-8)
    assert moments.variance == pytest.approx(wide.var(ddof=1), rel=1e-6)
    assert moments.m3 / len(wide) == pytest.approx(stats.moment(wide, 3), abs=1e-7)
    assert moments.kurtosis == pytest.approx(stats.kurtosis(wide), abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 10, 1000, 10**6])
def test_cells_count_what_lies_between_their_edges(n):
    values = Exact(n, seed=1, shard=0).take(200_000)
    statistics = collected(n, [values])
    below = np.searchsorted(np.sort(values.astype(float)), cells(n).edges[1:-1])
    # float32 places a sample by the edge on one side or the other: a few in 200,000
    assert np.abs(np.cumsum(statistics.counts)[:-1] - below).max() <= 6
    assert statistics.counts.sum() == len(values)
    s = np.abs(np.sin(values.astype(float)))
    assert statistics.tails == pytest.approx([np.count_nonzero(s > epsilon) for epsilon in TAILS], abs=1)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 100, 10**6])
def test_cells_are_nearly_even_in_probability(n):
    grid = cells(n)
    assert grid.cumulative[0] == 0
    assert grid.cumulative[-1] == 1
    assert (np.diff(grid.cumulative) > 0).all()
    assert grid.widest < 1.14 / CELLS
    assert grid.cumulative[5000] == pytest.approx(float(Angle(n).cdf(math.pi / 2 + grid.edges[5000])), rel=1e-9)


def test_the_ends_are_counted():
    ends = np.array([-math.pi / 2, math.pi / 2, 0.0], np.float32)
    for n in (2, 3, 1000):
        counts = Statistics.of(n, ends).counts
        assert (counts[0], counts[-1], counts.sum()) == (1, 1, 3)


def test_merged_shards_are_one_pass_over_all_of_them():
    shards = split(n=20, sampler="exact", seed=9, samples=23_456, size=5000, device="cpu")
    assert [shard.samples for shard in shards] == [5000] * 4 + [3456]
    blocks = [Exact(20, 9, shard.index).take(shard.samples) for shard in shards]
    assert_same(reduce(Statistics.merged, map(measure, shards)), collected(20, blocks))


def test_statistics_of_different_dimensions_do_not_merge():
    with pytest.raises(ValueError, match="n=3 and n=4"):
        Statistics.of(3, np.zeros(1, np.float32)).merged(Statistics.of(4, np.zeros(1, np.float32)))


def test_nothing_is_a_sample_of_none():
    nothing = collected(5, [])
    assert nothing.count == nothing.counts.sum() == 0
    assert math.isnan(nothing.moments.variance)
    assert math.isnan(nothing.moments.kurtosis)
    assert nothing.merged(nothing).count == 0
