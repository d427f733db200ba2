"""A trained or packaged classifier as a differentiable module: photos in, class scores out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.api import InputError
from tasks.dogs.backbone import check_backbone, load_backbone, load_weights, weights_file
from tasks.dogs.heads import Head


class PhotoScores(nn.Module):
    """float (n, 3, side, side) in [0, 1] → class scores (n, classes), their softmax the probabilities."""

    mean: Tensor
    std: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self, net: nn.Module, head: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], views: int = 1,
        scaling: dict[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.head, self.views = net, head, views
        features = scaling or {"mean": torch.zeros(1), "std": torch.ones(1)}
        constants = {"mean": torch.tensor(mean).view(1, 3, 1, 1), "std": torch.tensor(std).view(1, 3, 1, 1)}
        for name, value in {**constants, **{f"feature_{name}": value for name, value in features.items()}}.items():
            self.register_buffer(name, value)

    def forward(self, photos: Tensor) -> Tensor:
        x = ((photos - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        seen = [x, x.flip(3)][: self.views]  # the mean of scores has the softmax of the mean of log-probabilities
        return torch.stack([self.head((self.net(v) - self.feature_mean) / self.feature_std) for v in seen]).mean(0)


@dataclass(frozen=True)
class Classifier:
    model: PhotoScores
    classes: tuple[str, ...]
    resolution: int
    """Side of the photos it was trained on, px."""


def trained_classifier(artifacts: Path) -> Classifier:
    """What a trial of the task dogs left in its artifacts. Raises `InputError` where there is no model."""
    folder = artifacts / "model"
    if not (folder / "model.json").is_file() or not (folder / "trained.safetensors").is_file():
        raise InputError(f"{folder} holds no trained classifier (model.json and trained.safetensors of the task dogs)")
    about = json.loads((folder / "model.json").read_text())
    tensors = load_file(folder / "trained.safetensors")
    backbone = load_backbone(about["backbone"], about["weights"])
    backbone.net.load_state_dict({**backbone.net.state_dict(), **_below("backbone", tensors)})
    head = Head(about["head"], backbone.features, len(about["classes"]), about["hidden"], about["dropout"])
    head.load_state_dict(_below("head", tensors))
    model = PhotoScores(
        backbone.net, head, backbone.mean, backbone.std, about["views"], _below("scaling", tensors) or None
    )
    return Classifier(_frozen(model), tuple(about["classes"]), about["resolution"])


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


def _frozen(model: PhotoScores) -> PhotoScores:
    model.eval().requires_grad_(False)
    return model


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
