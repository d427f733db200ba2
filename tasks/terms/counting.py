"""A shard's n-grams of every length at once: one window a position, sorted.

All n-grams that begin at a position are prefixes of the window of ``max_length`` characters that begins there. So a
shard is counted by listing its windows, packed four characters to a 64-bit word, and sorting them: equal n-grams lie
together, for every n at the same time. With the characters to the left and right, boundary entropies come out of the
same list. Nothing else about n-grams is stored, and nothing of it needs to be known of other shards.

The sort key is the first word, in which the first two characters are scrambled (a bijection on 30 bits). Its upper
bits are then spread evenly, so any number of equal ranges of them (buckets) cuts every shard's list alike, and a
bucket of a list is found by bisection.

>>> from tasks.terms.alphabet import encode
>>> windows = count_codes(encode("电压电流电压"), max_length=4)
>>> first = unscramble(windows.words[0] >> np.uint64(30))      # pairs of characters, one a position
>>> sorted(chr(0x4E00 - 1 + int(pair >> 15)) + chr(0x4E00 - 1 + int(pair & 32767)) for pair in first)
['压电', '流电', '电压', '电压', '电流']
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.terms import alphabet
from tasks.terms.readers import Shard, read

__all__ = ["Counting", "Windows", "bucket_of", "bucket_start", "count", "count_codes", "scramble", "unscramble"]

U = np.uint64
_BITS = U(alphabet.BITS)
_PAIR = 2 * alphabet.BITS
_PAIRS = 1 << _PAIR
_ODD = 0x2545F491  # any odd factor is a bijection modulo a power of two; this one spreads the bits well
_BACK = pow(_ODD, -1, _PAIRS)
_VERSION = 2  # of what is stored: change it and every shard is counted anew


@dataclass(frozen=True)
class Counting:
    """One item of the count: a shard and how to count it. ``sides`` keeps what a background need not have."""

    shard: Shard
    max_length: int
    letters: bool
    text_field: str
    sides: bool

    @property
    def key(self) -> str:
        """Digest of all that the result depends on: not the file's name or place, nor how many shards there are."""
        shard = self.shard
        parts = (
            _VERSION,
            shard.digest,
            shard.start,
            shard.encoding,
            shard.jsonl,
            self.text_field if shard.jsonl else "",
        )
        return hashlib.sha256(repr((*parts, self.max_length, self.letters, self.sides)).encode()).hexdigest()


@dataclass(frozen=True)
class Windows:
    """A shard counted.

    words: ``ceil(max_length / 4)`` arrays (positions,) uint64, sorted by the first; a window ends before a boundary,
        what follows is 0
    sides: (positions,) uint32: the character before the window, the one behind it, and which half of the documents
    codes: (characters,) uint16, the text itself; empty if it is weighted
    singles: (alphabet.SIZE,) int64, how often each character occurs
    places: (max_length + 1,) int64, how many n-grams there are of each length
    weight: (positions,) int64, how often each window counts; empty if once
    half: characters in the first half of the documents; lines; broken (lines that do not decode)
    """

    words: tuple[np.ndarray, ...]
    sides: np.ndarray
    codes: np.ndarray
    singles: np.ndarray
    places: np.ndarray
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    half: int = 0
    lines: int = 0
    broken: int = 0


def count(item: Counting) -> Windows:
    """Count a shard."""
    text, offsets, broken = read(item.shard, item.text_field)
    units = alphabet.units(text)
    del text
    codes = alphabet.encode(units, item.letters)
    halves = _halves(units, offsets) if item.sides else None
    found = count_codes(codes, item.max_length, halves, item.sides)
    half = int(halves[codes > 0].sum()) if halves is not None else 0
    return replace(found, half=half, lines=len(offsets), broken=broken)


def count_codes(
    codes: np.ndarray,
    max_length: int,
    halves: np.ndarray | None = None,
    sides: bool = True,
    weight: np.ndarray | None = None,
) -> Windows:
    """The sorted windows of a text's codes; for each character which half of the documents it is in, and its weight."""
    size, room = len(codes), 4 * -(-max_length // 4)
    padded = np.zeros(size + room + 1, np.uint32)
    padded[:size] = codes
    pairs = padded[:-1] << np.uint32(alphabet.BITS) | padded[1:]
    run = _run_lengths(codes, max_length)
    places = np.bincount(run, minlength=max_length + 1)[::-1].cumsum()[::-1]  # a run of r: one n-gram of each n ≤ r
    places[0] = 0
    at = np.flatnonzero(run >= 2)
    run = run[at]
    words = []
    for first in range(0, room, 4):
        word = pairs[at + first].astype(U) << U(_PAIR) | pairs[at + first + 2]
        words.append(word & _live(first, max_length)[run])
    words[0] = scramble(words[0] >> U(_PAIR)) << U(_PAIR) | words[0] & U(_PAIRS - 1)
    order = np.argsort(words[0])
    around = np.zeros(0, np.uint32)
    if sides:
        before = np.concatenate([np.zeros(1, np.uint32), padded[: size - 1]]) if size else padded[:0]
        behind = np.where(run == max_length, padded[at + max_length], 0).astype(np.uint32)
        around = before[at] << np.uint32(alphabet.BITS) | behind
        if halves is not None:
            around |= halves[at].astype(np.uint32) << np.uint32(_PAIR)
        around = around[order]
    singles = np.bincount(codes, weight, alphabet.SIZE).astype(np.int64)
    singles[0] = 0
    weight = np.zeros(0, np.int64) if weight is None else weight[at][order]
    kept = codes[:0] if len(weight) else codes  # of a text that counts otherwise than it reads nothing can be read
    return Windows(tuple(word[order] for word in words), around, kept, singles, places, weight)


def scramble(pair: np.ndarray) -> np.ndarray:
    """A bijection of 30-bit numbers that spreads neighbours over the whole range.

    >>> pairs = np.array([0, 1, 2**30 - 1], np.uint64)
    >>> unscramble(scramble(pairs)).tolist() == pairs.tolist()
    True
    """
    # The low bits of a product know nothing of the high bits of its factor, so these are mixed in before and after.
    mixed = pair ^ pair >> U(15)
    mixed = mixed * U(_ODD) & U(_PAIRS - 1)
    return mixed ^ mixed >> U(15)


def unscramble(mixed: np.ndarray) -> np.ndarray:
    """The inverse of `scramble`."""
    pair = mixed ^ mixed >> U(15)  # a shift by half the bits undoes itself
    pair = pair * U(_BACK) & U(_PAIRS - 1)
    return pair ^ pair >> U(15)


def bucket_of(scrambled: np.ndarray, buckets: int) -> np.ndarray:
    """Which of so many buckets a scrambled pair falls into."""
    return (scrambled * U(buckets) >> U(_PAIR)).astype(np.int64)


def bucket_start(bucket: int, buckets: int) -> int:
    """The smallest scrambled pair of a bucket; of the bucket after the last, one more than the largest."""
    return -(-bucket * _PAIRS // buckets)


def _run_lengths(codes: np.ndarray, at_most: int) -> np.ndarray:
    """For each position, how many characters follow before a boundary, itself included, up to ``at_most``."""
    run = np.zeros(len(codes) + 1, np.int8)
    live = (codes > 0).astype(np.int8)
    for _ in range(at_most):  # the run of a character is one more than that of the next
        run[:-1] = (run[1:] + 1) * live
    return np.minimum(run[:-1], at_most)


def _live(first: int, max_length: int) -> np.ndarray:
    """Masks of a word that holds characters ``first`` to ``first + 3``, by length of the run."""
    masks = []
    for run in range(max_length + 1):
        kept = min(max(run - first, 0), 4)
        masks.append(((1 << alphabet.BITS * kept) - 1) << alphabet.BITS * (4 - kept))
    return np.array(masks, U)


def _halves(units: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which half of the documents each UTF-16 unit of a text belongs to: (units,) 0 or 1.

    A line's coin is tossed by where it stands in its file and by its length, so it falls alike in any shard.
    """
    lengths = np.diff(np.flatnonzero(units == 10), prepend=-1)
    mixed = (offsets.astype(U) + U(1)) * U(0x9E3779B97F4A7C15) + lengths.astype(U)
    mixed = (mixed ^ mixed >> U(31)) * U(0xBF58476D1CE4E5B9)
    coins = (mixed >> U(40) & U(1)).astype(np.uint8)
    return np.repeat(coins, lengths)
