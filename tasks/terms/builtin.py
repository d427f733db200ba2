"""A generated field with a known answer: sentences of jieba's dictionary, and terms planted among them.

General words are drawn by their frequency in the dictionary, so the commonest characters, particles and verbs are as
common here as in Chinese. Terms are of two kinds: rare words of the dictionary, and new ones, made of two rare words;
they share some of their parts, as the terms of a field do, and stand together in the sentences of their field. The
background is drawn alike, without terms.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     made = ensure(Path(folder))
...     corpus, gold = made.corpus.read_text(), made.gold.read_text().split()
>>> len(gold), all(corpus.count(term) >= 5 for term in gold)
(100, True)
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.terms import dictionary

__all__ = ["Made", "ensure"]

_TERMS, _PARTS = 100, 40
_SENTENCES, _BACKGROUND = 4000, 8000
_WORDS = 9  # general words in a sentence
_VERSION = 1


@dataclass(frozen=True)
class Made:
    """The files of the built-in field."""

    corpus: Path
    background: Path
    gold: Path


def ensure(cache: Path) -> Made:
    """The files, made if they are not there: all of them or none, whoever else makes them at the same time."""
    folder = cache / "terms" / f"builtin-{_VERSION}"
    made = Made(folder / "corpus.txt", folder / "background.txt", folder / "gold.txt")
    if folder.exists():
        return made
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        for name, lines in _draw().items():
            (partial / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        os.rename(partial, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _draw() -> dict[str, list[str]]:
    rng = np.random.default_rng(6540)
    # The commonest 3,000 words of general Chinese, and the rarest thousand of the 40,000 commonest.
    ranked = sorted(dictionary.words().items(), key=lambda item: (-item[1], item[0]))
    ranked = [(word, times) for word, times in ranked if all("一" <= sign <= "龥" for sign in word)]
    general = [word for word, _ in ranked[:3000]]
    weight = np.array([times for _, times in ranked[:3000]], float)
    weight /= weight.sum()
    rare = [word for word, _ in ranked[20_000:40_000] if len(word) == 2]
    parts = [rare[i] for i in rng.choice(len(rare), _PARTS, replace=False)]
    terms = parts[: _TERMS // 4]
    while len(terms) < _TERMS:
        one, other = rng.choice(_PARTS, 2, replace=False)
        term = parts[one] + parts[other][: int(rng.integers(1, 3))]
        if term not in terms and term not in dictionary.words():
            terms.append(term)
    chance = 1 / np.arange(2, _TERMS + 2) ** 0.6
    rng.shuffle(chance)
    return {
        "corpus": _sentences(rng, general, weight, _SENTENCES, terms, chance / chance.sum()),
        "background": _sentences(rng, general, weight, _BACKGROUND, [], chance),
        "gold": terms,
    }


def _sentences(
    rng: np.random.Generator, general: list[str], weight: np.ndarray, number: int, terms: list[str], chance: np.ndarray
) -> list[str]:
    """Sentences of general words; every second one holds two or three terms."""
    lines = []
    for words in rng.choice(len(general), (number, _WORDS), p=weight):
        sentence = [general[word] for word in words]
        if terms and rng.random() < 0.5:
            for term in rng.choice(len(terms), int(rng.integers(2, 4)), replace=False, p=chance):
                sentence.insert(int(rng.integers(len(sentence) + 1)), terms[term])
        sentence.insert(len(sentence) // 2, "，")
        lines.append("".join(sentence) + "。")
    return lines
