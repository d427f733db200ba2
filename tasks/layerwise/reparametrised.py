"""θ = λφ: a layer's learning rate by its parametrisation, and the optimiser's options that do the same.

Source: Su Jianlin, kexue.fm/archives/6418.
Idea: train φ = θ/λ in place of θ. Its gradient is λ times as large and its step moves θ λ times as far, so that plain
gradient descent goes as with λ² times the learning rate; Adam and RMSprop divide the gradient's size out again, which
leaves one λ.

What each optimiser takes a step of, in θ, when φ is trained with rate η (g the gradient by θ, m and v its averages):

    SGD, momentum       θ ← θ − λ²η·m − η·w·θ                lr λ²η, weight decay w/λ²
    Adam, RMSprop       θ ← θ − λη·m/(√v + ε/λ)              lr λη,  ε/λ; weight decay (in g) w/λ²
    AdamW               θ ← θ − λη·m/(√v + ε/λ) − η·w·θ      lr λη,  ε/λ; weight decay w/λ

So the claim (lr alone is changed) is exact for ε = 0 without weight decay, and exact again when ε and the decay are
scaled too. Clipping by norm sees gradients λ times as large: over this layer alone it is max_norm/λ; over all layers
together there is no counterpart, as the layers' shares of the norm change.

>>> equivalent(SGD, 10.0, lr=0.001, weight_decay=0.5)
{'lr': 0.1, 'weight_decay': 0.005}
>>> equivalent(Adam, 10.0, lr=0.001, eps=1e-8)
{'lr': 0.01, 'eps': 1e-09, 'weight_decay': 0.0}
>>> scale_for(SGD, 0.25), scale_for(AdamW, 0.25)
(0.5, 0.25)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from tasks.api import InputError
from tasks.layerwise.names import matching, named, plain


class Scaled(nn.Module):
    """The parametrisation θ = λφ for `torch.nn.utils.parametrize`: λ is a constant, φ what is trained."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = _checked(scale)

    def forward(self, phi: Tensor) -> Tensor:
        """θ of φ, any shape."""
        return self.scale * phi

    def right_inverse(self, theta: Tensor) -> Tensor:
        """φ of θ; λφ is θ again to a rounding, and to the bit where λ is a power of 2."""
        return theta / self.scale


def reparametrise(model: nn.Module, pattern: str, scale: float) -> list[str]:
    """Put φ = θ/λ in place of each parameter that a glob pattern matches; returns their names.

    Make the optimiser afterwards: the parameters are new ones. What the model computes stays as it was. Names in rules
    and pipelines stay too (``body.weight``); in a ``state_dict`` the tensor is now
    ``body.parametrizations.weight.original``. Raises `InputError` when the pattern matches nothing, or a parameter that
    is parametrised already.
    """
    _checked(scale)
    names = matching(pattern, named(model), "reparametrise")
    raw = {plain(name): name for name, _ in model.named_parameters()}
    if taken := [name for name in names if ".parametrizations." in f".{raw[name]}"]:
        raise InputError(f"reparametrise: '{taken[0]}' is parametrised already; call restore(model) first")
    for name in names:
        owner, _, last = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(owner), last, Scaled(scale))
    return names


def restore(model: nn.Module) -> list[str]:
    """Make plain parameters of all that `reparametrise` changed, with the values they have now; returns their names."""
    restored = []
    for prefix, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module):
            continue
        for tensor, chain in list(module.parametrizations.items()):
            if isinstance(chain[0], Scaled):
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
                restored.append(f"{prefix}.{tensor}".removeprefix("."))
    return restored


def exponent(optimizer: type[Optimizer]) -> int:
    """Which power of λ the learning rate is multiplied by: 2 for SGD (with momentum too), 1 for Adam, AdamW, RMSprop.

    Raises `InputError` for any other: RAdam changes from one to the other as it warms up, Adadelta has neither.
    """
    if issubclass(optimizer, SGD):
        return 2
    if issubclass(optimizer, Adam | RMSprop):  # AdamW is an Adam
        return 1
    raise InputError(f"no power of λ is known for {optimizer.__name__}; it is for SGD, Adam, AdamW and RMSprop")


def equivalent(optimizer: type[Optimizer], scale: float, **options: Any) -> dict[str, Any]:
    """The options under which θ itself moves as it does when φ = θ/λ is trained with ``options``.

    lr, eps and weight_decay are scaled by the table above, the optimiser's defaults where they are not given; all other
    options stay. Raises `InputError` as `exponent`, and for a λ that is not above 0.
    """
    power, scale = exponent(optimizer), _checked(scale)
    decoupled = issubclass(optimizer, AdamW) or bool(options.get("decoupled_weight_decay"))
    factors = {"lr": scale**power, "eps": 1 / scale, "weight_decay": 1 / (scale if decoupled else scale**2)}
    defaults = {
        name: known.default for name, known in inspect.signature(optimizer).parameters.items() if name in factors
    }
    return {name: value * factors[name] if name in factors else value for name, value in (defaults | options).items()}


def scale_for(optimizer: type[Optimizer], lr_mult: float) -> float:
    """The λ whose reparametrisation multiplies the learning rate by ``lr_mult``."""
    if not lr_mult > 0 or not math.isfinite(lr_mult):
        raise InputError(f"lr_mult must be above 0, got {lr_mult}")
    return lr_mult ** (1 / exponent(optimizer))


def theta(model: nn.Module) -> Mapping[str, Tensor]:
    """The values of the parameters as the model uses them, θ where φ is trained; detached, by their plain names."""
    values = {}
    for raw, parameter in model.named_parameters():
        name = plain(raw)
        owner, _, last = name.rpartition(".")
        values[name] = (parameter if name == raw else getattr(model.get_submodule(owner), last)).detach()
    return values


def _checked(scale: float) -> float:
    if not scale > 0 or not math.isfinite(scale):
        raise InputError(f"the scale λ must be a finite number above 0, got {scale}")
    return scale
