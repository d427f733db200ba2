"""The order of the candidates: four views of each, none of which a term may fail.

Views, each a rank among all candidates from 0 (worst) to 1:
- contrast: how much more frequent the word is here than in the background (`contrast`);
- composition: the mean of the same ratio over its characters: a term of a field is made of its characters;
- form: whether it is a word at all: the lesser of its two boundary entropies, times the chance that none of its
  characters is a word by itself, as the segmentation has it (particles, prepositions and measure words are, mostly);
- context: the mean cosine between its vector and those of the seeds, which are the best by the other three views.
Idea: their weighted geometric mean falls to nothing when one view does, so fragments, general words and words of
another field each fail by a view of their own. No word is picked by hand: seeds are the top of the list itself.

`growth` is what the post (Su Jianlin, kexue.fm/archives/6540) does instead, from the same seeds. `c_value` is Frantzi,
Ananiadou and Mima, Automatic Recognition of Multi-Word Terms (2000); `demote` its concern as a rule.

>>> percentile(np.array([3.0, 1.0, 2.0])).round(2).tolist()
[0.83, 0.17, 0.5]
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tasks.terms.discover import Candidates
from tasks.terms.segment import Vocabulary, locate

__all__ = [
    "best", "blend", "c_value", "composition", "context", "demote", "form", "growth", "percentile",
    "wordhood",
]  # fmt: skip

_DIGITS = 6  # of a cosine; below that two machines may disagree


def percentile(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 0 to 1; equal values share the middle of their ranks."""
    _, where, times = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(times) - times / 2)[where] / max(len(values), 1)


def blend(views: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """Weighted geometric mean of the views' ranks; a view that is not there, or weighs 0, has no part in it."""
    total = sum(weights[name] for name in views)
    if not total:
        return np.ones(len(next(iter(views.values()))))
    return np.exp(sum(weights[name] / total * np.log(percentile(view)) for name, view in views.items()))


def composition(found: Candidates, ratios: np.ndarray) -> np.ndarray:
    """Mean over the characters of a word of each one's log ratio; ``ratios``: (characters,)."""
    kept = found.codes > 0
    return (ratios[found.codes] * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)


def form(found: Candidates, alone: np.ndarray, singles: np.ndarray) -> np.ndarray:
    """Least boundary entropy, times the product of each character's share of occurrences as part of a word."""
    part = 1 - alone / np.maximum(singles, 1)
    part[0] = 1  # behind the end of a word
    return np.minimum(found.left, found.right) * np.prod(part[found.codes], axis=1)


def wordhood(found: Candidates) -> np.ndarray:
    """How much of a word each is, of whatever field: free × cohesive × frequent, ``min H · max(PMI, 0) · ln f``.

    A rank from 0 to 1; what has no cohesion at all comes last, in order of frequency.
    """
    free = np.minimum(found.left, found.right).astype(np.float64)
    product = free * np.maximum(found.pmi, 0) * np.log(found.count)
    order = np.lexsort((found.count, product))
    ranks = np.empty(len(found))
    ranks[order] = (np.arange(len(found)) + 0.5) / max(len(found), 1)
    return ranks


def best(score: np.ndarray, number: int) -> np.ndarray:
    """The first so many words of a score."""
    return np.argsort(-score, kind="stable")[:number]


def context(vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean cosine with the seeds, rounded to what any machine agrees on."""
    return np.round(vectors @ vectors[chosen].mean(axis=0, dtype=np.float32), _DIGITS)


def growth(vectors: np.ndarray, chosen: np.ndarray, threshold: float = 0.6, neighbours: int = 20) -> np.ndarray:
    """The post's breadth-first growth: the depth at which each word is reached from the seeds, -1 if it is not.

    A neighbour is accepted at depth i if its cosine is at least ``threshold + (1 - threshold)(1 - e^(-0.35 i))``.
    """
    depth = np.full(len(vectors), -1)
    depth[chosen] = 0
    front = chosen
    for level in range(1, 50):
        least = threshold + (1 - threshold) * (1 - np.exp(-0.35 * (level - 1)))
        reached: list[np.ndarray] = []
        for part in np.array_split(front, -(-len(front) // 512) or 1):
            cosine = np.round(vectors[part] @ vectors.T, _DIGITS)
            near = np.argpartition(-cosine, min(neighbours, cosine.shape[1] - 1), axis=1)[:, : neighbours + 1]
            reached.append(near[np.take_along_axis(cosine, near, axis=1) >= least])
        new = np.unique(np.concatenate(reached))
        front = new[depth[new] < 0]
        if not len(front):
            break
        depth[front] = level
    return depth


def c_value(found: Candidates, words: Vocabulary) -> np.ndarray:
    """``log2 n · (f - t / c)`` with n the length, f the count, t how often it is a piece of the c longer candidates.

    As in the paper an occurrence counts in t once, for the longest candidate that it is a piece of.
    """
    inside, holders = np.zeros(len(found)), np.zeros(len(found))
    count = found.count.astype(np.float64)
    pieces = list(_pieces(found, words))  # the longest holders first
    for piece, holder in pieces:
        np.add.at(inside, piece, (count - inside)[holder])
        np.add.at(holders, piece, 1)
    return np.log2(found.length.astype(np.float64)) * (count - inside / np.maximum(holders, 1))


def demote(score: np.ndarray, found: Candidates, words: Vocabulary, share: float) -> np.ndarray:
    """Scores in which a word does not outrank a longer one that holds at least ``share`` of its occurrences."""
    score = score.astype(np.float64).copy()
    for piece, holder in _pieces(found, words):
        mostly = found.count[holder] >= share * found.count[piece]
        np.minimum.at(score, piece[mostly], np.nextafter(score[holder[mostly]], -np.inf))
    return score


def _pieces(found: Candidates, words: Vocabulary) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a candidate and a longer one that it is a piece of, grouped by the longer one's length, falling.

    A candidate that is twice in a longer one is its piece once.
    """
    for n in range(found.codes.shape[1], 2, -1):
        holders = np.flatnonzero(found.length == n)
        if not len(holders):
            continue
        text = np.zeros((len(holders), n + 1), np.uint16)  # a boundary behind each
        text[:, :n] = found.codes[holders, :n]
        pairs = []
        for length, of_length in words.lengths.items():
            if 2 <= length < n:
                at, which = locate(text.ravel(), of_length, length)
                inner = which < len(found)
                pairs.append(np.stack([which[inner], holders[at[inner] // (n + 1)]], axis=1))
        if pairs:
            both = np.unique(np.concatenate(pairs), axis=0)
            yield both[:, 0], both[:, 1]
