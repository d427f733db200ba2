"""Term mining: which words of this corpus are its field's terms? No labels, no seed words, larger than memory.

Source: Su Jianlin, kexue.fm/archives/6540 (terms of electric power from a corpus and a background, without labels).
Idea: a term is a string that is used as a word, that is more frequent in its field than elsewhere, that is made of the
field's characters and that keeps the field's company; each of these is counted, none is taught.

>>> TASK.params(max_length=6).max_length
6
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tasks.api import (
    Choice,
    Context,
    Field,
    Goal,
    InputError,
    IntRange,
    Params,
    Resources,
    Row,
    Support,
    Task,
    Uniform,
    UserPath,
    Verdict,
)  # fmt: skip

STEPS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
"""The lengths at which a list of terms is judged."""


class TermParams(Params):
    background: UserPath = ""
    """A corpus of general text or of other fields, to contrast with: file or folder. None: jieba's dictionary."""
    gold: UserPath = ""
    """A list of true terms, one a line, to measure the result by. Nothing is learned from it."""
    non_terms: UserPath = ""
    """A list of strings that are no terms, to measure the result by."""
    text_field: str = "text"
    """In ``.jsonl`` files, the field that holds the text."""
    letters: bool = False
    """Whether letters and digits are kept, as characters like the Chinese ones."""
    max_length: int = Field(8, ge=2, le=12)
    """Longest term, characters."""
    min_count: int = Field(5, ge=2, le=1_000_000)
    """Least number of occurrences of a term."""
    min_pmi: float = Field(2.0, ge=-100, le=100)
    """Least pointwise mutual information of a term's two parts, over all ways to part it, nats."""
    min_entropy: float = Field(1.0, ge=0, le=20)
    """Least entropy of the characters on either side of a term, nats."""
    contrast: Literal["ratio", "likelihood", "odds", "post"] = "ratio"
    """How counts are held against the background's: log ratio of frequencies, Dunning's log-likelihood, log-odds with
    an informative prior, or the post's mended score."""
    ranking: Literal["views", "contrast", "c_value", "growth", "wordhood"] = "views"
    """``views``: contrast, composition, form and context together. ``contrast``: that alone. ``c_value``: times the
    c-value. ``growth``: the post's breadth-first growth from the seeds. ``wordhood``: words of any field."""
    weight_contrast: float = Field(3.0, ge=0, le=10)
    """Weight of the contrast with the background among the views."""
    weight_composition: float = Field(3.0, ge=0, le=10)
    """Weight of the contrast of a term's characters."""
    weight_form: float = Field(2.0, ge=0, le=10)
    """Weight of how much a term looks like a word."""
    weight_context: float = Field(2.0, ge=0, le=10)
    """Weight of how near a term's uses are to those of the seeds."""
    seeds: int = Field(200, ge=1, le=100_000)
    """How many of the first terms, ranked without context, are the seeds."""
    dimensions: int = Field(50, ge=2, le=1000)
    """Length of a word's vector."""
    nested: float = Field(0.5, gt=0, le=2)
    """A term does not outrank a longer one that holds this share of its occurrences; above 1 it may."""
    terms: int = Field(20_000, ge=1, le=1_000_000)
    """Longest list of terms."""
    judged: int = Field(1000, ge=10, le=100_000)
    """How many of the first terms the headline metrics are about."""
    shard_mb: int = Field(4, ge=1, le=1024)
    """Text that is counted at once, MiB."""
    memory_mb: int = Field(256, ge=8, le=1 << 20)
    """Memory that a merge may take for its n-grams, MiB: the less, the more buckets."""
    buckets: int = Field(0, ge=0, le=100_000)
    """Into how many parts all n-grams are divided; 0: as many as ``memory_mb`` asks for."""


def run(params: TermParams, context: Context) -> Mapping[str, float]:
    """Mine the corpus; returns what the list of terms is worth."""
    from tasks.terms.mine import mine  # scipy and numpy take a moment to import, listing tasks need not

    return mine(params, context)


def check(params: TermParams, data: Path | None) -> None:
    """Report missing and unusable files before anything starts."""
    from tasks.terms.judge import read_list
    from tasks.terms.readers import find_files

    if data is not None:
        find_files(data)
    if params.background:
        find_files(Path(params.background))
    for option in ("gold", "non_terms"):
        if path := getattr(params, option):
            read_list(Path(path), params.letters, f"params.{option}")
    if not params.weight_contrast + params.weight_composition + params.weight_form:
        raise InputError(
            "params.weight_contrast, weight_composition and weight_form are all 0: nothing ranks the terms"
        )


def conclude(rows: Sequence[Row]) -> Verdict:
    """Are more of the first terms true than the post's method finds? Only if the difference's interval says so."""
    best, k = rows[0].metrics, int(rows[0].metrics["judged"])
    optimism = "" if len(rows) == 1 else "; the best of a search is optimistic on the list it was chosen by"
    if "precision" not in best:
        low, high = best["confirmed_low"], best["confirmed_high"]
        return Verdict(
            Support.UNDECIDED,
            f"{rows[0].trial}: of the first {k} terms {best['confirmed']:.3f} (95 % Wilson {low:.3f} … {high:.3f}) are "
            f"confirmed by both halves of the documents and the dictionary; only a list of true terms (params.gold) "
            f"can say how many are right{optimism}.",
        )
    ours = best["precision"]
    if "baseline" not in best:
        low, high = best["precision_low"], best["precision_high"]
        return Verdict(
            Support.UNDECIDED,
            f"{rows[0].trial}: of the first {k} terms {ours:.3f} (95 % Wilson {low:.3f} … {high:.3f}) are in the gold "
            f"list; the corpus is too large for the post's method, so there is nothing to compare it with{optimism}.",
        )
    from tasks.terms.judge import difference

    theirs = best["baseline"]
    low, high = difference((ours * k, k), (theirs * k, k))
    found = (
        f"{rows[0].trial}: of the first {k} terms {ours:.3f} (95 % Wilson {best['precision_low']:.3f} … "
        f"{best['precision_high']:.3f}) are in the gold list, of what the post's method ranks first {theirs:.3f}: "
        f"a difference of {ours - theirs:+.3f} (95 % {low:+.3f} … {high:+.3f}){optimism}."
    )
    if low > 0:
        return Verdict(Support.SUPPORTED, found)
    return Verdict(Support.NOT_SUPPORTED if high < 0 else Support.UNDECIDED, found)


def _reports() -> dict[str, str]:
    shares = {
        "precision": "share of the first terms that are in the gold list",
        "baseline": "the same share of what the post's method, mended, ranks first (`post`)",
        "confirmed": "share of the first terms that each half of the documents alone uses e times as often as the "
        "background, beyond chance (G², 0.1 %), and that are whole words of jieba's dictionary, or rows of them: how "
        "good the list is where there is no gold list",
    }
    reports = {}
    for name, meaning in shares.items():
        reports[name] = f"{meaning}; as many as `judged` says"
        reports |= {f"{name}_low": "lower end of its 95 % Wilson interval", f"{name}_high": "upper end"}
    by_k = {
        **shares,
        "recall": "share of the gold terms that occur 5 times which are among the first terms",
        "non_terms": "share of the first terms that are in the list of non-terms",
    }
    for name, meaning in by_k.items():
        reports[f"curve/{name}"] = f"{meaning}, by their number (the step)"
        reports |= {f"{name}/at_{k}": f"{meaning}, of the first {k:,}" for k in STEPS}
    return reports | {
        "precision/new": "of the terms among these that jieba's dictionary lacks, the share in the gold list",
        "recall/all": "recall of the whole list",
        "judged": "how many of the first terms the headline metrics are about",
        "gold/terms": "terms in the gold list",
        "gold/findable": "of these, how many occur 5 times in the corpus",
        "corpus/characters": "characters that are kept",
        "corpus/lines": "lines, which are the documents",
        "corpus/broken_lines": "lines that could not be read whole",
        "corpus/shards": "parts that the corpus was counted in",
        "background/characters": "characters of the background that are kept",
        "candidates": "strings that pass as words",
        "terms": "terms listed",
        "terms/new": "share of the listed terms that jieba's dictionary lacks",
    }


TASK = Task(
    name="terms",
    question="Which words of this corpus are its field's terms?",
    params=TermParams,
    metric="confirmed",
    goal=Goal.MAX,
    reports=_reports(),
    space={
        "min_count": IntRange(3, 30, log=True),
        "min_pmi": Uniform(0.5, 4),
        "min_entropy": Uniform(0, 2),
        "contrast": Choice("ratio", "likelihood", "odds", "post"),
        "ranking": Choice("views", "contrast", "c_value", "growth"),
        "weight_composition": Uniform(0, 4),
        "weight_form": Uniform(0, 4),
        "weight_context": Uniform(0, 4),
    },
    resources=Resources(cpus=1),
    run=run,
    check=check,
    conclude=conclude,
    maps=True,
)
