"""Sentences whose terms are masked: which terms stood there?

The terms are a list, or what the terms task found (``terms.tsv``); the most frequent of them are the labels. A sentence
with some of them has each replaced by one sign, whatever its length, so that only the company they keep tells which
they were. Documents (lines) are divided between the parts, never the sentences of one.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tasks.api import Context, InputError
from tasks.multilabel.problem import Part, Problem
from tasks.terms import builtin
from tasks.terms.readers import Packed, find_files, read, scan

if TYPE_CHECKING:
    from tasks.multilabel import MultilabelParams

__all__ = ["Finder", "check_files", "make_sentences", "read_terms"]

MASK = "□"
_ENDS = re.compile(r"[。！？；!?;\n]")
_SHORTEST, _LONGEST = 8, 120  # characters of a sentence
_BUCKETS = 1 << 13  # of n-grams


def check_files(corpus: Path | None, terms: str) -> None:
    """Raise `InputError` unless there is a corpus with a list of terms, or neither (the built-in field)."""
    if corpus is None and terms:
        raise InputError(f"params.terms={terms} needs the corpus that they are in: give data=FILE or data=FOLDER")
    if corpus is not None and not terms:
        raise InputError(f"data={corpus} needs params.terms=LIST: one a line, or the terms.tsv of a run of terms")
    if corpus is not None:
        find_files(corpus)
        read_terms(Path(terms))


def read_terms(path: Path) -> list[str]:
    """Terms of two characters or more: the column ``term`` of a table, or a line each; each once, in order."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"params.terms={path} cannot be read as UTF-8 text: {error}") from error
    column = 0
    if lines and "term" in (head := lines[0].split("\t")):
        column, lines = head.index("term"), lines[1:]
    cells = [line.split("\t") for line in lines]
    terms = dict.fromkeys(row[column].strip() for row in cells if len(row) > column)
    if not (kept := [term for term in terms if len(term) > 1]):
        raise InputError(f"params.terms={path} holds no term of two characters or more")
    return kept


class Finder:
    """Finds all terms in a sentence, those within others too."""

    def __init__(self, terms: Sequence[str]) -> None:
        self._number = {term: i for i, term in enumerate(terms)}
        self._lengths = sorted({len(term) for term in terms})

    def find(self, sentence: str) -> Iterator[tuple[int, int, int]]:
        """``(term, start, end)``, by start."""
        for start in range(len(sentence)):
            for length in self._lengths:
                if (term := self._number.get(sentence[start : start + length])) is not None:
                    yield term, start, start + length

    def mask(self, sentence: str) -> tuple[str, set[int]]:
        """The sentence with a sign for each stretch that terms cover, and which terms they are."""
        kept, terms, after = [], set(), 0
        for term, start, end in self.find(sentence):
            if start >= after:
                kept += [sentence[after:start], MASK]
            after = max(after, end)
            terms.add(term)
        return "".join([*kept, sentence[after:]]), terms


def make_sentences(params: MultilabelParams, context: Context) -> Problem:
    """Masked sentences, divided by the context's seed, and a bag of n-grams with one hidden layer."""
    if context.data is None:
        made = builtin.ensure(context.cache)
        documents, terms = _documents(made.corpus, context.cache), read_terms(made.gold)
    else:
        documents, terms = _documents(context.data, context.cache), read_terms(Path(params.terms))
    rows, labels = _masked(documents, terms, params.labels)
    of = np.array([document for document, _, _ in rows])
    parts = _divided(of, params.train_rows, params.held_rows, np.random.default_rng(context.seed))
    encoded = _encoded([sentence for _, sentence, _ in rows])
    holds = np.zeros((len(rows), labels), bool)
    for i, (_, _, found) in enumerate(rows):
        holds[i, list(found)] = True
    train, val, test = (Part(torch.from_numpy(encoded[p]), torch.from_numpy(holds[p])) for p in parts)
    model = nn.Sequential(
        nn.EmbeddingBag(_BUCKETS + 1, params.hidden, mode="mean", padding_idx=0),
        nn.LayerNorm(params.hidden), nn.GELU(), nn.Linear(params.hidden, labels),
    )  # fmt: skip
    return Problem(train, val, test, model)


def _documents(corpus: Path, cache: Path) -> Iterator[list[str]]:
    """The sentences of each document, each sentence of the corpus once."""
    seen: set[str] = set()
    for file in find_files(corpus):
        for shard in scan(Packed(file, cache, 16 << 20)).shards:
            for line in read(shard)[0].split("\n"):
                sentences = [piece.strip() for piece in _ENDS.split(line)]
                fresh = [s for s in dict.fromkeys(sentences) if _SHORTEST <= len(s) <= _LONGEST and s not in seen]
                seen.update(fresh)
                if fresh:
                    yield fresh


def _masked(
    documents: Iterator[list[str]], terms: Sequence[str], most: int
) -> tuple[list[tuple[int, str, set[int]]], int]:
    """``(document, masked sentence, labels)`` of each sentence with a label; labels are the most frequent terms."""
    finder, times = Finder(terms), Counter[int]()
    candidates = []
    for number, sentences in enumerate(documents):
        for sentence in sentences:
            if found := {term for term, _, _ in finder.find(sentence)}:
                times.update(found)
                candidates.append((number, sentence))
    chosen = sorted(times, key=lambda term: (-times[term], term))[:most]
    if len(chosen) < 2:
        raise InputError(f"{len(chosen)} of the terms are in the corpus: at least 2 are needed as labels")
    finder = Finder([terms[term] for term in chosen])
    masked = ((number, *finder.mask(sentence)) for number, sentence in candidates)
    return [row for row in masked if row[2]], len(chosen)


def _divided(of: np.ndarray, train: int, held: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Rows to train on, to choose by and to report on; a document's rows, ``of`` it, are all in one part."""
    _, document = np.unique(of, return_inverse=True)
    if document.max() < 2:
        raise InputError("all sentences with terms are of one or two documents (lines): three parts need three")
    fraction = min(1.0, len(of) / (train + 2 * held))
    test_ends, val_ends = held * fraction, 2 * held * fraction
    order = rng.permutation(document.max() + 1)
    sizes = np.bincount(document)[order]
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # rows before each document
    part_of = np.empty(len(order), int)
    part_of[order] = np.where(begins < test_ends, 2, np.where(begins < val_ends, 1, 0))
    parts = [np.flatnonzero(part_of[document] == k) for k in range(3)]
    if any(len(part) == 0 for part in parts):
        raise InputError("the documents (lines) are too few or too unequal to be divided into three parts")
    kept = (rng.permutation(part)[:most] for part, most in zip(parts, (train, held, held), strict=True))
    return tuple(np.sort(part) for part in kept)


def _encoded(sentences: Sequence[str]) -> np.ndarray:
    """Buckets (rows, as many as needed) of each sentence's characters and pairs of them, from 1 on; 0 is padding."""
    grams = [[*s, *(s[i : i + 2] for i in range(len(s) - 1))] for s in sentences]
    bucket = {gram: zlib.crc32(gram.encode()) % _BUCKETS + 1 for gram in {g for row in grams for g in row}}
    rows = np.zeros((len(sentences), max(map(len, grams))), np.int64)
    for row, present in zip(rows, grams, strict=True):
        row[: len(present)] = [bucket[gram] for gram in present]
    return rows
