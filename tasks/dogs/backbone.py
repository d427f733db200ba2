"""Backbones: any timm model without its classifier, with weights from a package, a file or timm's hub."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tasks.api import InputError
from tasks.dogs.packaged import PACKAGED, packaged_file


@dataclass(frozen=True)
class Backbone:
    """``net`` maps (n, 3, side, side) in [0, 1], normalised by mean and std, to (n, features)."""

    net: Any  # an nn.Module with what timm adds to it
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, photos: Tensor) -> Tensor:
        """uint8 (n, side, side, 3) → float32 (n, 3, side, side), channels last in memory: convolutions like it so."""
        x = photos.permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def load_backbone(name: str, weights: str, seed: int = 0) -> Backbone:
    """A timm model with ``weights``: ``packaged``, ``pretrained`` (timm's hub), ``none`` (random, by seed) or a file.

    Leaves torch's generator as it was, so that what follows does not depend on whether a backbone was needed.
    Raises `InputError` naming what to give instead.
    """
    check_backbone(name, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = _from_hub(name) if weights == "pretrained" else timm.create_model(name, pretrained=False)
    path = weights_file(name, weights)
    if path is not None:
        load_weights(net, path)
    config = timm.data.resolve_model_data_config(net)
    net.reset_classifier(0)
    net = net.to(memory_format=torch.channels_last)
    return Backbone(net, int(net.num_features), tuple(config["mean"]), tuple(config["std"]))


def weights_file(name: str, weights: str) -> Path | None:
    """The file that holds these weights; None for ``none`` and ``pretrained``, which have none of their own."""
    if weights in ("none", "pretrained"):
        return None
    if weights == "packaged":
        if name not in PACKAGED:
            raise InputError(
                f"no package carries weights of '{name}' (there are: {', '.join(PACKAGED)}): "
                "give weights=PATH, weights=pretrained (timm's hub) or weights=none"
            )
        return packaged_file(name)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"weights={weights}: there is no such file (or give packaged, pretrained or none)")
    return path


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a safetensors file or a plain state dict: by name, or by order when only the names differ."""
    state = read_state(path)
    own = net.state_dict()
    if state.keys() != own.keys() and [v.shape for v in state.values()] == [v.shape for v in own.values()]:
        state = dict(zip(own, state.values(), strict=True))
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold weights of this backbone: {str(error).splitlines()[1].strip()}"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file. Never runs code from it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no state dict
        raise InputError(f"{path} is no state dict that loads with weights_only=True: {error}") from error
    for key in ("state_dict", "model"):  # checkpoints of common trainers hold it one level down
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no plain dictionary of tensors")
    return state


@cache
def identity(name: str, weights: str) -> str:
    """What the features of a backbone depend on: its name and the content of its weights."""
    path = weights_file(name, weights)
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path else weights
    return f"{name}-{content}"


def _from_hub(name: str) -> Any:
    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:  # offline, no such file on the hub, no weights at all
        reason = str(error).splitlines()[0]
        raise InputError(
            f"timm's hub gave no weights for '{name}' ({type(error).__name__}: {reason}): "
            "give weights=PATH to a file, or weights=packaged for " + ", ".join(PACKAGED)
        ) from error


def check_backbone(name: str, weights: str) -> None:
    """Raise `InputError` for a name that timm does not know or weights that cannot be found."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(f"timm has no model '{name}'" + (f"; near it: {', '.join(near)}" if near else ""))
    weights_file(name, weights)
