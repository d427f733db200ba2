"""Fine-grained classification: which breed is the dog in the photo?

Source: Su Jianlin, kexue.fm/archives/4611 (a contest of 100 breeds, won by fine-tuning an ImageNet backbone).
Idea: a backbone trained on ImageNet sees almost all that tells breeds apart, so a small head on its frozen features is
a strong and cheap start; training the last stages of the backbone as well, at a smaller learning rate, gains the rest.

The recipe: a gated head beside a plain one, centre loss, batches of pairs, splices and masks, a last stage on clean
photos. Two things differ from the post: AdamW on one cycle throughout, where it has Adam and then momentum at 1e-4, and
layer-wise learning rates, which it has not. ``without`` leaves out one ingredient at a time.

>>> TASK.params(regime="finetune", epochs=3, without="frozen").effective().frozen_epochs
0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.api import (
    Choice,
    Context,
    Goal,
    InputError,
    LogUniform,
    Model,
    Resources,
    Row,
    Support,
    Task,
    Uniform,
    Verdict,
)  # fmt: skip
from tasks.dogs.folders import find_photos
from tasks.dogs.packaged import PACKAGED
from tasks.dogs.params import DogParams


def run(params: DogParams, context: Context) -> Mapping[str, float]:
    """Train and validate; returns the last epoch's validation metrics."""
    from tasks.dogs.train import train  # torch and timm take seconds to import, listing tasks need not

    return train(params, context)


def check(params: DogParams, data: Path | None) -> None:
    """Report wrong data, an unknown backbone and missing weights before anything starts."""
    if data is not None:
        find_photos(
            data, params.val_fraction, params.split_seed,
            unlabelled=params.effective().pseudo_rounds > 0 and params.pseudo_source == "unlabelled",
        )  # fmt: skip
    if params.weights not in ("packaged", "pretrained", "none") and not Path(params.weights).expanduser().is_file():
        raise InputError(
            f"params.weights={params.weights}: there is no such file (or give packaged, pretrained or none)"
        )
    if params.backbone not in PACKAGED:
        from tasks.dogs.backbone import check_backbone

        check_backbone(params.backbone, params.weights)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Is one setting best? Only if its interval and the runner-up's do not touch."""
    best, n = rows[0].metrics, int(rows[0].metrics["val/photos"])
    low, high = best["val/top1_low"], best["val/top1_high"]
    found = f"{rows[0].trial} reaches top-1 {best['val/top1']:.4f} (95 % Wilson {low:.4f} … {high:.4f}) on {n} photos"
    if left_out := int(best["data/unreadable"]):
        found += f" ({left_out} photos could not be read; the log names them)"
    caution = "the best of a search is optimistic on the photos it was chosen by"
    if len(rows) == 1:
        return Verdict(Support.UNDECIDED, f"{found}; there is nothing to compare it with.")
    near = sum(row.metrics["val/top1"] >= low for row in rows[1:])
    if near == 0 and rows[1].metrics["val/top1_high"] < low:
        return Verdict(Support.SUPPORTED, f"{found}, above every other trial's interval; {caution}.")
    return Verdict(
        Support.UNDECIDED,
        f"{found}; inside that interval lie {near} of the other {len(rows) - 1} finished trials, "
        f"so which of them is best is not decided; {caution}.",
    )


def _export(artifacts: Path, target: Path) -> np.ndarray:
    from tasks.dogs.model import export

    return export(artifacts, target)


def _load(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    from tasks.dogs.model import load

    return load(folder)


TASK = Task(
    name="dogs",
    question="Which settings make a pretrained backbone best at telling dog breeds apart?",
    params=DogParams,
    metric="val/top1",
    goal=Goal.MAX,
    reports={
        "val/top1": "share of validation photos whose breed scores highest",
        "val/top1_low": "lower end of its 95 % Wilson interval",
        "val/top1_high": "upper end",
        "val/top5": "share whose breed is among the five highest",
        "val/top5_low": "lower end of its 95 % Wilson interval",
        "val/top5_high": "upper end",
        "val/loss": "cross entropy, nats",
        "val/photos": "validation photos that could be read",
        "train/loss": "mean loss of the epoch, label smoothing and all heads included",
        "train/images_per_second": "training photos a second",
        "blend/alpha": "the head's share in predictions, beside the auxiliary head; chosen on all photos, to be kept",
        "blend/alpha_first": "the share that the first half of the validation photos is predicted with",
        "blend/alpha_second": "the second half's; each half's is chosen on the other",
        "pseudo/photos": "photos that the epoch trained on under the label of a round",
        "pseudo/right": "share of those labels that are right, where that can be told",
        "pseudo/transductive": "1 when the validation photos served as unlabelled ones, else 0",
        "data/unreadable": "photos left out because they could not be read; the trial's log names them",
    },
    space={
        "lr": LogUniform(3e-4, 3e-2),
        "weight_decay": LogUniform(1e-2, 10),
        "label_smoothing": Uniform(0, 0.3),
        "dropout": Uniform(0, 0.7),
        "head": Choice("linear", "glu"),
    },
    resources=Resources(cpus=1),
    distributed=True,
    reads_inputs=True,
    run=run,
    check=check,
    conclude=conclude,
    model=Model(
        _export, _load, ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "pydantic", "safetensors")
    ),
)
