"""Cut a text into the words of a vocabulary, the likeliest way.

Idea: the probability of a cut is the product of its words' probabilities; the likeliest is found by dynamic programming
over the graph of all words that begin at each character. The text's stretches between boundaries are cut side by
side, one character further at each step, so a step is a few operations on arrays.

>>> from tasks.terms.alphabet import decode, encode
>>> words = vocabulary(encode("电力系统电力电压").reshape(2, 4), np.array([4, 2]), np.log([0.5, 0.5]))
>>> text = encode("电力系统的电力")
>>> cut = segment(text, words, unknown=-20.0)
>>> [decode(text[a : a + n]) for a, n in zip(cut.start, cut.length)], cut.word.tolist()
(['电力系统', '的', '电力'], [0, -1, 1])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.terms.alphabet import BITS

__all__ = ["Cut", "Vocabulary", "Words", "beginnings_of", "locate", "segment", "vocabulary"]

U = np.uint64
_LONGEST = 64  # a stretch without a boundary is cut into pieces of so many characters
_NEVER = np.float32(-1e9)
_FILTER = 20  # bits of the hash of two characters that say at once that no word begins with them


@dataclass(frozen=True)
class Words:
    """The words of one length, sorted by hash."""

    hash: np.ndarray
    packed: np.ndarray  # (packed words of 64 bits, words)
    number: np.ndarray
    begins: np.ndarray  # (2^20,) bool: whether a word may begin with two characters of that hash


@dataclass(frozen=True)
class Vocabulary:
    """Words by their length, and the logarithm of their probability: (words,) float32."""

    lengths: dict[int, Words]
    likelihood: np.ndarray


@dataclass(frozen=True)
class Cut:
    """A text in words: where each starts, its length, and its number in the vocabulary, -1 for a character alone."""

    start: np.ndarray
    length: np.ndarray
    word: np.ndarray


def vocabulary(codes: np.ndarray, length: np.ndarray, likelihood: np.ndarray) -> Vocabulary:
    """A vocabulary from the codes of its words, (words, longest), and their log probabilities."""
    lengths = {}
    for n in np.unique(length).tolist():
        number = np.flatnonzero(length == n)
        packed = _pack([codes[number, i] for i in range(n)])
        hashed = _hash(packed)
        order = np.argsort(hashed, kind="stable")
        begins = np.zeros(1 << _FILTER, bool)
        begins[_beginnings(codes[number, 0], codes[number, 1]) if n > 1 else slice(None)] = True
        lengths[n] = Words(hashed[order], packed[:, order], number[order], begins)
    return Vocabulary(lengths, likelihood.astype(np.float32))


def locate(
    text: np.ndarray, words: Words, n: int, beginnings: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where in a text's codes the words of n characters begin, and which they are.

    ``beginnings``: of the text, for who asks for several lengths.
    """
    size = len(text) - n + 1
    if size <= 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if n == 1:
        at = np.flatnonzero(text)
    else:
        beginnings = beginnings_of(text) if beginnings is None else beginnings
        at = np.flatnonzero(words.begins[beginnings[:size]])
    packed = _pack([text[at + i] for i in range(n)])
    hashed = _hash(packed)
    place = np.minimum(np.searchsorted(words.hash, hashed), len(words.hash) - 1)
    same = (words.packed[:, place] == packed).all(axis=0)  # a hash may collide, characters do not
    return at[same], words.number[place[same]]


def beginnings_of(text: np.ndarray) -> np.ndarray:
    """A hash of each character and the next: (characters - 1,) below 2^20."""
    return _beginnings(text[:-1], text[1:])


def segment(text: np.ndarray, words: Vocabulary, unknown: float) -> Cut:
    """The likeliest cut of a text's codes; a character that is no word has the log probability ``unknown``."""
    start, size = _stretches(text)
    order = np.argsort(-size, kind="stable")  # the longest first: those still being cut come first at every step
    start, size = start[order], size[order]
    longest = int(size[0]) if len(size) else 0
    weight, number = {}, {}
    beginnings = beginnings_of(text)
    for n, of_length in words.lengths.items():
        at, which = locate(text, of_length, n, beginnings)
        weight[n] = np.full(len(text), _NEVER, np.float32)
        number[n] = np.full(len(text), -1, np.int32)
        weight[n][at], number[n][at] = words.likelihood[which], which
    single = weight.setdefault(1, np.full(len(text), _NEVER, np.float32))
    np.maximum(single, np.float32(unknown), out=single)
    active = np.searchsorted(-size, -np.arange(longest), "left")  # how many stretches are longer than each step
    best = [np.zeros(len(size), np.float32)]
    chosen = np.zeros((longest + 1, len(size)), np.int8)
    for step in range(1, longest + 1):
        live = active[step - 1]
        top, by = np.full(live, -np.inf, np.float32), np.zeros(live, np.int8)
        for n in sorted(weight):
            if n > step:
                break
            reached = best[step - n][:live] + weight[n][start[:live] + (step - n)]
            better = reached > top
            top, by = np.where(better, reached, top), np.where(better, np.int8(n), by)
        best.append(top)
        chosen[step, :live] = by
    return _walk_back(start, size, chosen, number)


def _walk_back(start: np.ndarray, size: np.ndarray, chosen: np.ndarray, number: dict[int, np.ndarray]) -> Cut:
    """Follow the choices from the end of each stretch to its beginning."""
    left, which = size.copy(), np.arange(len(size))
    starts, lengths = [], []
    while len(which):
        n = chosen[left, which]
        left = left - n
        starts.append(start[which] + left)
        lengths.append(n)
        going = left > 0
        left, which = left[going], which[going]
    at = np.concatenate(starts) if starts else np.zeros(0, np.int64)
    length = np.concatenate(lengths) if lengths else np.zeros(0, np.int8)
    order = np.argsort(at)
    at, length = at[order], length[order]
    word = np.full(len(at), -1, np.int64)
    for n, numbers in number.items():
        these = length == n
        word[these] = numbers[at[these]]
    return Cut(at, length, word)


def _stretches(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and size of the stretches between boundaries, none longer than `_LONGEST`."""
    edges = np.diff((text > 0).astype(np.int8), prepend=0, append=0)
    start, end = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    pieces = -(-(end - start) // _LONGEST)
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.repeat(start, pieces) + nth * _LONGEST
    return first, np.minimum(np.repeat(end, pieces) - first, _LONGEST)


def _pack(columns: list[np.ndarray]) -> np.ndarray:
    """Characters four to a 64-bit word: (ceil(n / 4), rows)."""
    packed = np.zeros((-(-len(columns) // 4), len(columns[0])), U)
    for i, column in enumerate(columns):
        packed[i // 4] = packed[i // 4] << U(BITS) | column.astype(U)
    return packed


def _beginnings(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    pair = one.astype(np.uint32) << np.uint32(BITS) | other
    return pair * np.uint32(0x9E3779B1) >> np.uint32(32 - _FILTER)


def _hash(packed: np.ndarray) -> np.ndarray:
    """A 64-bit hash of packed characters, spread over its upper bits."""
    mixed = np.zeros(packed.shape[1], U)
    for word in packed:
        mixed = (mixed ^ word) * U(0x9E3779B97F4A7C15)
        mixed ^= mixed >> U(29)
    return mixed * U(0xBF58476D1CE4E5B9)
