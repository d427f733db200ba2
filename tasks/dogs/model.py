"""A trained classifier as a folder that is complete in itself: photos in, probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.api import Context
from tasks.dogs.backbone import Backbone, load_backbone
from tasks.dogs.features import VIEWS
from tasks.dogs.folders import Photos
from tasks.dogs.heads import Head
from tasks.dogs.learners import Learner
from tasks.dogs.photos import read_photo

if TYPE_CHECKING:
    from tasks.dogs import DogParams


def save_model(params: DogParams, context: Context, learner: Learner, photos: Photos, example: Path) -> None:
    """Leave what this trial trained in its artifacts: the head, and the backbone where that was trained too."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.trained().items()}
    save_file(tensors, context.artifact("model/trained.safetensors"))
    about = {**params.model_dump(), "views": params.views if learner.frozen else 1, "classes": list(photos.classes)}
    context.artifact("model/model.json").write_text(json.dumps(about, indent=2))
    np.save(context.artifact("model/example.npy"), read_photo(example, params.resolution)[None])


def export(artifacts: Path, target: Path) -> np.ndarray:
    """Complete a trial's model with its backbone. Returns the input example: uint8 (1, side, side, 3)."""
    about = json.loads((artifacts / "model" / "model.json").read_text())
    tensors = load_file(artifacts / "model" / "trained.safetensors")
    backbone = load_backbone(about["backbone"], about["weights"])
    tensors = {f"backbone.{name}": tensor.contiguous() for name, tensor in backbone.net.state_dict().items()} | tensors
    save_file(tensors, target / "model.safetensors")
    about |= {"mean": backbone.mean, "std": backbone.std}
    (target / "model.json").write_text(json.dumps(about, indent=2))
    return np.load(artifacts / "model" / "example.npy")


def load(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """``predict``: uint8 (n, side, side, 3) → float32 (n, classes): probabilities, classes ordered as in model.json."""
    about = json.loads((folder / "model.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    backbone, head, scaling = _assemble(about, tensors)

    @torch.inference_mode()
    def predict(photos: np.ndarray) -> np.ndarray:
        x = backbone.normalise(torch.from_numpy(np.ascontiguousarray(photos, dtype=np.uint8)))
        scores = []
        for view in VIEWS[: about["views"]]:
            seen = backbone.net(view(x))
            if scaling is not None:
                seen = (seen - scaling["mean"]) / scaling["std"]
            scores.append(head(seen).log_softmax(1))
        return torch.stack(scores).mean(0).softmax(1).numpy()

    return predict


def _assemble(
    about: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> tuple[Backbone, nn.Module, dict[str, torch.Tensor] | None]:
    net: Any = timm.create_model(about["backbone"], pretrained=False, num_classes=0)
    net = net.to(memory_format=torch.channels_last)
    net.load_state_dict(_below("backbone", tensors))
    backbone = Backbone(net.eval(), int(net.num_features), tuple(about["mean"]), tuple(about["std"]))
    head = Head(about["head"], backbone.features, len(about["classes"]), about["hidden"], about["dropout"])
    head.load_state_dict(_below("head", tensors))
    return backbone, head.eval(), _below("scaling", tensors) or None


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
