"""How good the predictions are: accuracies with intervals, and the pictures that show where they fail."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest

from tasks.api import Context
from tasks.dogs.photos import read_photo

METRICS = ("val/top1", "val/top1_low", "val/top1_high", "val/top5", "val/top5_low", "val/top5_high", "val/loss")


@dataclass(frozen=True)
class Predictions:
    """``logits`` (n, classes) of the photos ``paths``, whose classes are ``labels``."""

    logits: np.ndarray
    labels: np.ndarray
    paths: Sequence[Path]
    classes: Sequence[str]

    @property
    def probabilities(self) -> np.ndarray:
        return softmax(self.logits, axis=1)

    @property
    def predicted(self) -> np.ndarray:
        return self.logits.argmax(axis=1)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927)."""
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy(predictions: Predictions) -> dict[str, float]:
    """Loss, top-1 and top-5 with Wilson intervals, and the number of photos they were measured on."""
    labels, n = predictions.labels, len(predictions.labels)
    logits = predictions.logits.astype(np.float64)
    own = logits[np.arange(n), labels]
    # How many other classes score at least as high as the right one: a tie is no success.
    rank = (logits >= own[:, None]).sum(axis=1) - 1
    loss = logsumexp(logits, axis=1) - own
    metrics = {"val/loss": float(loss.mean()), "val/photos": float(n)}
    finite = bool(np.isfinite(logits).all())  # a comparison with NaN is False, which would count as success
    for k in (1, 5):
        if not finite:
            metrics |= {f"val/top{k}{end}": math.nan for end in ("", "_low", "_high")}
            continue
        hits = int((rank < k).sum())
        low, high = wilson(hits, n)
        metrics |= {f"val/top{k}": hits / n, f"val/top{k}_low": low, f"val/top{k}_high": high}
    return metrics


def write_artifacts(context: Context, predictions: Predictions, history: Sequence[Mapping[str, float]]) -> None:
    """Confusion matrix, table by class, the most confident mistakes, learning curves."""
    context.figure("confusion", _confusion(predictions))
    context.figure("mistakes", _mistakes(predictions))
    context.figure("curves", _curves(history))
    _per_class(context.artifact("per_class.csv"), predictions)


def _confusion(predictions: Predictions) -> Figure:
    """Rows: true class; columns: predicted; each row sums to one."""
    classes = len(predictions.classes)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (predictions.labels, predictions.predicted), 1)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = float(np.clip(0.17 * classes, 6, 18))
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
    names = [_label(name) for name in predictions.classes]
    axes.set_xticks(range(classes), names, rotation=90, fontsize=8 if classes < 60 else 5)
    axes.set_yticks(range(classes), names, fontsize=8 if classes < 60 else 5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, label="share of the true class")
    return figure


def _mistakes(predictions: Predictions, count: int = 24, columns: int = 6) -> Figure:
    """The wrong answers the model was surest of: often photos that are mislabelled, or hard for people too."""
    sure = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
    rows = max(1, -(-len(worst) // columns))
    figure = Figure(figsize=(2 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, worst, strict=False):
        axis.imshow(read_photo(predictions.paths[index], 160))
        said, true = (_label(predictions.classes[c]) for c in (predictions.predicted[index], predictions.labels[index]))
        axis.set_title(f"{said} {sure[index]:.0%}\nis {true}", fontsize=7)
    if not len(worst):
        axes[0].text(0, 0.5, "no mistakes")
    return figure


def _curves(history: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name in ("train/loss", "val/loss"):
        left.plot(epochs, [row[name] for row in history], label=name)
    for name in ("val/top1", "val/top5"):
        right.plot(epochs, [row[name] for row in history], label=name)
        right.fill_between(
            epochs, [row[f"{name}_low"] for row in history], [row[f"{name}_high"] for row in history], alpha=0.2
        )
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _per_class(path: Path, predictions: Predictions) -> None:
    """One line a class, worst first: photos, recall with its interval, precision, what it is taken for most."""
    rows = []
    for label, name in enumerate(predictions.classes):
        own, said = predictions.labels == label, predictions.predicted == label
        if not own.any():
            continue
        hits = int((own & said).sum())
        low, high = wilson(hits, int(own.sum()))
        others = np.bincount(predictions.predicted[own & ~said], minlength=len(predictions.classes))
        confused = predictions.classes[int(others.argmax())] if others.any() else ""
        precision = hits / said.sum() if said.any() else float("nan")
        rows.append((name, int(own.sum()), hits / own.sum(), low, high, precision, confused))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "photos", "recall", "recall_low", "recall_high", "precision", "most_confused_with"])
        for row in sorted(rows, key=lambda row: (row[2], row[0])):
            writer.writerow([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row])


def _label(name: str) -> str:
    """``n02085620-Chihuahua`` as people say it."""
    head, dash, tail = name.partition("-")
    return (tail if dash and head[1:].isdigit() else name).replace("_", " ")
