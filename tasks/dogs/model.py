"""A trained classifier as a folder that is complete in itself: photos in, probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
from tasks.dogs.heads import Head, Outputs
from tasks.dogs.photos import read_photo

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams


def save_model(
    params: DogParams, context: Context, tensors: Mapping[str, torch.Tensor], classes: Sequence[str], example: Path,
    alpha: float,
) -> None:  # fmt: skip
    """Leave what this trial trained in its artifacts: the head, and the backbone where that was trained too.

    ``alpha`` is the share of the head in the prediction; the auxiliary head has the rest.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, context.artifact("model/trained.safetensors"))
    about = {**params.model_dump(), "classes": list(classes), "alpha": alpha}
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
        views = []
        for view in VIEWS[: about["views"]]:
            seen = backbone.net(view(x))
            if scaling is not None:
                seen = (seen - scaling["mean"]) / scaling["std"]
            views.append(head(seen))
        return _blended(views, about.get("alpha", 1.0)).numpy()

    return predict


def _assemble(
    about: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> tuple[Backbone, nn.Module, dict[str, torch.Tensor] | None]:
    net: Any = timm.create_model(about["backbone"], pretrained=False, num_classes=0)
    net = net.to(memory_format=torch.channels_last)
    net.load_state_dict(_below("backbone", tensors))
    backbone = Backbone(net.eval(), int(net.num_features), tuple(about["mean"]), tuple(about["std"]))
    own = _below("head", tensors)
    head = Head(
        about["head"], backbone.features, len(about["classes"]), about["hidden"], about["dropout"],
        auxiliary="auxiliary.weight" in own, centres="centres" in own,
    )  # fmt: skip
    head.load_state_dict(own)
    return backbone, head.eval(), _below("scaling", tensors) or None


def _blended(views: Sequence[Outputs], alpha: float) -> torch.Tensor:
    """Probabilities: the mean of log-probabilities over views, of the head and the auxiliary head by their shares."""

    def mean(scores: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([view.log_softmax(1) for view in scores]).mean(0).softmax(1)

    main = mean([outputs.scores for outputs in views])
    second = [outputs.auxiliary for outputs in views if outputs.auxiliary is not None]
    return alpha * main + (1 - alpha) * mean(second) if second else main


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
