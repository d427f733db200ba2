"""What is mined and what it is held against: corpora cut into shards and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.api import Context, Handle, InputError
from tasks.terms import builtin, dictionary
from tasks.terms.counting import Counting, Windows, count
from tasks.terms.discover import Totals, total
from tasks.terms.readers import Packed, find_files, scan

if TYPE_CHECKING:
    from tasks.terms import TermParams

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["Corpus", "Sources", "read_background", "read_corpus", "sources_of"]


@dataclass(frozen=True)
class Sources:
    """Where a run reads from."""

    corpus: Path
    background: Path | None
    gold: Path | None
    non_terms: Path | None


@dataclass(frozen=True)
class Corpus:
    """A corpus counted: a handle and a digest for each shard, and their totals; ``is_text``: not a word list."""

    shards: tuple[Handle[Windows], ...]
    keys: tuple[str, ...]
    handle: Handle[Totals]
    totals: Totals
    is_text: bool = True

    def map(
        self,
        context: Context,
        function: Callable[[T], R],
        item: Callable[[Handle[Windows]], T],
        name: str,
        salt: str,
    ) -> tuple[Handle[R], ...]:
        """What a function makes of each shard's item, kept for every later run; ``salt``: what else it depends on."""
        shards = dict(zip(self.keys, self.shards, strict=True))  # shards of the same bytes are the same
        keys = {key: hashlib.sha256(f"{key}\n{salt}".encode()).hexdigest() for key in shards}
        made = context.map(function, map(item, shards.values()), name=name, keys=list(keys.values()))
        of_key = dict(zip(shards, made.handles, strict=True))
        return tuple(of_key[key] for key in self.keys)


def sources_of(params: TermParams, context: Context) -> Sources:
    """The paths that a run reads, those of the built-in field where none are given."""

    def given(path: str) -> Path | None:
        return Path(path) if path else None

    if context.data is not None:
        return Sources(context.data, given(params.background), given(params.gold), given(params.non_terms))
    made = builtin.ensure(context.cache)
    return Sources(
        made.corpus,
        given(params.background) or made.background,
        given(params.gold) or made.gold,
        given(params.non_terms),
    )


def read_corpus(params: TermParams, context: Context, path: Path, name: str, sides: bool) -> Corpus:
    """Cut a corpus into shards and count them."""
    files = [Packed(file, context.cache, params.shard_mb << 20) for file in find_files(path)]
    scanned = context.map(scan, files, name=f"{name}-scan")
    # What a resumed trial had unpacked may have been deleted with the cache since.
    there = [found if found.unpacked.exists() else scan(file) for found, file in zip(scanned, files, strict=True)]
    shards = [shard for found in there for shard in found.shards]
    items = [Counting(shard, params.max_length, params.letters, params.text_field, sides) for shard in shards]
    once = {item.key: item for item in items}  # the same bytes twice are counted once, and taken twice
    counted = context.map(count, once.values(), name=f"{name}-count", keys=list(once))
    handles = dict(zip(once, counted.handles, strict=True))
    return _summed(context, name, [item.key for item in items], handles)


def read_background(params: TermParams, context: Context, sources: Sources) -> Corpus:
    """The background counted: a corpus, or jieba's dictionary where none is given."""
    if sources.background is not None:
        counted = read_corpus(params, context, sources.background, "background", sides=False)
        if not counted.totals.size:
            raise InputError(f"params.background={sources.background} holds no characters that are kept: is it empty?")
        return counted
    key = hashlib.sha256(repr(("dictionary", 1, params.max_length, params.letters)).encode()).hexdigest()
    drawn = context.map(
        dictionary.as_background, [(params.max_length, params.letters)], name="background-dictionary", keys=[key]
    )
    return replace(_summed(context, "background", [key], {key: drawn.handles[0]}), is_text=False)


def _summed(context: Context, name: str, keys: Sequence[str], handles: Mapping[str, Handle[Windows]]) -> Corpus:
    shards = tuple(handles[key] for key in keys)
    totals = context.map(total, [shards], name=f"{name}-total")
    return Corpus(shards, tuple(keys), totals.handles[0], totals[0])
