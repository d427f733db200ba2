"""The metrics of a list of terms, by its length: what `judge` says of it, reported and named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.api import Context
from tasks.terms import STEPS, judge
from tasks.terms.corpus import Corpus, Sources
from tasks.terms.output import Listed

if TYPE_CHECKING:
    from tasks.terms import TermParams

__all__ = ["measure"]

_RATED = ("confirmed", "precision", "baseline")  # shares that have an interval


def measure(
    params: TermParams,
    context: Context,
    sources: Sources,
    corpus: Corpus,
    background: Corpus,
    listed: Listed,
    baseline: list[str] | None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of the list, reported by k on the way; and the curves, a share for each k, to be drawn."""
    sure = judge.confirmed(listed.found, corpus.totals.half, corpus.totals.size, background.totals.size)
    hits = {"confirmed": np.cumsum(sure)}
    if sources.non_terms is not None:
        wrong = frozenset(judge.read_list(sources.non_terms, params.letters, "params.non_terms"))
        hits["non_terms"] = np.cumsum([text in wrong for text in listed.texts])
    first = min(params.judged, len(listed))
    gold = _gold(params, context, sources, corpus)
    recall = None
    metrics: dict[str, float] = {}
    if gold is not None:
        first = min(first, len(gold.terms))
        hits["precision"], found = gold.curves(listed.texts)
        if baseline:
            hits["baseline"] = _padded(gold.curves(baseline)[0], len(listed))
        recall = found / max(len(gold.findable), 1)
        metrics = _of_gold(gold, listed, first, recall)
    curves = {name: of_first / np.arange(1, len(listed) + 1) for name, of_first in hits.items()}
    if recall is not None:
        curves["recall"] = recall
    for k in [*(k for k in STEPS if k < len(listed)), len(listed)]:
        context.report(k, **{f"curve/{name}": float(curve[k - 1]) for name, curve in curves.items()})
    for name, curve in curves.items():
        longest = STEPS[-1] if name == "recall" else len(curve)  # a list that has ended recalls no more
        metrics |= {f"{name}/at_{k}": float(curve[min(k, len(curve)) - 1]) for k in STEPS if k <= longest}
    for name in filter(hits.__contains__, _RATED):
        low, high = judge.wilson(hits[name][first - 1], first)
        metrics |= {name: float(curves[name][first - 1]), f"{name}_low": low, f"{name}_high": high}
    return metrics | {"judged": float(first)}, curves


def _of_gold(gold: judge.Gold, listed: Listed, first: int, recall: np.ndarray) -> dict[str, float]:
    right = np.array([text in gold.terms for text in listed.texts[:first]])
    new = ~listed.known[:first]
    return {
        "gold/terms": float(len(gold.terms)),
        "gold/findable": float(len(gold.findable)),
        "precision/new": float((right & new).sum() / max(new.sum(), 1)),
        "recall/all": float(recall[-1]),
    }


def _padded(hits: np.ndarray, n: int) -> np.ndarray:
    """A curve of n points from one that may be shorter: no more hits come."""
    return np.pad(hits, (0, max(n - len(hits), 0)), mode="edge")[:n]


def _gold(params: TermParams, context: Context, sources: Sources, corpus: Corpus) -> judge.Gold | None:
    """The gold list, if there is one, and which of its terms the corpus holds."""
    if sources.gold is None:
        return None
    terms = judge.read_list(sources.gold, params.letters, "params.gold")
    counts = dict.fromkeys(terms, 0)
    whole = [term for term in terms if " " not in term]
    if whole:
        words = context.map(judge.as_codes, [whole], name="gold-list").handles[0]
        items = [judge.Sought(shard, words) for shard in corpus.shards]
        summed: Any = sum(context.map(judge.occurrences, items, name="gold-count"))
        counts |= dict(zip(whole, summed.tolist(), strict=True))
    return judge.Gold.of(terms, np.array(list(counts.values())))
