"""Counts, cohesion and entropies against dictionaries, for any text, any shards and any buckets."""

from __future__ import annotations

import brute
import numpy as np
import pytest
from fakes import Here
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.terms.alphabet import SIZE, decode, encode
from tasks.terms.counting import bucket_of, bucket_start, count_codes, scramble, unscramble
from tasks.terms.discover import Bucket, Cohesion, Wanted, candidates, gather, merge, total
from tasks.terms.prefixes import find, grow, spell

# Few characters, so that short texts repeat themselves; 0 is a boundary.
texts = st.lists(st.sampled_from([0, 1, 2, 3, SIZE - 1]), min_size=1, max_size=80).map(lambda c: np.array(c, np.uint16))
lengths = st.integers(2, 12)


def discovered(shards, max_length, buckets=1, background=(), min_count=1, wanted=None):
    """The candidates of some shards, and the trees of all buckets."""
    handles = tuple(Here(shard) for shard in shards)
    items = [Bucket(b, buckets, handles, tuple(map(Here, background)), min_count, max_length) for b in range(buckets)]
    trees = tuple(Here(merge(item)) for item in items)
    wanted = wanted or Wanted(0, -1e9)
    totals = Here(total(handles))
    parts = tuple(Here(candidates(Cohesion(b, trees, totals, wanted))) for b in range(buckets))
    return gather(parts)


def rows(found):
    """Candidates as a dict of tuples of codes."""
    return {
        tuple(found.codes[i, : found.length[i]].tolist()): tuple(
            round(float(column[i]), 5) for column in (found.count, found.background, found.pmi, found.left, found.right)
        )
        for i in range(len(found))
    }


@settings(max_examples=60, deadline=None)
@given(texts, texts, lengths)
def test_counts_cohesion_and_entropies_are_those_of_dictionaries(codes, other, max_length):
    count, places, left, right = brute.ngrams(codes, max_length)
    background, *_ = brute.ngrams(other, max_length)
    found = discovered([count_codes(codes, max_length)], max_length, 1, [count_codes(other, max_length, sides=False)])
    expected = {
        gram: (times, background[gram], brute.pmi(gram, count, places), brute.entropy(left[gram]),
               brute.entropy(right[gram]))
        for gram, times in count.items() if len(gram) > 1
    }  # fmt: skip
    got = rows(found)
    assert got.keys() == expected.keys()
    for gram, values in expected.items():
        assert got[gram] == pytest.approx(values, abs=2e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 3), lengths)
def test_no_number_of_shards_or_buckets_changes_anything(parts, buckets, min_count, max_length):
    whole = np.concatenate([np.append(part, np.uint16(0)) for part in parts])
    one = discovered([count_codes(whole, max_length)], max_length, 1, min_count=min_count)
    many = discovered([count_codes(p, max_length) for p in parts], max_length, buckets, min_count=min_count)
    for name in ("codes", "length", "count", "pmi", "left", "right"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


def test_what_is_too_rare_or_too_loose_is_no_candidate():
    codes = encode("甲乙丙，" * 3 + "丁戊，" * 2)
    found = discovered([count_codes(codes, 4)], 4, 3, min_count=3, wanted=Wanted(0, 0.5))
    assert found.texts() == ["乙丙", "甲乙", "甲乙丙"]
    assert discovered([count_codes(codes, 4)], 4, 3, min_count=3, wanted=Wanted(0.1, -9)).texts() == []
    assert len(discovered([count_codes(encode("，。"), 4)], 4)) == 0


def test_weights_repeat_a_text():
    once = encode("电压电流，")
    thrice = count_codes(np.tile(once, 3), 4, sides=False)
    weighted = count_codes(once, 4, sides=False, weight=np.full(len(once), 3))
    np.testing.assert_array_equal(thrice.singles, weighted.singles)
    domain = [count_codes(encode("电压电流电压"), 4)]
    assert rows(discovered(domain, 4, 2, [thrice])) == rows(discovered(domain, 4, 2, [weighted]))


@settings(max_examples=30, deadline=None)
@given(texts, lengths)
def test_a_tree_finds_what_it_spells(codes, max_length):
    windows = count_codes(codes, max_length)
    for n, level in enumerate(grow(windows.words, windows.sides, 1, max_length), 2):
        tree = grow(windows.words, windows.sides, 1, max_length)
        nodes = np.arange(len(level.key))
        np.testing.assert_array_equal(find(tree, spell(tree, n, nodes)), nodes)
        absent = np.full((1, n), 7, np.uint16)
        assert find(tree, absent).tolist() == [-1]


def test_scrambling_is_a_bijection_and_buckets_are_ranges_of_it():
    pairs = np.random.default_rng(0).integers(0, 1 << 30, 10_000).astype(np.uint64)
    np.testing.assert_array_equal(unscramble(scramble(pairs)), pairs)
    for buckets in (1, 3, 7, 1000):
        bucket = bucket_of(scramble(pairs), buckets)
        starts = np.array([bucket_start(b, buckets) for b in range(buckets + 1)])
        np.testing.assert_array_equal(np.searchsorted(starts, scramble(pairs), "right") - 1, bucket)
    assert starts[0] == 0
    assert starts[-1] == 1 << 30


def test_buckets_of_chinese_are_even():
    text = encode("".join(chr(0x4E00 + i) for i in np.random.default_rng(1).zipf(1.3, 200_000) % 5000))
    share = np.bincount(bucket_of(count_codes(text, 4).words[0] >> np.uint64(30), 16)) / len(text)
    assert share.max() < 0.25


def test_normalised_characters():
    assert decode(encode("ＡＢｃ１ 電压Ⅳ㎏", letters=True)) == "abc1 電压  "
    assert decode(encode("Ａb电1〇㐀𠀀豈", letters=False)) == "  电 〇㐀  豈"
    assert encode("").tolist() == []
