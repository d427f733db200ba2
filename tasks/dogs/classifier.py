"""A trained or packaged classifier as a differentiable module: photos in, class scores out."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.api import InputError
from tasks.dogs.backbone import check_backbone, load_backbone, load_weights, weights_file
from tasks.dogs.heads import Head, Outputs
from tasks.dogs.photos import read_photo


class PhotoScores(nn.Module):
    """float (n, 3, side, side) in [0, 1] → class scores (n, classes), whose softmax is the probabilities.

    ``head`` maps features to scores, or to `Outputs` whose auxiliary scores have the share ``1 − alpha`` of the
    probabilities; scores are then log-probabilities.
    """

    mean: Tensor
    std: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self, net: nn.Module, head: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], views: int = 1,
        scaling: dict[str, Tensor] | None = None, alpha: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.head, self.views, self.alpha = net, head, views, alpha
        features = scaling or {"mean": torch.zeros(1), "std": torch.ones(1)}
        constants = {"mean": torch.tensor(mean).view(1, 3, 1, 1), "std": torch.tensor(std).view(1, 3, 1, 1)}
        for name, value in {**constants, **{f"feature_{name}": value for name, value in features.items()}}.items():
            self.register_buffer(name, value)

    def forward(self, photos: Tensor) -> Tensor:
        x = ((photos - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        seen = [self.head((self.net(v) - self.feature_mean) / self.feature_std)
                for v in [x, x.flip(3)][: self.views]]  # fmt: skip
        # The mean of the views' scores has the softmax of the mean of their log-probabilities.
        main = torch.stack([each.scores if isinstance(each, Outputs) else each for each in seen]).mean(0)
        second = [each.auxiliary for each in seen if isinstance(each, Outputs) and each.auxiliary is not None]
        if not second or self.alpha == 1:
            return main
        other = torch.stack(second).mean(0).log_softmax(1)
        shares = torch.tensor([self.alpha, 1 - self.alpha], device=main.device).log()
        return torch.logaddexp(shares[0] + main.log_softmax(1), shares[1] + other)


@dataclass(frozen=True)
class Classifier:
    model: PhotoScores
    classes: tuple[str, ...]
    resolution: int
    """Side of the square that it sees, px."""
    crop: float = 1.0
    """Share of a photo's side that the square shows, in the middle."""

    def read(self, path: Path) -> np.ndarray:
        """A photo as it is validated on: uint8, (side, side, 3). Raises `Unreadable`."""
        whole = math.ceil(self.resolution / self.crop)
        start = (whole - self.resolution) // 2
        return read_photo(path, whole)[start : start + self.resolution, start : start + self.resolution]


def trained_classifier(artifacts: Path) -> Classifier:
    """What a trial of the task dogs left in its artifacts.

    Raises `InputError` where there is no model, or weights of another architecture than it names.
    """
    folder = artifacts / "model"
    if not (folder / "model.json").is_file() or not (folder / "trained.safetensors").is_file():
        raise InputError(f"{folder} holds no trained classifier (model.json and trained.safetensors of the task dogs)")
    about = json.loads((folder / "model.json").read_text())
    tensors = load_file(folder / "trained.safetensors")
    backbone = load_backbone(about["backbone"], about["weights"])
    _fill(backbone.net, {**backbone.net.state_dict(), **_below("backbone", tensors)}, about["backbone"], folder)
    own = _below("head", tensors)
    head = Head(
        about["head"], backbone.features, len(about["classes"]), about["hidden"], about["dropout"],
        auxiliary="auxiliary.weight" in own, centres="centres" in own,
    )  # fmt: skip
    _fill(head, own, f"{about['head']} head", folder)
    model = PhotoScores(
        backbone.net, head, backbone.mean, backbone.std, about["views"], _below("scaling", tensors) or None,
        about.get("alpha", 1.0),
    )  # fmt: skip
    crop = about.get("crop", 1.0) if about.get("regime") == "finetune" else 1.0
    return Classifier(_frozen(model), tuple(about["classes"]), about["resolution"], crop)


def imagenet_classifier(name: str, weights: str, resolution: int) -> Classifier:
    """A timm model with the classifier its weights came with. Raises `InputError` as `load_backbone`."""
    check_backbone(name, weights)
    path = weights_file(name, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: Any = timm.create_model(name, pretrained=weights == "pretrained")
    if path is not None:
        load_weights(net, path)
    config = timm.data.resolve_model_data_config(net)
    model = PhotoScores(net.to(memory_format=torch.channels_last), nn.Identity(), config["mean"], config["std"])
    info = timm.data.ImageNetInfo() if net.num_classes == 1000 else None
    classes = [info.index_to_description(i).split(",")[0] if info else str(i) for i in range(net.num_classes)]
    return Classifier(_frozen(model), tuple(classes), resolution)


def _fill(module: nn.Module, tensors: dict[str, Tensor], name: str, folder: Path) -> None:
    """Load all of a module's tensors. Raises `InputError` where they are another architecture's."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{folder}: trained.safetensors holds no weights of the {name} that model.json names: "
            f"{str(error).splitlines()[1].strip()} Give both files as one trial of dogs left them"
        ) from error


def _frozen(model: PhotoScores) -> PhotoScores:
    model.eval().requires_grad_(False)
    return model


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
