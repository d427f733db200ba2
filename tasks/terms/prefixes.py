"""All n-grams of a bucket that are frequent enough, as one tree of prefixes, with their boundary entropies.

Idea: an n-gram is at most as frequent as its first n - 1 characters, so the tree is grown a character at a time and
what is too rare is dropped on the way: the long n-grams, nearly all of them rare, are never counted one by one. In a
sorted list of windows the children of a node lie together, so a level of the tree is one comparison of neighbours.

The tree is a list of levels. A node of level n is the number of its parent in the level above and its last character,
as one number ``parent << 15 | character``; a level is the sorted array of these. (The first level holds the scrambled
pairs of characters.) Looking up any number of n-grams is a bisection a level.

>>> from tasks.terms.alphabet import encode
>>> from tasks.terms.counting import count_codes
>>> shard = count_codes(encode("甲乙丙,甲乙丁,甲乙"), max_length=3)
>>> tree = grow(shard.words, shard.sides, min_count=1, max_length=3)
>>> [sorted(level.count.tolist()) for level in tree]
[[1, 1, 3], [1, 1]]
>>> node = find(tree, encode("甲乙").reshape(1, 2))
>>> bool(tree[0].right[node][0] == np.float32(np.log(3)))  # behind 甲乙 stand 丙, 丁 and an end
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.terms.alphabet import BITS, MASK
from tasks.terms.counting import scramble, unscramble

__all__ = ["Level", "Tree", "add_counts", "find", "grow", "spell"]

U = np.uint64
_PAIR = 2 * BITS


@dataclass(frozen=True)
class Level:
    """The frequent n-grams of one length: arrays (nodes,), sorted by key.

    half: how many of the occurrences are in the first half of the documents; left, right: boundary entropies, nats;
    background: occurrences in the background corpus
    """

    key: np.ndarray
    count: np.ndarray
    half: np.ndarray
    left: np.ndarray
    right: np.ndarray
    background: np.ndarray


Tree = Sequence[Level]


def grow(words: Sequence[np.ndarray], sides: np.ndarray, min_count: int, max_length: int) -> list[Level]:
    """The tree of windows in any order. Level i holds the n-grams of i + 2 characters."""
    order = np.argsort(words[0])
    words, sides = [word[order] for word in words], sides[order]
    node = np.zeros(0, np.int64)
    levels: list[Level] = []
    for n in range(2, max_length + 1):
        character = _character(words, n)
        prefix = words[0] >> U(_PAIR) if n == 2 else node.astype(U)
        new = np.ones(len(sides), bool)
        new[1:] = prefix[1:] != prefix[:-1]
        if n > 2:
            new[1:] |= character[1:] != character[:-1]
        starts = np.flatnonzero(new)
        counts = np.diff(starts, append=len(sides))
        kept = (counts >= min_count) & (character[starts] > 0)
        if not kept.any():
            break
        key = prefix[starts[kept]] if n == 2 else prefix[starts[kept]] << U(BITS) | character[starts[kept]]
        counts, live = counts[kept], np.repeat(kept, counts)
        words, sides = [word[live] for word in words], sides[live]
        node = np.repeat(np.arange(len(counts)), counts)
        if n % 2 == 0 and 4 <= n < max_length:
            # The windows are in order up to here; the next two characters come into it now.
            pair = words[n // 4] >> U(_PAIR if n % 4 == 0 else 0) & U((1 << _PAIR) - 1)
            order = np.argsort(node.astype(U) << U(_PAIR) | pair)
            words, sides, node = [word[order] for word in words], sides[order], node[order]
        after = _character(words, n + 1) if n < max_length else np.sort(_together(node, sides & np.uint32(MASK)))
        before = np.sort(_together(node, sides >> np.uint32(BITS) & np.uint32(MASK)))
        right = _entropy(after if n == max_length else _together(node, after), counts)
        half = np.add.reduceat((sides >> np.uint32(_PAIR)).astype(np.int64), np.cumsum(counts) - counts)
        levels.append(Level(key, counts, half, _entropy(before, counts), right, np.zeros(len(counts), np.int64)))
    return levels


def find(tree: Tree, characters: np.ndarray) -> np.ndarray:
    """Node number of each n-gram, -1 where it is not in the tree; ``characters``: (n-grams, n) codes, n ≥ 2."""
    pair = characters[:, 0].astype(U) << U(BITS) | characters[:, 1].astype(U)
    node = _search(tree[0].key, scramble(pair)) if tree else np.full(len(characters), -1)
    for n in range(3, characters.shape[1] + 1):
        if n - 2 >= len(tree):
            return np.full(len(characters), -1)
        node = _descend(tree[n - 2], node, characters[:, n - 1].astype(U))
    return node


def add_counts(tree: Tree, words: Sequence[np.ndarray], weight: np.ndarray) -> None:
    """Add the n-grams of some windows to the tree's ``background``; those that are not in the tree are passed over.

    ``weight``: how often each window counts; empty if once.
    """
    node = np.zeros(0, np.int64)
    for n, level in enumerate(tree, 2):
        first = n == 2
        node = _search(level.key, words[0] >> U(_PAIR)) if first else _descend(level, node, _character(words, n))
        live = node >= 0
        words, node = [word[live] for word in words], node[live]
        weight = weight[live] if len(weight) else weight
        times = np.bincount(node, weight if len(weight) else None, len(level.key))
        level.background[:] += times.astype(np.int64)


def spell(tree: Tree, n: int, nodes: np.ndarray) -> np.ndarray:
    """The characters of nodes of the level of n-grams: (nodes, n) uint16 codes."""
    spelled = np.empty((len(nodes), n), np.uint16)
    for length in range(n, 2, -1):
        key = tree[length - 2].key[nodes]
        spelled[:, length - 1] = key & U(MASK)
        nodes = (key >> U(BITS)).astype(np.int64)
    pair = unscramble(np.asarray(tree[0].key[nodes]))
    spelled[:, 0], spelled[:, 1] = pair >> U(BITS), pair & U(MASK)
    return spelled


def _character(words: Sequence[np.ndarray], n: int) -> np.ndarray:
    """The n-th character of each window, counted from 1 (from the third: the first two are scrambled)."""
    word, place = divmod(n - 1, 4)
    return words[word] >> U(BITS * (3 - place)) & U(MASK)


def _together(node: np.ndarray, character: np.ndarray) -> np.ndarray:
    return node.astype(U) << U(BITS) | character


def _entropy(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Entropy in nats of the neighbours of each node, from sorted pairs of node and neighbour; a boundary is one."""
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    node = (pairs[starts] >> U(BITS)).astype(np.int64)
    times = np.diff(starts, append=len(pairs)).astype(np.float64)
    mass = np.bincount(node, times * np.log(times), len(counts))
    return np.maximum(np.log(counts) - mass / counts, 0).astype(np.float32)


def _search(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key is, -1 where it is not."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _descend(level: Level, node: np.ndarray, character: np.ndarray) -> np.ndarray:
    """The child of each node by that character, -1 where there is none."""
    child = _search(level.key, np.maximum(node, 0).astype(U) << U(BITS) | character)
    return np.where((node >= 0) & (character > 0), child, -1)
