"""The post's method against its own words: which characters hold together, where the text is cut, who comes first."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import brute
import numpy as np
import pytest
from fakes import FakeContext, Here
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.api import Row
from tasks.terms import TASK, conclude, post
from tasks.terms.alphabet import decode, encode
from tasks.terms.counting import count_codes
from tasks.terms.discover import total

texts = st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=2, max_size=80).map(lambda c: np.array(c, np.uint16))


def words_by_hand(codes):
    """Cut wherever the PMI of two neighbours is at most 0.5, and count."""
    runs = brute.stretches(codes)
    single = Counter(code for run in runs for code in run)
    pair = Counter(both for run in runs for both in itertools.pairwise(run))
    n, pairs = sum(single.values()), sum(pair.values())

    def holds(a, b):
        share = pair[a, b] / pairs
        return share > 1e-6 and math.log(share / (single[a] / n * single[b] / n)) > 0.5

    found = Counter()
    for run in runs:
        word = [run[0]]
        for before, code in itertools.pairwise(run):
            if holds(before, code):
                word.append(code)
            else:
                found[decode(np.array(word))] += 1
                word = [code]
        found[decode(np.array(word))] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(1, 3))
def test_words_are_those_of_the_definition(codes, parts):
    codes = np.append(codes, np.uint16(0))
    shards = [Here(count_codes(codes, 4)) for _ in range(parts)]
    joined = post.Joined(tuple(Here(post.pairs(shard)) for shard in shards), Here(total(tuple(shards))))
    held = Here(post.strong(joined))
    found = Counter()
    for shard in shards:
        found.update(post.words(post.Cutting(shard, held)))
    assert found == {word: parts * times for word, times in words_by_hand(codes).items()}


def test_words_that_the_background_lacks_come_first():
    here = {"电压": 50, "的人": 50, "少见": 1, "电": 99}
    ranking = post.Ranking((Here(here),), (Here({"的人": 500, "其他": 500}),), 10)
    assert post.rank_words(ranking) == ["电压", "少见", "的人"]
    general = post.rank_words(post.Ranking((Here({"我们": 50, "齿槽转矩": 5}),), (), 10))  # against the dictionary
    assert general == ["齿槽转矩", "我们"]


def test_it_is_left_out_where_the_text_is_too_much_for_it(tmp_path, session_cache, monkeypatch):
    monkeypatch.setattr(post, "MOST_CHARACTERS", 1000)
    context = FakeContext(tmp_path, cache=session_cache)
    metrics = TASK.run(TASK.params(), context)
    assert "baseline" not in metrics
    assert "nothing to compare it with" in conclude([Row("t", {}, metrics)]).sentence


@pytest.mark.parametrize("text", ["", "，", "电", "电，电"])
def test_texts_without_a_pair(text):
    codes = encode(text)
    assert post.cut(codes, np.zeros(0, np.uint64)) == ({"电": text.count("电")} if "电" in text else {})
