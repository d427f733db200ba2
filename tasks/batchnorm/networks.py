"""The networks that the arms stand in: a deep linear one, a multilayer perceptron, a VGG of any width.

All keep the variance of their input at the start (He 2015; without nonlinearity, 1/fan-in), so that 25 layers without
any norm can be trained at all. Equal seeds give equal weights in all arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from tasks.api import InputError
from tasks.batchnorm.norms import make_norm

STAGES = (1, 2, 4)
"""The VGG's widths, in units of ``width``; two convolutions each, then the maximum over 2 × 2."""


def make_network(
    kind: str, arm: str, placement: str, shape: Sequence[int], outputs: int, width: int, depth: int
) -> nn.Sequential:
    """A network for inputs of ``shape``, (features,) or (channels, h, w). Raises `InputError` where they do not fit.

    ``depth`` counts the layers with weights of ``linear`` and ``mlp``, the last one included.
    """
    if kind == "vgg":
        layers = _vgg(arm, placement, shape, outputs, width)
    else:
        layers = _dense(arm, placement, math.prod(shape), outputs, width, depth, nonlinear=kind == "mlp")
    network = nn.Sequential(*layers)
    _initialise(network, nonlinear=kind != "linear")
    return network


def weights_of(network: nn.Module) -> list[str]:
    """Names of the layers' weight matrices and kernels, in order; not those of norms."""
    return [f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _dense(
    arm: str, placement: str, features: int, outputs: int, width: int, depth: int, nonlinear: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth - 1):
        layer = nn.Linear(width if index else features, width)
        layers += _with_norm(layer, arm, placement, layer.in_features, width, spatial=False)
        if nonlinear:
            layers.append(nn.ReLU())
    last = nn.Linear(width if depth > 1 else features, outputs)
    return [*layers, *(_before(arm, placement, last.in_features, spatial=False)), last]


def _vgg(arm: str, placement: str, shape: Sequence[int], outputs: int, width: int) -> list[nn.Module]:
    if len(shape) != 3 or min(shape[1:]) < 2 ** len(STAGES):
        raise InputError(
            f"params.network=vgg needs pictures of at least {2 ** len(STAGES)} px, the data has shape {tuple(shape)}: "
            f"set params.network=mlp, or use other data"
        )
    layers: list[nn.Module] = []
    channels = shape[0]
    for stage in STAGES:
        for _ in range(2):
            layer = nn.Conv2d(channels, stage * width, 3, padding=1)
            layers += [*_with_norm(layer, arm, placement, channels, stage * width, spatial=True), nn.ReLU()]
            channels = stage * width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return [*layers, *_before(arm, placement, channels, spatial=False), nn.Linear(channels, outputs)]


def _with_norm(layer: nn.Module, arm: str, placement: str, ins: int, outs: int, spatial: bool) -> list[nn.Module]:
    if placement == "before":
        return [*_before(arm, placement, ins, spatial), layer]
    return [layer, make_norm(arm, outs, spatial)]


def _before(arm: str, placement: str, channels: int, spatial: bool) -> list[nn.Module]:
    return [make_norm(arm, channels, spatial)] if placement == "before" else []


def _initialise(network: nn.Module, nonlinear: bool) -> None:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        gain = 2.0 if nonlinear and layer is not layers[0] and layer is not layers[-1] else 1.0
        fan_in = layer.weight[0].numel()
        with torch.no_grad():
            layer.weight.normal_(0, math.sqrt(gain / fan_in))
            if layer.bias is not None:
                layer.bias.zero_()
