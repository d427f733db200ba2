"""A trial: photos sharded over the cluster, their maps kept, and what the maps are worth over all of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.api import Context, Input, InputError
from tasks.attribution import AttributionParams
from tasks.attribution.faithfulness import bootstrap
from tasks.attribution.figures import overlay, randomisation, sheet
from tasks.attribution.shards import Explained, Job, classifier, explain
from tasks.dogs.classifier import Classifier
from tasks.dogs.drawn import ensure
from tasks.dogs.folders import Photos, find_photos
from tasks.dogs.photos import Unreadable

STEPS = 5
"""At most this many reports, each on all photos so far."""


def run(params: AttributionParams, context: Context) -> Mapping[str, float]:
    """Explain, test and draw; reports how the gaps and the faithfulness stand after each fifth of the shards."""
    artifacts = _best(context.inputs)
    known = classifier(artifacts, params.backbone, params.weights, params.resolution)
    found = find_photos(context.data or ensure(context.cache))
    paths, unreadable = _readable(_spread(found), params.photos, known)
    references = _references(found, params.references, known)
    jobs = [
        Job(params, artifacts, tuple(paths[k : k + params.shard]), tuple(range(len(paths)))[k : k + params.shard],
            references, context.seed, context.device)
        for k in range(0, len(paths), params.shard)
    ]  # fmt: skip
    explained: list[Explained] = []
    for done, part in enumerate(context.map(explain, jobs), 1):
        explained += part
        if done * STEPS // len(jobs) > (done - 1) * STEPS // len(jobs):
            report = measured(explained)
            context.report(done * STEPS // len(jobs), **{name: report[name] for name in _WATCHED})
    _keep(context, paths, explained, known.classes)
    return measured(explained) | {"data/unreadable": unreadable}


_GOLDEN = (math.sqrt(5) - 1) / 2
_WATCHED = ("faithfulness", "gap/worst", "nodes/mean", "photos")


def measured(explained: Sequence[Explained]) -> dict[str, float]:
    """The metrics of all photos so far."""
    of = {name: np.array([one.numbers[name] for one in explained]) for name in explained[0].numbers}
    faithful = {name: of[f"{name}/insertion"] - of[f"{name}/deletion"] for name in ("integrated", "gradient", "random")}
    metrics = {
        **_with_interval("faithfulness", faithful["integrated"]),
        "insertion": float(of["integrated/insertion"].mean()), "deletion": float(of["integrated/deletion"].mean()),
        **_with_interval("advantage/gradient", faithful["integrated"] - faithful["gradient"]),
        **_with_interval("advantage/random", faithful["integrated"] - faithful["random"]),
        "gap/worst": float(of["relative"].max()), "gap/median": float(np.median(of["relative"])),
        "gap/reached": float(of["reached"].mean()), "gap/tiny": float(of["tiny"].sum()),
        "nodes/mean": float(of["nodes"].mean()), "nodes/most": float(of["nodes"].max()),
        "photos": len(explained),
    }  # fmt: skip
    checked = [list(one.correlations.values()) for one in explained if one.correlations]
    if checked:
        metrics |= {
            "randomised/head": float(np.mean([values[0] for values in checked])),
            "randomised/all": float(np.mean([values[-1] for values in checked])),
        }
    return metrics


def _with_interval(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    mean, low, high = bootstrap(values)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _best(inputs: Sequence[Input]) -> Path | None:
    """The artifacts of the best classifier of all earlier studies; each study's best comes first."""
    best = max(inputs, key=lambda one: one.metrics.get("val/top1", -math.inf), default=None)
    return best.artifacts if best else None


def _spread(found: Photos) -> Iterator[Path]:
    """Validation photos, one of each class in turn."""
    held: list[list[Path]] = [[] for _ in found.classes]
    for path, label in zip(found.paths[found.trained :], found.labels[found.trained :], strict=True):
        held[label].append(path)
    held = [held[k] for k in sorted(range(len(held)), key=lambda k: k * _GOLDEN % 1)]  # names alike are breeds alike
    for turn in range(max(map(len, held))):
        yield from (paths[turn] for paths in held if turn < len(paths))


def _readable(candidates: Iterator[Path], count: int, known: Classifier) -> tuple[list[Path], int]:
    """The first ``count`` photos that can be read, and how many could not. Raises `InputError` without any."""
    paths: list[Path] = []
    unreadable = 0
    for path in candidates:
        try:
            known.read(path)
        except Unreadable as error:
            print(f"left out, it cannot be read: {path}: {error}", flush=True)
            unreadable += 1
            continue
        paths.append(path)
        if len(paths) == count:
            break
    if not paths:
        raise InputError(f"none of the {unreadable} validation photos can be read: there is nothing to explain")
    return paths, unreadable


def _references(found: Photos, count: int, known: Classifier) -> NDArray[np.uint8]:
    """Training photos at equal distances in the list: (count, side, side, 3)."""
    chosen = np.unique(np.linspace(0, found.trained - 1, min(count, found.trained)).astype(int))
    photos = []
    for index in chosen:
        try:
            photos.append(known.read(found.paths[index]))
        except Unreadable as error:
            print(f"not among the references, it cannot be read: {found.paths[index]}: {error}", flush=True)
    if not photos:
        raise InputError("none of the training photos drawn as references can be read")
    return np.stack(photos)


def _keep(context: Context, paths: Sequence[Path], explained: Sequence[Explained], classes: Sequence[str]) -> None:
    """Maps, overlays, the table of gaps, the sheet."""
    with context.artifact("photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "photo", "predicted", *explained[0].numbers])
        for one in explained:
            path = paths[one.number]
            name = f"{path.parent.name}/{path.name}"
            writer.writerow([one.number, name, classes[one.predicted], *one.numbers.values()])
    for one in explained:
        np.save(context.artifact(f"maps/{one.number:04d}.npy"), one.map)
        overlay(one).save(context.artifact(f"overlays/{one.number:04d}.png"))
    context.figure("maps", sheet(explained, classes))
    checked = [one.correlations for one in explained if one.correlations]
    if checked:
        context.figure("randomisation", randomisation(checked))
