"""How good a list of terms is: against a list of true terms, or, where there is none, against the corpus itself.

With a gold list: precision of the first k terms and recall of the gold terms that occur at least five times. A gold
list is never complete, so precision is a lower bound.

Without one: the share of the first k terms that are confirmed, which means that each half of the documents, taken
alone, uses it e times as often as the background and beyond chance (G² test at the 0.1 % level; after the domain
consensus of Navigli and Velardi, 2004), and that it consists of whole words of jieba's dictionary. The first fails for
general words and for one document's own, the second for fragments. Neither is known to the ranking. Over random
rankings of two corpora with gold lists the rank correlation of this share with precision was 0.5 and 0.7; that of
consensus alone was 0.3 and −0.5.

>>> wilson(8, 10)[0] < 0.8 < wilson(8, 10)[1]
True
>>> [round(end, 4) for end in difference((56, 70), (48, 80))]  # the example of Newcombe (1998), method 10
[0.0524, 0.3339]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.api import Handle, InputError
from tasks.terms import alphabet, dictionary
from tasks.terms.contrast import ratio, surprise
from tasks.terms.counting import Windows
from tasks.terms.discover import Candidates
from tasks.terms.segment import beginnings_of, locate, vocabulary

__all__ = ["Gold", "Sought", "as_codes", "confirmed", "difference", "is_whole", "occurrences", "read_list", "wilson"]

_Z = 1.959963984540054  # 97.5 % point of the normal distribution
_ENOUGH = 5  # occurrences of a gold term that could have been found


@dataclass(frozen=True)
class Gold:
    """A gold list against a corpus: the terms in it, and how many of them occur often enough to be found."""

    terms: frozenset[str]
    findable: frozenset[str]

    @staticmethod
    def of(terms: list[str], counts: np.ndarray) -> Gold:
        """From each term's number of occurrences."""
        often = frozenset(term for term, times in zip(terms, counts.tolist(), strict=True) if times >= _ENOUGH)
        return Gold(frozenset(terms), often)

    def curves(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each k, how many of the first k texts are gold, and how many of these can be found: (texts,) each."""
        hits = np.cumsum([text in self.terms for text in texts])
        return hits, np.cumsum([text in self.findable for text in texts])


@dataclass(frozen=True)
class Sought:
    """One item: a shard's text, and words to count in it."""

    shard: Handle[Windows]
    words: Handle[tuple[np.ndarray, np.ndarray]]


def read_list(path: Path, letters: bool, option: str) -> list[str]:
    """A list of terms, one a line, written as the corpus is; blank lines and repeats left out.

    Raises `InputError` if the file is missing, is no text or has no term.
    """
    if not path.is_file():
        raise InputError(f"{option}={path}: there is no such file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError as error:
            raise InputError(f"{option}={path} is neither UTF-8 nor GB18030 text ({error})") from error
    lines = (alphabet.decode(alphabet.encode(line.strip(), letters)) for line in text.splitlines())
    # A line of which a part is not kept can be nothing that is found; it stays in the list, and is never met.
    terms = list(dict.fromkeys(line for line in lines if line.strip()))
    if not terms:
        raise InputError(f"{option}={path} has no term: one a line is expected")
    return terms


def as_codes(terms: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Terms as codes (terms, longest), and their lengths."""
    length = np.array([len(term) for term in terms])
    codes = np.zeros((len(terms), int(length.max())), np.uint16)
    for row, term in enumerate(terms):
        codes[row, : len(term)] = alphabet.encode(term, letters=True)
    return codes, length


def occurrences(item: Sought) -> np.ndarray:
    """How often each word occurs in a shard, at any place: (words,)."""
    text = np.asarray(item.shard.load().codes)
    codes, length = item.words.load()
    counts = np.zeros(len(length), np.int64)
    beginnings = beginnings_of(text)
    for n, words in vocabulary(codes, length, np.zeros(len(length))).lengths.items():
        _, which = locate(text, words, n, beginnings)
        counts += np.bincount(which, minlength=len(counts))
    return counts


def confirmed(found: Candidates, half: float, size: float, background_size: float) -> np.ndarray:
    """Which candidates are confirmed; ``half``: characters in the first half of the documents."""
    sure = np.array([is_whole(text) for text in found.texts()], bool)
    for count, part in ((found.half, half), (found.count - found.half, size - half)):
        sure &= surprise(count, found.background, part, background_size)
        sure &= ratio(count, found.background, part, background_size) > 1
    return sure


def is_whole(text: str) -> bool:
    """Whether a text is a row of words of the dictionary, none of them a single character.

    >>> is_whole("电力系统"), is_whole("电网电压"), is_whole("的电压")
    (True, True, False)
    """
    known = dictionary.words()
    whole = [True] + [False] * len(text)  # of the first so many characters
    for end in range(2, len(text) + 1):
        whole[end] = any(whole[start] and text[start:end] in known for start in range(end - 1))
    return whole[-1]


def wilson(hits: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927)."""
    if n <= 0:
        return 0.0, 1.0
    share, spread = hits / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / n + spread / n / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """95 % interval of the difference of two proportions, each as hits and number (Newcombe 1998, method 10)."""
    (low, high), (low_other, high_other) = wilson(*one), wilson(*other)
    p, q = one[0] / one[1], other[0] / other[1]
    return (
        p - q - math.hypot(p - low, high_other - q),
        p - q + math.hypot(high - p, q - low_other),
    )
