"""Scores, segmentation, vectors and the order of terms, against closed forms, brute force and the papers' examples."""

from __future__ import annotations

import brute
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array
from scipy.stats import chi2_contingency, norm

from tasks.terms import contrast, judge, rank, segment
from tasks.terms.alphabet import SIZE, decode, encode
from tasks.terms.discover import Candidates
from tasks.terms.score import Used, score
from tasks.terms.vectors import embed, known_words, near, summed

counts = st.integers(0, 500)


def candidates_of(words, **columns):
    """Candidates of the given texts, whose other columns are 1 unless given."""
    codes = np.zeros((len(words), max(map(len, words))), np.uint16)
    for row, word in enumerate(words):
        codes[row, : len(word)] = encode(word, letters=True)
    length = np.array([len(word) for word in words], np.uint8)
    names = ("count", "half", "background", "pmi", "left", "right")
    return Candidates(codes, length, *(np.asarray(columns.get(name, np.ones(len(words)))) for name in names))


@given(counts, counts, st.integers(1000, 9999), st.integers(1000, 9999))
def test_likelihood_is_the_g_statistic_of_the_two_observed_cells(w, b, size, other):
    # Of the 2 × 2 table, keyness takes the cells of the word; for a rare word the others add next to nothing.
    got = float(contrast.likelihood(np.array([w]), np.array([b]), size, other)[0])
    if w + b == 0:
        assert got == 0
        return
    here = (w + b) * size / (size + other)
    there = (w + b) * other / (size + other)
    expected = 2 * sum(o * np.log(o / e) for o, e in ((w, here), (b, there)) if o)
    assert abs(got) == pytest.approx(expected, abs=1e-9)
    assert (got >= 0) == (w >= here) or abs(got) < 1e-9


def test_likelihood_is_near_the_whole_tables_for_a_rare_word():
    whole = chi2_contingency([[30, 10_000_000 - 30], [10, 20_000_000 - 10]], correction=False, lambda_=0)[0]
    got = contrast.likelihood(np.array([30]), np.array([10]), 10_000_000, 20_000_000)[0]
    assert got == pytest.approx(whole, rel=1e-4)


def test_odds_is_monroes_formula():
    w, b, size, other = 30, 5, 1000, 2000
    prior = 1000 * (w + b + 0.5) / 3000
    here, there = w + prior, b + prior
    delta = np.log(here / (size + 1000 - here)) - np.log(there / (other + 1000 - there))
    z = delta / np.sqrt(1 / here + 1 / there)
    assert contrast.odds(np.array([w]), np.array([b]), size, other)[0] == pytest.approx(z)


def test_post_keeps_what_a_list_lacks():
    w, b = np.array([10, 0, 4]), np.array([0, 6, 2])
    o = b * 0.5
    t, mean = w + o, (w + o).mean()
    alpha = w.sum() / t.sum()
    np.testing.assert_allclose(contrast.post(w, b, 100, 200), (w + mean * alpha) / (t + mean))


@pytest.mark.parametrize("name", contrast.SCORES)
def test_contrasts_of_a_corpus_with_itself_say_nothing(name):
    w = np.array([5, 50, 500])
    score = contrast.SCORES[name](w, w, 10_000, 10_000)
    assert np.ptp(score) < 1e-6
    assert not contrast.surprise(w, w, 10_000, 10_000).any()


def test_c_value_of_the_papers_example():
    """Frantzi, Ananiadou and Mima (2000), section 2.1: words there are characters here."""
    frequency = {
        "adenoid cystic basal cell carcinoma": 5, "cystic basal cell carcinoma": 11,
        "ulcerated basal cell carcinoma": 7, "recurrent basal cell carcinoma": 5,
        "circumscribed basal cell carcinoma": 3, "basal cell carcinoma": 984,
    }  # fmt: skip
    letters = {word: chr(ord("a") + i) for i, word in enumerate(sorted({w for t in frequency for w in t.split()}))}
    words = ["".join(letters[word] for word in term.split()) for term in frequency]
    found = candidates_of(words, count=np.array(list(frequency.values())))
    values = rank.c_value(found, known_words(found, np.zeros(1, np.int64)))
    assert values.tolist() == pytest.approx([11.6096, 12, 14, 10, 6, 1551.36], rel=2e-4)


def test_a_piece_does_not_outrank_what_it_is_a_piece_of():
    words = ["电流互感器", "流互感器", "互感器", "电流"]
    found = candidates_of(words, count=np.array([10, 11, 40, 300]))
    score = rank.demote(np.array([0.5, 0.9, 0.8, 0.7]), found, known_words(found, np.zeros(1, np.int64)), 0.5)
    assert score[1] < score[0] == 0.5
    assert score[2:].tolist() == [0.8, 0.7]


def test_blending_ranks():
    views = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([3.0, 2.0, 1.0])}
    assert rank.blend(views, {"a": 1, "b": 0}).argmax() == 2
    assert rank.blend(views, {"a": 1, "b": 1}).argmax() == 1  # the geometric mean favours what fails in nothing
    assert rank.percentile(np.array([1.0, 1.0, 2.0])).tolist() == pytest.approx([1 / 3, 1 / 3, 5 / 6])
    assert rank.blend(views, {"a": 0, "b": 0}).tolist() == [1, 1, 1]


def test_growth_reaches_near_words_and_not_far_ones():
    angles = np.radians([0, 20, 42, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    depth = rank.growth(vectors, np.array([0]), threshold=0.9)
    assert depth.tolist() == [0, 1, -1, -1]  # from 20° to 42° is too far that deep


def test_form_and_composition():
    found = candidates_of(["电压", "电的"], left=np.array([2.0, 3.0]), right=np.array([1.0, 3.0]))
    singles, alone = np.zeros(30_000, np.int64), np.zeros(30_000, np.int64)
    singles[encode("电压的")], alone[encode("的")] = 10, 9
    assert rank.form(found, alone, singles).tolist() == pytest.approx([1.0, 0.3])
    ratios = np.zeros(30_000)
    ratios[encode("电压的")] = 2, 4, -2
    assert rank.composition(found, ratios).tolist() == [3, 0]


# ----------------------------------------------------------------------------------------------------- segmentation

texts = st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=40)
lexicons = st.dictionaries(
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6).map(tuple), st.floats(-9, -0.1), max_size=12
)


@settings(max_examples=150, deadline=None)
@given(texts, lexicons)
def test_segmentation_is_the_likeliest(codes, likelihood):
    likelihood = {word: float(np.float32(weight)) for word, weight in likelihood.items()}
    table = np.zeros((len(likelihood), 6), np.uint16)
    for row, word in enumerate(likelihood):
        table[row, : len(word)] = word
    length = np.array([len(word) for word in likelihood], np.uint8)
    words = segment.vocabulary(table, length, np.array(list(likelihood.values())))
    text = np.array(codes, np.uint16)
    cut = segment.segment(text, words, unknown=-20.0)
    covered = np.concatenate([np.arange(a, a + n) for a, n in zip(cut.start, cut.length, strict=True)] or [[]])
    assert covered.tolist() == np.flatnonzero(text).tolist()  # every character once, in order
    names = list(likelihood)
    total = 0.0
    for start, size, word in zip(cut.start, cut.length, cut.word, strict=True):
        piece = tuple(text[start : start + size].tolist())
        assert word < 0 or names[word] == piece
        total += max(likelihood.get(piece, -20.0), -20.0) if size == 1 else likelihood[piece]
    best = sum(brute.cut(run, likelihood, -20.0) for run in brute.stretches(codes))
    assert total == pytest.approx(best, abs=1e-3)


def test_a_stretch_without_end_is_cut_all_the_same():
    words = segment.vocabulary(encode("电压").reshape(1, 2), np.array([2]), np.log([0.5]))
    cut = segment.segment(np.tile(encode("电压"), 5000), words, -20.0)
    assert set(cut.word.tolist()) == {0}
    assert len(cut.start) == 5000


def test_neighbours_are_weighed_by_nearness_and_stop_at_boundaries():
    text = encode("电压电流，电压")
    words = segment.vocabulary(encode("电压电流").reshape(2, 2), np.array([2, 2]), np.log([0.5, 0.5]))
    cut = segment.segment(text, words, -20.0)
    assert near(cut, cut.word, 2).toarray()[:, :2].tolist() == [[0, 5], [5, 0]]


@pytest.mark.parametrize("parts", [0, 1, 5, 8])
def test_company_is_summed(parts):
    size = (9, 9 + SIZE)
    made = [random_array(size, density=1e-4, rng=seed, format="csr", dtype=float).astype(int) for seed in range(parts)]
    made = [csr_matrix((np.full(m.nnz, i + 1, np.int32), m.indices, m.indptr), size) for i, m in enumerate(made)]
    total = summed(made, 9)
    assert total.shape == size
    assert (total.toarray() == sum((m.toarray() for m in made), np.zeros(size))).all()


def test_vectors_without_company_are_nought():
    assert not embed(csr_matrix((3, 10), dtype=np.int32), 2).any()
    assert embed(csr_matrix((0, 10), dtype=np.int32), 2).shape[0] == 0


# ----------------------------------------------------------------------------------------------------------- judging


def test_wilson_interval():
    z, p, n = norm.ppf(0.975), 0.3, 50
    low, high = judge.wilson(15, 50)
    for end in (low, high):  # the ends solve (p - x)² = z² x (1 - x) / n
        assert (p - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n)
    assert judge.wilson(0, 0) == (0, 1)


def test_gold_curves():
    gold = judge.Gold.of(["电压", "电流", "罕见"], np.array([9, 5, 4]))
    hits, found = gold.curves(["电压", "错误", "罕见", "电流"])
    assert hits.tolist() == [1, 1, 2, 3]
    assert found.tolist() == [1, 1, 1, 2]
    assert gold.findable == {"电压", "电流"}


def test_a_list_with_blank_lines_repeats_and_bom(tmp_path):
    path = tmp_path / "gold.txt"
    path.write_bytes("\ufeff\n电压\n\n  电流 \r\n电压\nＡ类\n".encode())
    assert judge.read_list(path, False, "params.gold") == ["电压", "电流", " 类"]
    assert judge.read_list(path, True, "params.gold") == ["电压", "电流", "a类"]
    path.write_bytes("电压\n".encode("gb18030"))
    assert judge.read_list(path, False, "params.gold") == ["电压"]


@pytest.mark.parametrize("ranking", ["views", "contrast", "c_value", "growth", "wordhood"])
def test_every_ranking_puts_the_planted_word_first(ranking):
    from tasks.terms import TASK
    from tasks.terms.discover import Totals

    words = ["电压", "应当", "的人", "磁链"]
    found = candidates_of(
        words, count=np.array([50, 50, 50, 40]), background=np.array([0, 500, 500, 0]), pmi=np.array([5.0, 4, 2, 5]),
        left=np.array([3.0, 3, 2, 2]), right=np.array([3.0, 2, 2, 2]),
    )  # fmt: skip
    singles = np.zeros(30_000, np.int64)
    other = singles.copy()
    singles[encode("电压应当的人磁链")] = 60
    other[encode("应当的人")] = 600
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0.9, 0.43]], np.float32)
    used = Used(np.ones(4, int), np.zeros(30_000), vectors)
    here, there = (Totals(s, np.zeros(9, int), 1000, 500, 900, 9, 0) for s in (singles, other))
    there = Totals(other, np.zeros(9, int), 10_000, 0, 900, 9, 0)
    params = TASK.params(ranking=ranking, seeds=1)
    assert score(params, found, used, here, there).argmax() == 0


def test_texts_of_candidates():
    assert candidates_of(["电压", "电力系统"]).texts() == ["电压", "电力系统"]
    assert decode(encode("电压")) == "电压"
