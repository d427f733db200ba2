"""How words are used: counts of the segmented text, and a vector of each word from the company it keeps.

Source: Levy, Goldberg and Dagan, Improving Distributional Similarity with Lessons Learned from Word Embeddings (2015):
positive pointwise mutual information of word and context, context counts to the power 0.75, nearer contexts weighing
more, the singular values' square root. (The post, kexue.fm/archives/6540, trains Word2Vec.)
Idea: a word is known by its neighbours. On a corpus of a few megabytes this ranks terms better than Word2Vec and takes
a tenth of the time, and it is counted shard by shard.

>>> from scipy.sparse import csr_matrix
>>> near = csr_matrix([[0, 0, 0, 0, 5, 5, 0, 0], [0, 0, 0, 0, 5, 5, 0, 0], [0, 0, 0, 0, 0, 0, 5, 5]])
>>> found = embed(near, dimensions=2)
>>> cosine = found @ found.T
>>> bool(cosine[0, 1] > 0.99), bool(abs(cosine[0, 2]) < 0.01)
(True, True)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.api import Handle
from tasks.terms import alphabet
from tasks.terms.counting import Windows
from tasks.terms.discover import Candidates, Totals
from tasks.terms.segment import Cut, Vocabulary, segment, vocabulary

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Embedding", "Reading", "Usage", "embed", "known_words", "near", "summed", "train", "use"]

_WINDOW = 5  # words to each side
_SMOOTHING = 0.75
_CONTEXTS = 20_000  # the most frequent ones: the others cost memory and change nothing that was measured
_UNKNOWN = -20.0  # log probability of a character that never stands in the corpus
_PIECE = 1 << 19  # characters that are cut at once


@dataclass(frozen=True)
class Reading:
    """One item: a shard's text, and the words to cut it into."""

    shard: Handle[Windows]
    words: Handle[Candidates]
    totals: Handle[Totals]
    with_company: bool


@dataclass(frozen=True)
class Usage:
    """A segmented shard: how often each word is one there; how often each character stands alone; and the company.

    company: (words, words + characters) sparse: how often a word stands near another word or a single character
    """

    words: np.ndarray
    alone: np.ndarray
    company: csr_matrix


@dataclass(frozen=True)
class Embedding:
    """One item: what all shards found."""

    usage: tuple[Handle[Usage], ...]
    dimensions: int


def known_words(found: Candidates, singles: np.ndarray) -> Vocabulary:
    """Words with the share of the text that each could be, and all characters, so that any text can be cut."""
    total = float(singles.sum() + found.count.sum())
    present = np.flatnonzero(singles)
    codes = np.zeros((len(found) + len(present), found.codes.shape[1]), np.uint16)
    codes[: len(found)], codes[len(found) :, 0] = found.codes, present
    length = np.concatenate([found.length, np.ones(len(present), np.uint8)])
    return vocabulary(codes, length, np.log(np.concatenate([found.count, singles[present]]) / total))


def use(item: Reading) -> Usage:
    """Segment a shard and count how its words are used."""
    found = item.words.load()
    text = np.asarray(item.shard.load().codes)
    words = known_words(found, item.totals.load().singles)
    counts, alone = np.zeros(len(found), np.int64), np.zeros(alphabet.SIZE, np.int64)
    company = []
    for piece in _pieces(text):
        cut = segment(piece, words, _UNKNOWN)
        short = cut.length == 1
        alone += np.bincount(piece[cut.start[short]], minlength=alphabet.SIZE)
        number = np.where(short, len(found) + piece[cut.start].astype(np.int64), cut.word)
        counts += np.bincount(number[~short], minlength=len(found))
        if item.with_company:
            company.append(near(cut, number, len(found)))
    return Usage(counts, alone, summed(company, len(found)))


def train(item: Embedding) -> np.ndarray:
    """Vectors of the words from all shards' company: (words, dimensions) float32, of length 1, or 0 without any."""
    first = item.usage[0].load()
    return embed(summed((handle.load().company for handle in item.usage), len(first.words)), item.dimensions)


def near(cut: Cut, number: np.ndarray, words: int) -> csr_matrix:
    """How often each word stands near another, no boundary between them; the nearer the heavier, in whole numbers."""
    from scipy.sparse import csr_matrix

    joined = np.cumsum(np.append(0, cut.start[1:] != cut.start[:-1] + cut.length[:-1]))
    rows, columns, weights = [], [], []
    for distance in range(1, _WINDOW + 1):
        together = joined[distance:] == joined[:-distance]
        one, other = number[:-distance][together], number[distance:][together]
        for row, column in ((one, other), (other, one)):
            held = row < words
            rows.append(row[held])
            columns.append(column[held])
            weights.append(np.full(int(held.sum()), _WINDOW + 1 - distance, np.int32))
    at = np.concatenate(rows), np.concatenate(columns)
    return csr_matrix((np.concatenate(weights), at), (words, words + alphabet.SIZE))


def summed(parts: Iterable[csr_matrix], words: int) -> csr_matrix:
    """The sum of matrices, two and two, like a counter carries, so that little more is held than the sums."""
    from scipy.sparse import csr_matrix

    held: list[tuple[int, csr_matrix]] = []
    for part in parts:
        level = 0
        while held and held[-1][0] == level:
            part, level = held.pop()[1] + part, level + 1
        held.append((level, part))
    total = csr_matrix((words, words + alphabet.SIZE), dtype=np.int32)
    while held:
        total = held.pop()[1] + total
    return total


def embed(company: csr_matrix, dimensions: int) -> np.ndarray:
    """Singular vectors of the positive PMI of words (rows) and contexts (columns)."""
    from scipy.sparse.linalg import svds

    frequency = np.asarray(company.sum(axis=0)).ravel()
    common = np.sort(np.argsort(-frequency, kind="stable")[: min(_CONTEXTS, int((frequency > 0).sum()))])
    mutual = company[:, common].astype(np.float64)
    share = frequency[common] ** _SMOOTHING
    expected = np.asarray(mutual.sum(axis=1)).ravel()
    row = np.repeat(np.arange(mutual.shape[0], dtype=np.int32), np.diff(mutual.indptr))
    mutual.data = np.maximum(np.log(mutual.data / (expected[row] * (share / share.sum())[mutual.indices])), 0)
    mutual.eliminate_zeros()
    dimensions = min(dimensions, min(mutual.shape) - 1)
    vectors = np.zeros((len(expected), max(dimensions, 1)), np.float32)
    if dimensions < 1 or not mutual.nnz:
        return vectors
    start = np.random.default_rng(0).standard_normal(min(mutual.shape))
    left, values, _ = svds(mutual, dimensions, v0=start, tol=1e-3)
    vectors[:] = left[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0).astype(np.float32)


def _pieces(text: np.ndarray) -> Iterator[np.ndarray]:
    """A text in pieces that end at a boundary, so that no piece changes how a word is cut."""
    ends = np.flatnonzero(text == 0) + 1
    start = 0
    while start < len(text):
        later = ends[np.searchsorted(ends, start + _PIECE) :]
        end = int(later[0]) if len(later) else len(text)
        yield text[start:end]
        start = end
