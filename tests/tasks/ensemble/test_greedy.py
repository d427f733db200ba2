"""Greedy selection against the plain search, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from plain import plain_greedy

from tasks.ensemble import EnsembleParams, candidates, greedy, recipe
from tasks.ensemble.builtin import Generated
from tasks.ensemble.candidates import Candidates
from tasks.ensemble.members import gather, right


def members_of(count=12, correlation=0.3, seed=0, photos=120, classes=6):
    generated = Generated(tuple(np.linspace(1.2, 2.2, count)), correlation, classes, photos)
    return gather((name, logits, None) for name, logits in generated.draw(seed))


def picks_of(members, metric, allowed, folder, size=10, start=2):
    photos = np.arange(len(members.frame.keys))
    some = Candidates(members, range(len(members)), photos, np.ones(len(members)), folder)
    return greedy.select(some, allowed, metric, recipe.ranking(members, photos, metric), size, start)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("seed", range(4))
def test_it_picks_what_the_plain_search_picks(metric, seed, tmp_path):
    members = members_of(seed=seed)
    allowed = greedy.bags(len(members), 3, 0.6, np.random.default_rng(seed))
    p = np.exp([member.log_probabilities() for member in members.all])
    ranking = recipe.ranking(members, np.arange(120), metric)
    for start in (0, 3):
        for one, bag in zip(picks_of(members, metric, allowed, tmp_path, 10, start), allowed, strict=True):
            assert list(one.picks) == plain_greedy(p, members.frame.labels, bag, metric, ranking, 10, start)
            assert all(bag[pick] for pick in one.picks)


def test_it_picks_the_same_from_a_file(tmp_path, monkeypatch):
    members = members_of()
    allowed = np.ones((1, len(members)), bool)
    in_memory = picks_of(members, "accuracy", allowed, tmp_path)
    monkeypatch.setattr(candidates, "IN_MEMORY", 0)
    monkeypatch.setattr(candidates, "CHUNK_BYTES", 7 * 4 * 6 * len(members))  # seven photos, which do not divide 120
    assert picks_of(members, "accuracy", allowed, tmp_path / "new") == in_memory
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("start", [0, 1, 6])
def test_the_best_prefix_is_never_worse_than_the_best_single_where_it_was_chosen(metric, start, tmp_path):
    members = members_of(correlation=0.9, photos=60)
    one = picks_of(members, metric, np.ones((1, len(members)), bool), tmp_path, 15, start)[0]
    values = members.hits.mean(axis=1) if metric == "accuracy" else members.own.mean(axis=1)
    assert max(one.scores) >= values.max() - 1e-6
    assert one.scores[len(one.best) - 1] == max(one.scores)
    assert list(one.scores[: len(one.best) - 1]) == [s for s in one.scores[: len(one.best) - 1] if s < max(one.scores)]


def test_its_scores_are_those_of_the_mean_of_the_picks(tmp_path):
    members = members_of()
    labels = members.frame.labels
    p = np.exp([member.log_probabilities() for member in members.all])
    for metric in ("accuracy", "log_loss"):
        one = picks_of(members, metric, np.ones((1, len(members)), bool), tmp_path)[0]
        for length, score in enumerate(one.scores, 1):
            mean = p[list(one.picks[:length])].mean(axis=0)
            wanted = right(mean, labels).mean() if metric == "accuracy" else np.log(mean[range(120), labels]).mean()
            assert score == pytest.approx(wanted, abs=1e-6)


def test_weights_are_the_shares_of_the_best_prefixes_over_bags():
    bags = [greedy.Picks((0, 1, 1, 2), (0.5, 0.6, 0.8, 0.8)), greedy.Picks((2, 0), (0.9, 0.1))]
    assert bags[0].best == (0, 1, 1)
    assert greedy.weights(bags, 4).tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2, 0])


def test_a_bag_holds_its_fraction_of_the_members():
    allowed = greedy.bags(9, 5, 0.5, np.random.default_rng(0))
    assert allowed.sum(axis=1).tolist() == [5] * 5
    assert len({tuple(bag) for bag in allowed}) > 1


def test_a_size_beyond_what_a_bag_holds_is_no_matter(tmp_path):
    members = members_of(count=3)
    params = EnsembleParams(size=20, start=10, fraction=0.3, bags=2, recalibrate=False)
    found = recipe.fit(members, np.arange(120), params, 0, tmp_path)
    assert found.weights.sum() == pytest.approx(1)
