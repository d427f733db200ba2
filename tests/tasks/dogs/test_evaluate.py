from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from fakes import FakeContext
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from tasks.dogs.evaluate import Predictions, accuracy, wilson, write_artifacts


def predictions(n=200, classes=9, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return Predictions(logits.astype(np.float32), labels, [], [f"n{i:08d}-breed_{i}" for i in range(classes)])


def test_wilson_is_the_closed_form():
    """Wilson 1927: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    hits, n, z = 87, 100, 1.959963984540054
    p = hits / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(hits, n) == pytest.approx(((middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)))
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1


def test_accuracies_agree_with_scikit_learn():
    given = predictions()
    metrics = accuracy(given)
    for k in (1, 5):
        assert metrics[f"val/top{k}"] == pytest.approx(top_k_accuracy_score(given.labels, given.logits, k=k))
        assert metrics[f"val/top{k}_low"] < metrics[f"val/top{k}"] < metrics[f"val/top{k}_high"]
    assert metrics["val/loss"] == pytest.approx(log_loss(given.labels, given.probabilities), rel=1e-5)


def test_scores_that_are_no_numbers_are_no_success():
    given = predictions()
    given.logits[3, 2] = np.nan
    metrics = accuracy(given)
    assert math.isnan(metrics["val/top1"])
    assert math.isnan(metrics["val/loss"])


def test_equal_scores_are_no_success():
    metrics = accuracy(Predictions(np.zeros((50, 4), np.float32), np.full(50, 3), [], list("abcd")))
    assert metrics["val/top1"] == 0


def test_the_table_by_class_agrees_with_the_confusion_matrix(tmp_path):
    given = predictions()
    paths = []
    for i in range(len(given.labels)):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
        paths.append(path)
    context = FakeContext(tmp_path)
    history = [{"epoch": e, "train/loss": 1.0, **accuracy(given)} for e in (1, 2)]
    write_artifacts(context, Predictions(given.logits, given.labels, paths, given.classes), history)
    for name in ("confusion", "mistakes", "curves"):
        assert Image.open(tmp_path / "artifacts" / f"{name}.png").size[0] > 300
    counts = confusion_matrix(given.labels, given.predicted)
    with (tmp_path / "artifacts" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    recalls = [float(row["recall"]) for row in rows]
    assert recalls == sorted(recalls)
    for row in rows:
        label = given.classes.index(row["class"])
        assert float(row["recall"]) == pytest.approx(counts[label, label] / counts[label].sum(), abs=1e-4)
        assert float(row["precision"]) == pytest.approx(counts[label, label] / counts[:, label].sum(), abs=1e-4)
