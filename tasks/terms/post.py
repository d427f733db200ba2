"""The post's own method, mended, as what a list of terms is compared with.

Source: Su Jianlin, kexue.fm/archives/6540 and 4256 (nlp-zero): two neighbouring characters hold together if their PMI
is above 0.5 and their probability above 1e-6; the text is cut wherever they do not, the pieces are the words, and a
word is scored by its count against that of the background's words (`contrast.post`), where a word that the background
lacks counts 0 instead of vanishing. Single characters are left out. It holds all words in memory, so it is not run on
much more text than the post's.

>>> text = alphabet.encode("甲乙丙乙，甲乙丁，丙甲乙")
>>> cut(text, np.array([_pair(*alphabet.encode("甲乙"))], np.uint64)) == {"甲乙": 3, "丙": 2, "乙": 1, "丁": 1}
True
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np

from tasks.api import Context, Handle
from tasks.terms import alphabet, contrast, dictionary
from tasks.terms.corpus import Corpus
from tasks.terms.counting import Windows, unscramble
from tasks.terms.discover import Totals

__all__ = [
    "MOST_CHARACTERS",
    "Cutting",
    "Pairs",
    "Ranking",
    "cut",
    "pairs",
    "rank_words",
    "strong",
    "words",
    "words_of",
]

MOST_CHARACTERS = 50_000_000
"""Both corpora together may have so many, or the method is not run."""
_MIN_PMI, _MIN_SHARE = 0.5, 1e-6

Pairs = tuple[np.ndarray, np.ndarray]
"""Unique neighbouring characters, one 30-bit number each, and how often they occur."""


@dataclass(frozen=True)
class Joined:
    """One item: the pairs of all shards, and their totals."""

    pairs: tuple[Handle[Pairs], ...]
    totals: Handle[Totals]


@dataclass(frozen=True)
class Cutting:
    """One item: a shard's text, and the pairs that hold together."""

    shard: Handle[Windows]
    strong: Handle[np.ndarray]


@dataclass(frozen=True)
class Ranking:
    """One item: the words of all shards, those of the background (none: jieba's dictionary), and how many to name."""

    here: tuple[Handle[dict[str, int]], ...]
    there: tuple[Handle[dict[str, int]], ...]
    most: int


def words_of(context: Context, corpus: Corpus, background: Corpus, most: int) -> list[str] | None:
    """What the method ranks first; None where there is too much text for it."""
    sources = [("corpus", corpus), ("background", background)]
    if sum(source.totals.size for _, source in sources if source.is_text) > MOST_CHARACTERS:
        return None
    found: list[tuple[Handle[dict[str, int]], ...]] = []
    for name, source in sources:
        if not source.is_text:
            found.append(())
            continue
        digest = hashlib.sha256("\n".join(("1", *source.keys)).encode()).hexdigest()
        counted = source.map(context, pairs, lambda shard: shard, f"post-{name}-pairs", "pairs")
        joined = [Joined(counted, source.handle)]
        held = context.map(strong, joined, name=f"post-{name}-strong", keys=[digest]).handles[0]
        found.append(source.map(context, words, partial(Cutting, strong=held), f"post-{name}-words", digest))
    return context.map(rank_words, [Ranking(found[0], found[1], most)], name="post-rank")[0]


def pairs(shard: Handle[Windows]) -> Pairs:
    """The pairs of a shard: its windows are sorted by them."""
    scrambled = shard.load().words[0] >> np.uint64(2 * alphabet.BITS)
    starts = np.flatnonzero(np.append(True, scrambled[1:] != scrambled[:-1])[: len(scrambled)])
    return unscramble(scrambled[starts]), np.diff(starts, append=len(scrambled))


def strong(item: Joined) -> np.ndarray:
    """The pairs that hold together, sorted."""
    totals = item.totals.load()
    parts = [handle.load() for handle in item.pairs]
    pair, where = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    share = np.bincount(where, np.concatenate([part[1] for part in parts])) / max(totals.places[2], 1)
    single = totals.singles / max(totals.size, 1)
    by_chance = single[pair >> np.uint64(alphabet.BITS)] * single[pair & np.uint64(alphabet.MASK)]
    return pair[(share > _MIN_SHARE) & (np.log(share / by_chance) > _MIN_PMI)]


def words(item: Cutting) -> dict[str, int]:
    """The words of a shard and how often each occurs."""
    return cut(np.asarray(item.shard.load().codes), item.strong.load())


def cut(text: np.ndarray, held: np.ndarray) -> dict[str, int]:
    """Cut a text's codes wherever two characters do not hold together, and count the pieces."""
    live = text > 0
    joined = np.zeros(len(text), bool)
    if len(held) and len(text):
        pair = _pair(text[:-1], text[1:])
        joined[1:] = live[1:] & live[:-1] & (held[np.minimum(np.searchsorted(held, pair), len(held) - 1)] == pair)
    # A space before each piece; boundaries are spaces already.
    spread = np.repeat(text, 1 + (live & ~joined))
    spread[np.flatnonzero(live & ~joined) + np.arange((live & ~joined).sum())] = 0
    return dict(Counter(alphabet.decode(spread).split()))


def rank_words(item: Ranking) -> list[str]:
    """All words of more than one character, best first."""
    here: Counter[str] = Counter()
    for handle in item.here:
        here.update(handle.load())
    there: Counter[str] = Counter()
    for handle in item.there:
        there.update(handle.load())
    if not item.there:
        there.update(dictionary.words())
    size, background_size = sum(here.values()), sum(there.values())
    listed = sorted(word for word, times in here.items() if len(word) > 1 and times > _MIN_SHARE * size)
    count = np.array([here[word] for word in listed], np.float64)
    background = np.array([there[word] for word in listed], np.float64)
    score = contrast.post(count, background, size, background_size)
    return [listed[row] for row in np.argsort(-score, kind="stable")[: item.most]]


def _pair(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(one, np.uint64) << np.uint64(alphabet.BITS) | np.asarray(other, np.uint64)
