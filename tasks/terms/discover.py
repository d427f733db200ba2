"""Which strings of characters are words? Discovery without a dictionary, in maps over shards and buckets.

Source: Su Jianlin, kexue.fm/archives/3491 and 6540 (after matrix67): a string is a word if its parts hold together
(pointwise mutual information) and if it is used freely (entropy of what stands to its left and right).
Idea: both follow from the sorted windows of all shards (`counting`). Windows that begin with the same two characters
are in one bucket, so a bucket grows its tree alone; only the cohesion of an n-gram needs counts of other buckets,
those of its endings, and every ending of a frequent n-gram is frequent, so it is in its own bucket's tree.

PMI is taken of probabilities, not of counts: an n-gram's is its count over the number of places where one of its
length could stand. It is the least over all ways to cut in two, ``min ln p(ab) / (p(a) p(b))``.

>>> pmi = cohesion_of(np.array([[1, 2]]), np.array([4]), np.array([[8]]), np.array([[5]]), np.array([0, 100, 50]))
>>> bool(np.isclose(pmi[0], np.log((4 / 50) / (8 / 100 * 5 / 100))))
True
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tasks.api import Handle
from tasks.terms import alphabet
from tasks.terms.counting import Windows, bucket_of, bucket_start, scramble
from tasks.terms.prefixes import Level, add_counts, find, grow, spell

__all__ = ["Bucket", "Candidates", "Cohesion", "Totals", "Wanted", "candidates", "gather", "merge", "total"]

U = np.uint64


@dataclass(frozen=True)
class Totals:
    """What shards have in common: see `Windows`. ``size``: characters; ``positions``: windows."""

    singles: np.ndarray
    places: np.ndarray
    size: int
    half: int
    positions: int
    lines: int
    broken: int


@dataclass(frozen=True)
class Bucket:
    """One item of the merge: bucket number ``bucket`` of all shards, and of the background's."""

    bucket: int
    buckets: int
    shards: tuple[Handle[Windows], ...]
    background: tuple[Handle[Windows], ...]
    min_count: int
    max_length: int


@dataclass(frozen=True)
class Wanted:
    """What makes an n-gram a candidate."""

    min_entropy: float
    min_pmi: float


@dataclass(frozen=True)
class Cohesion:
    """One item of the second pass: a bucket's tree, and the trees of all where the endings are."""

    bucket: int
    trees: tuple[Handle[list[Level]], ...]
    totals: Handle[Totals]
    wanted: Wanted


@dataclass(frozen=True)
class Candidates:
    """Strings that may be words: arrays of one row each.

    codes: (rows, max_length) uint16, 0 behind the end; length; count; half (count in the first half of the
    documents); background (count there); pmi, left, right (nats)
    """

    codes: np.ndarray
    length: np.ndarray
    count: np.ndarray
    half: np.ndarray
    background: np.ndarray
    pmi: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def take(self, rows: np.ndarray) -> Candidates:
        """Some of the rows, in the order given."""
        return Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))

    def texts(self) -> list[str]:
        """The strings."""
        return alphabet.spell(self.codes)


def total(shards: tuple[Handle[Windows], ...]) -> Totals:
    """Sum up what shards have in common."""
    singles = np.zeros(alphabet.SIZE, np.int64)
    places = np.zeros(1, np.int64)
    half = positions = lines = broken = 0
    for handle in shards:
        shard = handle.load()
        singles += shard.singles
        places = np.add(places, shard.places) if len(places) > 1 else np.array(shard.places)
        half, positions = half + shard.half, positions + len(shard.words[0])
        lines, broken = lines + shard.lines, broken + shard.broken
    return Totals(singles, places, int(singles.sum()), half, positions, lines, broken)


def merge(item: Bucket) -> list[Level]:
    """The tree of a bucket: what occurs ``min_count`` times in all shards together, with its background count."""
    columns, sides = _collect(item)
    tree = grow(columns, sides, item.min_count, item.max_length)
    del columns, sides
    for handle in item.background:
        shard = handle.load()
        here = _slice(shard, item)
        weight = shard.weight[here] if len(shard.weight) else shard.weight
        add_counts(tree, [np.asarray(word[here]) for word in shard.words], np.asarray(weight))
    return tree


def candidates(item: Cohesion) -> Candidates:
    """The n-grams of a bucket that are used freely and hold together."""
    tree, totals = item.trees[item.bucket].load(), item.totals.load()
    width = len(totals.places) - 1
    found, heads = [], []
    for n, level in enumerate(tree, 2):
        free = np.flatnonzero(np.minimum(level.left, level.right) >= item.wanted.min_entropy)
        codes = np.zeros((len(free), width), np.uint16)
        codes[:, :n] = spell(tree, n, free)
        columns = (level.count, level.half, level.background, np.zeros(len(level.count)), level.left, level.right)
        found.append(Candidates(codes, np.full(len(free), n, np.uint8), *(np.asarray(c[free]) for c in columns)))
        heads.append(_head_counts(tree, n, free, codes, totals))
    if not found:
        return _none(width)
    rows = Candidates(*(np.concatenate([getattr(f, name) for f in found]) for name in _NAMES))
    tails = _tail_counts(rows, item, totals)
    pmi = cohesion_of(rows.codes, rows.count, np.concatenate(heads), tails, totals.places, rows.length)
    rows.pmi[:] = pmi
    return rows.take(np.flatnonzero(pmi >= item.wanted.min_pmi))


def gather(parts: tuple[Handle[Candidates], ...]) -> Candidates:
    """The candidates of all buckets, most frequent first, in an order that no number of buckets changes."""
    loaded = [handle.load() for handle in parts]
    rows = Candidates(*(np.concatenate([getattr(part, name) for part in loaded]) for name in _NAMES))
    words = np.zeros((-(-rows.codes.shape[1] // 4), len(rows)), U)
    for place in range(4 * len(words)):
        code = rows.codes[:, place] if place < rows.codes.shape[1] else 0
        words[place // 4] = words[place // 4] << U(alphabet.BITS) | np.asarray(code, U)
    order = np.lexsort((*words[::-1], -rows.count))
    return rows.take(order)


def cohesion_of(
    codes: np.ndarray,
    count: np.ndarray,
    heads: np.ndarray,
    tails: np.ndarray,
    places: np.ndarray,
    length: np.ndarray | None = None,
) -> np.ndarray:
    """Least PMI over all cuts, nats: (rows,).

    heads, tails: (rows, cuts): count of the first j + 1 characters, and of the rest, for cut j; 0 where there is none.
    places: (max_length + 1,): how many n-grams there are of each length
    """
    length = np.full(len(codes), codes.shape[1]) if length is None else length.astype(np.int64)
    chance = np.log(np.maximum(places, 1).astype(np.float64))
    whole = np.log(count) - chance[length]
    least = np.full(len(codes), np.inf)
    for cut in range(heads.shape[1]):
        rows = np.flatnonzero(length > cut + 1)
        head = np.log(heads[rows, cut]) - chance[cut + 1]
        tail = np.log(tails[rows, cut]) - chance[length[rows] - cut - 1]
        least[rows] = np.minimum(least[rows], whole[rows] - head - tail)
    return least


_NAMES = [field.name for field in fields(Candidates)]


def _collect(item: Bucket) -> tuple[list[np.ndarray], np.ndarray]:
    """A bucket's windows of all shards in one; a shard is open at a time, and its slice copied once."""
    parts = [_slice(handle.load(), item) for handle in item.shards]
    size = sum(part.stop - part.start for part in parts)
    columns = [np.empty(size, U) for _ in range(-(-item.max_length // 4))]
    sides = np.empty(size, np.uint32)
    at = 0
    for handle, part in zip(item.shards, parts, strict=True):
        shard, end = handle.load(), at + part.stop - part.start
        for column, word in zip(columns, shard.words, strict=True):
            column[at:end] = word[part]
        sides[at:end] = shard.sides[part]
        at = end
    return columns, sides


def _slice(shard: Windows, item: Bucket) -> slice:
    """Where a bucket's windows are in a shard: a few pages are read to find out."""
    low, high = (U(bucket_start(b, item.buckets) << 30) for b in (item.bucket, item.bucket + 1))
    return slice(*np.searchsorted(shard.words[0], np.array([low, high], U)).tolist())


def _head_counts(tree: list[Level], n: int, nodes: np.ndarray, codes: np.ndarray, totals: Totals) -> np.ndarray:
    """Counts of all beginnings of n-grams, (nodes, longest - 1): they are the nodes above, in the same tree."""
    heads = np.zeros((len(nodes), codes.shape[1] - 1), np.int64)
    heads[:, 0] = totals.singles[codes[:, 0]]
    for length in range(n - 1, 1, -1):
        nodes = (tree[length - 1].key[nodes] >> U(alphabet.BITS)).astype(np.int64)
        heads[:, length - 1] = tree[length - 2].count[nodes]
    return heads


def _tail_counts(rows: Candidates, item: Cohesion, totals: Totals) -> np.ndarray:
    """Counts of all endings, bucket by bucket: one other tree is open at a time."""
    tails = np.zeros((len(rows), rows.codes.shape[1] - 1), np.int64)
    last = rows.length.astype(np.int64) - 1
    tails[np.arange(len(rows)), last - 1] = totals.singles[rows.codes[np.arange(len(rows)), last]]
    asked = [_endings(rows, n, len(item.trees)) for n in range(2, rows.codes.shape[1])]
    for bucket, handle in enumerate(item.trees):
        tree = None
        for n, (row, cut, starts) in enumerate(asked, 2):
            here = slice(starts[bucket], starts[bucket + 1])
            if here.start < here.stop:
                tree = handle.load() if tree is None else tree
                codes = rows.codes[row[here, None], cut[here, None] + np.arange(n)]
                tails[row[here], cut[here] - 1] = tree[n - 2].count[find(tree, codes)]
    return tails


def _endings(rows: Candidates, n: int, buckets: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """All endings of n characters by the bucket they are in: whose, where they start, and each bucket's first."""
    row = np.flatnonzero(rows.length > n)
    cut = rows.length[row].astype(np.int64) - n
    pair = rows.codes[row, cut].astype(U) << U(alphabet.BITS) | rows.codes[row, cut + 1].astype(U)
    bucket = bucket_of(scramble(pair), buckets)
    order = np.argsort(bucket, kind="stable")
    return row[order], cut[order], np.searchsorted(bucket[order], np.arange(buckets + 1)).tolist()


def _none(width: int) -> Candidates:
    empty = np.zeros(0, np.int64)
    real = np.zeros(0)
    return Candidates(np.zeros((0, width), np.uint16), empty.astype(np.uint8), empty, empty, empty, real, real, real)
