"""From a corpus to a list of terms: the maps, in order, and what is done between them.

scan (files) → count (shards) → total → merge (buckets) → candidates (buckets) → gather → use (shards) → train → score.
What is heavy is done in the maps; this module only decides, and ranks the candidates. The counts of a shard depend on
its bytes alone and are kept for every later run: one with other thresholds, or with a file more, finds them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.api import Context, Handle, InputError
from tasks.terms import dictionary, rank
from tasks.terms.corpus import Corpus, read_background, read_corpus, sources_of
from tasks.terms.discover import Bucket, Candidates, Cohesion, Wanted, candidates, gather, merge
from tasks.terms.measure import measure
from tasks.terms.output import Listed, write
from tasks.terms.post import words_of
from tasks.terms.prefixes import Level
from tasks.terms.score import Used, score
from tasks.terms.vectors import Embedding, Reading, train, use

if TYPE_CHECKING:
    from tasks.terms import TermParams

__all__ = ["discover", "grow_trees", "mine"]

Trees = tuple[Handle[list[Level]], ...]
_POSITION_BYTES, _WORD_BYTES = 64, 21  # memory that merging takes for a position, and for each word of its window
_CACHED_POSITIONS = 400_000  # of so many, what is sorted fits into a processor's cache
_MOST_BUCKETS = 64  # for speed alone: each asks all others for its endings


def mine(params: TermParams, context: Context) -> Mapping[str, float]:
    """Mine a corpus for its terms; returns the metrics and leaves the list, a dictionary and figures as artifacts."""
    sources = sources_of(params, context)
    corpus = read_corpus(params, context, sources.corpus, "corpus", sides=True)
    if not corpus.totals.size:
        raise InputError(_nothing_kept(params, sources.corpus, corpus.totals.broken))
    background = read_background(params, context, sources)
    trees = grow_trees(params, context, corpus, background)
    handle, found = discover(context, corpus, trees, Wanted(params.min_entropy, params.min_pmi))
    if not len(found):
        raise InputError(
            f"{sources.corpus}: of its {corpus.totals.size:,} characters no string passes as a word: "
            f"lower params.min_count={params.min_count}, min_pmi={params.min_pmi} or min_entropy={params.min_entropy}"
        )
    used = _use(params, context, corpus, handle, len(found))
    scores = score(params, found, used, corpus.totals, background.totals)
    best = rank.best(scores, params.terms)
    terms = found.take(best)
    texts = terms.texts()
    known = dictionary.known(texts)
    listed = Listed(texts, terms, scores[best], used.as_word[best], known, used.vectors[best])
    baseline = words_of(context, corpus, background, params.terms) if sources.gold else None
    metrics, curves = measure(params, context, sources, corpus, background, listed, baseline)
    write(context, listed, curves)
    return {
        **metrics,
        "corpus/characters": float(corpus.totals.size),
        "corpus/lines": float(corpus.totals.lines),
        "corpus/broken_lines": float(corpus.totals.broken),
        "corpus/shards": float(len(corpus.shards)),
        "background/characters": float(background.totals.size),
        "candidates": float(len(found)),
        "terms": float(len(listed)),
        "terms/new": float(1 - known.mean()),
    }


def grow_trees(params: TermParams, context: Context, corpus: Corpus, background: Corpus) -> Trees:
    """The trees of all buckets; kept in the cache for whoever merges the same counts."""
    buckets = params.buckets or _buckets(corpus.totals.positions, params.max_length, params.memory_mb)
    items = [
        Bucket(bucket, buckets, corpus.shards, background.shards, params.min_count, params.max_length)
        for bucket in range(buckets)
    ]
    parts = ("1", *corpus.keys, "", *background.keys, str(params.min_count), str(params.max_length), str(buckets))
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return tuple(context.map(merge, items, name="merge", keys=[f"{digest}-{b}" for b in range(buckets)]).handles)


def discover(context: Context, corpus: Corpus, trees: Trees, wanted: Wanted) -> tuple[Handle[Candidates], Candidates]:
    """The strings that may be words, with their counts in both corpora: where they are, and what they are."""
    items = [Cohesion(bucket, trees, corpus.handle, wanted) for bucket in range(len(trees))]
    parts = tuple(context.map(candidates, items, name="candidates").handles)
    gathered = context.map(gather, [parts], name="gather")
    return gathered.handles[0], gathered[0]


def _buckets(positions: int, max_length: int, memory_mb: int) -> int:
    """As many as keep one merge within its memory, or within a processor's cache if these are not too many."""
    size = _POSITION_BYTES + _WORD_BYTES * math.ceil(max_length / 4)
    needed = math.ceil(positions * size / (memory_mb << 20))
    return max(1, needed, min(_MOST_BUCKETS, math.ceil(positions / _CACHED_POSITIONS)))


def _nothing_kept(params: TermParams, path: Path, broken: int) -> str:
    kept = "Chinese characters, letters or digits" if params.letters else "Chinese characters"
    hints = [] if params.letters else ["params.letters=true keeps letters and digits too"]
    if broken:
        hints.append(f"{broken:,} lines could not be read; of .jsonl, params.text_field={params.text_field} is read")
    return f"{path} holds no {kept}" + (f" ({'; '.join(hints)})" if hints else "")


def _use(params: TermParams, context: Context, corpus: Corpus, words: Handle[Candidates], number: int) -> Used:
    """Segment the corpus into the candidates and see how they are used."""
    with_vectors = params.ranking in ("views", "growth")
    readings = [Reading(shard, words, corpus.handle, with_vectors) for shard in corpus.shards]
    usage = context.map(use, readings, name="use")
    as_word, alone = np.zeros(number, np.int64), np.zeros(len(corpus.totals.singles), np.int64)
    for shard in usage:
        as_word, alone = as_word + shard.words, alone + shard.alone
    if not with_vectors:
        return Used(as_word, alone, np.zeros((number, 1), np.float32))
    items = [Embedding(tuple(usage.handles), params.dimensions)]
    return Used(as_word, alone, context.map(train, items, name="train")[0])
