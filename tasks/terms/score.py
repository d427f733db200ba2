"""One number for each candidate, the larger the more of a term, by whichever ranking is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.terms import contrast, rank
from tasks.terms.discover import Candidates, Totals
from tasks.terms.segment import Vocabulary
from tasks.terms.vectors import known_words

if TYPE_CHECKING:
    from tasks.terms import TermParams

__all__ = ["Used", "score"]


@dataclass(frozen=True)
class Used:
    """How the candidates are used in the segmented corpus, `vectors.Usage` of all shards together.

    as_word: (candidates,); alone: (characters,); vectors: (candidates, dimensions)
    """

    as_word: np.ndarray
    alone: np.ndarray
    vectors: np.ndarray


def score(params: TermParams, found: Candidates, used: Used, here: Totals, there: Totals) -> np.ndarray:
    """The score of each candidate, none above a longer one that it is mostly a piece of: (candidates,)."""
    words = known_words(found, here.singles)
    return rank.demote(_score(params, found, used, here, there, words), found, words, params.nested)


def _score(
    params: TermParams, found: Candidates, used: Used, here: Totals, there: Totals, words: Vocabulary
) -> np.ndarray:
    own = contrast.SCORES[params.contrast](found.count, found.background, here.size, there.size)
    if params.ranking == "wordhood":
        return rank.wordhood(found)
    if params.ranking == "contrast":
        return rank.percentile(own)
    if params.ranking == "c_value":
        return rank.percentile(rank.c_value(found, words)) * rank.percentile(own)
    ratios = contrast.ratio(here.singles, there.singles, here.size, there.size)
    views = {
        "contrast": own,
        "composition": rank.composition(found, ratios),
        "form": rank.form(found, used.alone, here.singles),
    }
    weights = {name: getattr(params, f"weight_{name}") for name in (*views, "context")}
    seeds = rank.best(rank.blend(views, weights), params.seeds)
    if params.ranking == "growth":
        grown = rank.growth(used.vectors, seeds) >= 0
        return (rank.percentile(own) + grown) / 2  # what is not reached comes last
    return rank.blend({**views, "context": rank.context(used.vectors, seeds)}, weights)
