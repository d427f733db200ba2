"""Batches of pairs: distinct classes by frequency, two photos of each; and the shares of several processes."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from tasks.api import InputError
from tasks.dogs.sampler import batches, check_pairs, share

COUNTS = torch.tensor([3, 2, 8, 5])
LABELS = torch.repeat_interleave(torch.arange(4), COUNTS)
ROWS = torch.arange(100, 118)


def drawn(size, count, seed=0, kind="pairs"):
    return list(batches(kind, ROWS, LABELS, size, count, torch.Generator().manual_seed(seed)))


def test_a_batch_has_distinct_classes_and_two_photos_of_each():
    for rows in drawn(6, 600):
        labels = LABELS[rows - 100].view(3, 2)
        assert (labels[:, 0] == labels[:, 1]).all()
        assert len(labels[:, 0].unique()) == 3
        assert len(rows.unique()) == 6


def test_classes_come_by_frequency_and_photos_alike():
    rows = torch.cat(drawn(2, 20_000))
    seen = torch.bincount(LABELS[rows[::2] - 100], minlength=4)
    assert chisquare(seen, COUNTS / COUNTS.sum() * seen.sum()).pvalue > 1e-3
    for label in range(4):
        of_class = rows[LABELS[rows - 100] == label]
        assert chisquare(torch.unique(of_class, return_counts=True)[1]).pvalue > 1e-3


def test_several_classes_are_drawn_one_after_the_other():
    """P(class i among two) = p_i + Σ_{j≠i} p_j·p_i/(1 − p_j)."""
    p = COUNTS / COUNTS.sum()
    expected = torch.stack([p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(4)])
    found = torch.cat(drawn(4, 40_000))
    seen = torch.bincount(LABELS[found[::2] - 100], minlength=4)
    assert (seen / (len(found) / 4) - expected).abs().max() < 0.02


def test_an_epoch_has_as_many_batches_as_a_shuffled_one():
    for count in (16, 17, 18):
        assert len(drawn(8, count)) == len(drawn(8, count, kind="shuffled")) == -(-count // 8)


def test_shuffled_shows_each_photo_once_and_no_more_than_asked():
    assert torch.cat(drawn(5, 18, kind="shuffled")).sort().values.tolist() == ROWS.tolist()
    assert len(torch.cat(drawn(5, 11, kind="shuffled")).unique()) == 11


def test_the_generator_alone_decides():
    first, second, third = (torch.cat(drawn(6, 60, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("count", [1, 4, 7, 8, 30, 32])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_are_the_whole_in_blocks(count, processes):
    parts = [share(count, rank, processes) for rank in range(processes)]
    assert [row for part in parts for row in range(count)[part]] == list(range(count))
    assert all(part.start % 4 == 0 or part.start == count for part in parts)
    sizes = [len(range(count)[part]) for part in parts]
    assert max(sizes) - min(sizes) <= 7


def test_what_makes_pairs_impossible_is_said():
    with pytest.raises(InputError, match=r"10 takes 5 distinct classes, and there are 4: give batch_size=8"):
        check_pairs(LABELS, tuple("abcd"), 10)
    with pytest.raises(InputError, match="class 'e' has 1 readable training photos"):
        check_pairs(torch.cat([LABELS, torch.tensor([4])]), tuple("abcde"), 4)
