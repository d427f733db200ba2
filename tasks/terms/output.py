"""What a run leaves behind: the list of terms, a dictionary for jieba, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.api import Context
from tasks.terms.discover import Candidates

__all__ = ["Listed", "nearest", "write"]

_COLUMNS = (
    "rank", "term", "score", "frequency", "as_word", "pmi", "left_entropy", "right_entropy", "background", "known",
    "nearest",
)  # fmt: skip
_MAPPED = 150  # terms on the map
_NEAR = 0.2  # cosine of a term that is named as near
_LABELS = {
    "precision": "precision", "baseline": "precision of\nthe post's method", "recall": "recall",
    "confirmed": "confirmed without\na list of terms", "non_terms": "non-terms among\nthe first k",
}  # fmt: skip
_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
          "SimHei", "Microsoft YaHei", "PingFang SC", "Droid Sans Fallback")  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """The terms, best first: rows of all arrays are the same.

    texts; score; as_word: how often the segmentation has it as a word; known: in jieba's dictionary; vectors (terms,
    dimensions) of length 1
    """

    texts: list[str]
    found: Candidates
    score: np.ndarray
    as_word: np.ndarray
    known: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def write(context: Context, listed: Listed, curves: dict[str, np.ndarray]) -> None:
    """Write ``terms.tsv`` and ``userdict.txt`` and draw the figures; ``curves``: a share for each k, to be drawn."""
    _write_table(context.artifact("terms.tsv"), listed)
    lines = zip(listed.texts, listed.found.count.tolist(), strict=True)
    # jieba takes a frequency as a weight against its own words; those of the corpus are on the same scale.
    context.artifact("userdict.txt").write_text("".join(f"{term} {times}\n" for term, times in lines), "utf-8")
    _draw_scores(context, listed, curves)
    _draw_map(context, listed)


def nearest(vectors: np.ndarray, number: int = 5, among: int = 2000) -> list[list[int]]:
    """For each term the nearest of the first ``among``, nearest first; nothing for a term without a vector."""
    found: list[list[int]] = []
    targets = vectors[:among]
    for start in range(0, len(vectors), 1024):
        cosine = np.round(vectors[start : start + 1024] @ targets.T, 5)
        rows = np.arange(len(cosine))
        own = rows + start < len(targets)
        cosine[rows[own], rows[own] + start] = -1
        closest = np.argpartition(-cosine, min(number, len(targets) - 1), axis=1)[:, :number]
        order = np.argsort(-np.take_along_axis(cosine, closest, axis=1), axis=1, kind="stable")
        for row, columns in enumerate(np.take_along_axis(closest, order, axis=1).tolist()):
            found.append([column for column in columns if cosine[row, column] > _NEAR])
    return found


def _write_table(path: Path, listed: Listed) -> None:
    near = nearest(listed.vectors)
    found = listed.found
    columns = (listed.score, found.count, listed.as_word, found.pmi, found.left, found.right, found.background)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(_COLUMNS) + "\n")
        for row, (term, values) in enumerate(zip(listed.texts, zip(*columns, strict=True), strict=True)):
            score, count, as_word, pmi, left, right, background = values
            known = "known" if listed.known[row] else "new"
            others = " ".join(listed.texts[other] for other in near[row])
            file.write(
                f"{row + 1}\t{term}\t{score:.6g}\t{count}\t{as_word}\t{pmi:.3f}\t{left:.3f}\t{right:.3f}"
                f"\t{background}\t{known}\t{others}\n"
            )


def _draw_scores(context: Context, listed: Listed, curves: dict[str, np.ndarray]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.subplots()
    ranks = np.arange(1, len(listed) + 1)
    axes.plot(ranks, listed.score, color="C0", label="score")
    for number, (name, values) in enumerate(curves.items(), 1):
        axes.plot(ranks, values, color=f"C{number}", label=_LABELS.get(name, name))
    axes.set(xscale="log", xlabel="k, rank", ylim=(0, 1.02), title="Score by rank, and how good the first k are")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves: they leave no corner free
    context.figure("scores", figure)


def _draw_map(context: Context, listed: Listed) -> None:
    """The first terms where their vectors' two main directions put them; by rank where no font can write them."""
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    vectors = listed.vectors[:_MAPPED].astype(np.float64)
    fonts = {font.name for font in font_manager.fontManager.ttflist}
    font = next((name for name in _FONTS if name in fonts), None)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    if len(vectors) > 2 and vectors.any():
        centred = vectors - vectors.mean(axis=0)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        x, y = (left[:, :2] * values[:2]).T if left.shape[1] > 1 else (left[:, 0], left[:, 0])
        known = listed.known[: len(vectors)]
        axes.scatter(x[known], y[known], s=8, color="C0", label="in jieba's dictionary")
        axes.scatter(x[~known], y[~known], s=8, color="C1", label="new")
        for row in range(len(vectors)):
            label = listed.texts[row] if font else str(row + 1)
            axes.annotate(label, (x[row], y[row]), fontsize=7, fontfamily=font, alpha=0.8)
        axes.legend(loc="best")
    numbers = "" if font else " (numbers are ranks: no installed font has Chinese)"
    axes.set(title=f"The first {len(vectors)} terms by their two main directions of use{numbers}", xticks=[], yticks=[])
    context.figure("map", figure)
