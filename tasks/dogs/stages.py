"""The stages of a training, and the learning rates of the layers in it.

First the head alone is trained, then the backbone's last stages with it, and last both on photos as they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from tasks.layerwise.groups import parameter_groups

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams


class Stage(StrEnum):
    FROZEN = "frozen"
    TUNED = "tuned"
    CLEAN = "clean"


def stage_of(params: DogParams, epoch: int) -> Stage:
    """The stage of an epoch, counted from 1."""
    if epoch > params.epochs - params.clean_epochs:
        return Stage.CLEAN
    return Stage.FROZEN if epoch <= params.frozen_epochs else Stage.TUNED


def last_stages(net: Any, count: int) -> list[nn.Parameter]:
    """The parameters of a backbone's last ``count`` stages, as timm groups them."""
    groups = timm.models.group_parameters(net, net.group_matcher(coarse=True))
    names = {name for layer in sorted(groups)[-count:] for name in groups[layer]}
    return [parameter for name, parameter in net.named_parameters() if name in names]


def head_groups(head: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameter groups of a head. Centres are pulled by their photos alone, not towards zero."""
    named = dict(head.named_parameters())
    centres = [named.pop("centres")] if "centres" in named else []
    groups: list[dict[str, Any]] = [{"params": list(named.values()), "lr": lr}]
    return groups + ([{"params": centres, "lr": lr, "weight_decay": 0.0}] if centres else [])


def backbone_groups(
    net: nn.Module, trained: list[nn.Parameter], lr: float, decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of a backbone: the last layer learns at ``lr``, each before it at ``decay`` times the next's."""
    net.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return list(parameter_groups(net, lr=lr, layer_decay=decay, weight_decay=weight_decay))
