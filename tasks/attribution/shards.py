"""What one worker does: explain some photos, and test the maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.api import InputError
from tasks.attribution import AttributionParams
from tasks.attribution.baselines import make_baselines
from tasks.attribution.faithfulness import area, insertion_deletion, randomise, rank_correlation, squares, stages
from tasks.attribution.gradients import Gradients, class_score
from tasks.attribution.integrated import Attribution, fixed, integrated_gradients
from tasks.attribution.variants import averaged, expected_gradients, noisy, plain_gradient
from tasks.dogs.classifier import Classifier, imagenet_classifier, trained_classifier

CHECK_NODES = 8  # of the maps with random weights: the same rule for all of them


@dataclass(frozen=True)
class Job:
    """Some photos of a trial, with all that it takes to explain them."""

    params: AttributionParams
    artifacts: Path | None
    """Where the classifier is, or None for the ImageNet one."""
    photos: tuple[Path, ...]
    numbers: tuple[int, ...]
    """Which photos of the trial they are: their noise depends on that, not on the shard."""
    references: NDArray[np.uint8]
    """(m, side, side, 3)."""
    seed: int
    device: str


@dataclass(frozen=True)
class Explained:
    """One photo's map and what was measured of it."""

    number: int
    photo: NDArray[np.uint8]
    """(side, side, 3)."""
    map: NDArray[np.float32]
    """(3, side, side), adding up to the score's change."""
    predicted: int
    numbers: Mapping[str, float]
    correlations: Mapping[str, float]
    """Of the map with those of a model whose parts are random from the top down to the named one."""


@lru_cache(maxsize=1)
def classifier(artifacts: Path | None, backbone: str, weights: str, resolution: int) -> Classifier:
    if artifacts is not None:
        return trained_classifier(artifacts)
    return imagenet_classifier(backbone, weights, resolution)


def explain(job: Job) -> list[Explained]:
    """The photos of a job, explained."""
    params = job.params
    known = classifier(job.artifacts, params.backbone, params.weights, params.resolution)
    model = known.model.to(job.device)
    pixels = np.stack([known.read(path) for path in job.photos])
    photos, references = _tensor(pixels, job.device), _tensor(job.references, job.device)
    with torch.no_grad():
        targets = torch.cat([model(photo[None]).argmax(1) for photo in photos])
    found, plain = [], []
    for k, number in enumerate(job.numbers):  # one by one, so that nothing depends on what else is in the shard
        gradients = Gradients(class_score(model, targets[k : k + 1], params.score), params.max_rows)
        found.append(_attribution(params, gradients, photos[k : k + 1], references, job.seed + 1_000_003 * number))
        plain.append(plain_gradient(gradients, photos[k : k + 1]))
    maps = torch.cat([one.maps for one in found])
    curves = _faithfulness(job, model, photos, targets, {"integrated": maps, "gradient": torch.cat(plain)})
    return [
        Explained(
            number, pixels[k], maps[k].cpu().numpy().astype(np.float32), int(targets[k]),
            {**_numbers(found[k]), **{name: float(values[k]) for name, values in curves.items()}},
            _correlations(job, photos[k : k + 1], targets[k : k + 1]) if number < params.randomised else {},
        )
        for k, number in enumerate(job.numbers)
    ]  # fmt: skip


def _attribution(
    params: AttributionParams, gradients: Gradients, photo: Tensor, references: Tensor, seed: int
) -> Attribution:
    """Of one photo (1, 3, side, side): the mean over its noisy copies and its baselines."""
    generator = torch.Generator().manual_seed(seed)
    copies = noisy(photo, params.noise, params.copies, generator)[:, 0]  # (copies, 3, side, side)
    one = Gradients(lambda rows, items: gradients.score(rows, torch.zeros_like(items)), gradients.max_rows)
    if params.method == "expected":
        samples = max(2, math.ceil(params.samples / len(copies)))
        found = expected_gradients(one, copies, references, samples, generator, params.tolerance)
        return averaged(found, len(copies), params.tolerance)
    baselines = make_baselines(params.baseline, photo, references.mean(0))[:, 0]  # (baselines, 3, side, side)
    inputs = copies.repeat_interleave(len(baselines), 0)
    found = integrated_gradients(
        one, inputs, baselines.repeat(len(copies), 1, 1, 1),
        method=params.rule, tolerance=params.tolerance, max_nodes=params.max_nodes,
    )  # fmt: skip
    return averaged(found, len(inputs), params.tolerance)


def _faithfulness(
    job: Job, model: torch.nn.Module, photos: Tensor, targets: Tensor, maps: Mapping[str, Tensor]
) -> dict[str, NDArray[np.float64]]:
    patch = job.params.patch
    result: dict[str, NDArray[np.float64]] = {}
    ranks = {name: squares(each, patch) for name, each in maps.items()}
    drawn = [np.random.default_rng((job.seed, number)).random(ranks["gradient"].shape[1]) for number in job.numbers]
    ranks["random"] = torch.from_numpy(np.stack(drawn)).to(photos)
    for name, order in ranks.items():
        curves = insertion_deletion(model, photos, targets, order, patch, max_rows=job.params.max_rows)
        result |= {f"{name}/{what}": area(curve) for what, curve in zip(("insertion", "deletion"), curves, strict=True)}
    return result


def _correlations(job: Job, photo: Tensor, target: Tensor) -> dict[str, float]:
    """Of one photo's map with the maps of a model randomised part by part, from the top on."""
    params = job.params
    classifier.cache_clear()  # a copy of its own: the weights are about to be lost
    model = classifier(job.artifacts, params.backbone, params.weights, params.resolution).model.to(job.device)
    classifier.cache_clear()
    black, generator = torch.zeros_like(photo), torch.Generator().manual_seed(job.seed)
    gradients = Gradients(class_score(model, target, params.score), params.max_rows)
    first = fixed(gradients, photo, black, "midpoint", CHECK_NODES)
    correlations = {}
    for stage in stages(model):
        randomise(model, stage, generator)
        again = fixed(gradients, photo, black, "midpoint", CHECK_NODES)
        correlations[stage] = float(rank_correlation(first, again)[0])
    return correlations


def _numbers(found: Attribution) -> dict[str, float]:
    return {
        "change": float(found.change[0]), "gap": float(found.gap[0]), "relative": float(found.relative[0]),
        "nodes": int(found.nodes[0]), "reached": float(found.reached[0]), "tiny": float(found.tiny[0]),
    }  # fmt: skip


def _tensor(pixels: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 (n, side, side, 3) → float (n, 3, side, side) in [0, 1]."""
    if len(pixels) == 0:
        raise InputError("there are no photos to explain")
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
