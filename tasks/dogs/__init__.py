"""Fine-grained classification: which breed is the dog in the photo?

Source: Su Jianlin, kexue.fm/archives/4611 (a contest of 100 breeds, won by fine-tuning an ImageNet backbone).
Idea: a backbone trained on ImageNet sees almost all that tells breeds apart, so a small head on its frozen features is
a strong and cheap start; training the last stages of the backbone as well, at a smaller learning rate, gains the rest.

>>> TASK.params(regime="finetune", epochs=3).frozen_epochs
1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.api import (
    Choice,
    Context,
    Field,
    Goal,
    InputError,
    LogUniform,
    Model,
    Params,
    Resources,
    Row,
    Support,
    Task,
    Uniform,
    Verdict,
)  # fmt: skip
from tasks.dogs.folders import find_photos
from tasks.dogs.packaged import PACKAGED


class DogParams(Params):
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model by name."""
    weights: str = "packaged"
    """``packaged`` (ImageNet weights installed with this project), ``pretrained`` (timm's hub), ``none``, or a file."""
    regime: Literal["frozen", "finetune"] = "frozen"
    """``frozen``: features are computed once and only the head is trained. ``finetune``: the backbone's end too."""
    resolution: int = Field(128, ge=32, le=1024)
    """Side of the square that the backbone sees, px."""
    views: int = Field(1, ge=1, le=2)
    """Frozen regime: 1 as it is, 2 also mirrored: both are trained on, and their scores averaged."""
    head: Literal["linear", "glu"] = "linear"
    """``glu`` puts a gated layer between features and scores."""
    hidden: int = Field(256, ge=8, le=8192)
    """Width of the glu head."""
    epochs: int = Field(12, ge=1, le=1000)
    """Passes over the training photos."""
    batch_size: int = Field(128, ge=2, le=8192)
    """Photos a step."""
    lr: float = Field(3e-3, gt=0, le=10)
    """Peak learning rate of the head (AdamW, one cycle)."""
    weight_decay: float = Field(0.3, ge=0, le=100)
    """AdamW's decoupled weight decay."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on the features."""
    backbone_lr: float = Field(3e-4, gt=0, le=1)
    """Finetune regime: peak learning rate of the unfrozen part of the backbone."""
    frozen_epochs: int = Field(1, ge=0, le=1000)
    """Finetune regime: epochs in which the head alone is trained."""
    unfrozen_stages: int = Field(2, ge=1, le=100)
    """Finetune regime: how many of the backbone's last stages are trained after that."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Share held out of each class when the data has no val/ folder."""
    split_seed: int = Field(0, ge=0)
    """Which photos are held out; the same for all trials of a study."""


def run(params: DogParams, context: Context) -> Mapping[str, float]:
    """Train and validate; returns the last epoch's validation metrics."""
    from tasks.dogs.train import train  # torch and timm take seconds to import, listing tasks need not

    return train(params, context)


def check(params: DogParams, data: Path | None) -> None:
    """Report wrong data, an unknown backbone and missing weights before anything starts."""
    if data is not None:
        find_photos(data, params.val_fraction, params.split_seed)
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
        "train/loss": "mean loss of the epoch, label smoothing included",
        "train/images_per_second": "training photos a second",
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
    run=run,
    check=check,
    conclude=conclude,
    model=Model(
        _export, _load, ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "pydantic", "safetensors")
    ),
)
