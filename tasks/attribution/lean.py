"""A model's own forward pass, to the bit, with a backward pass of fewer steps: for models that are only explained.

Idea: a batch normalisation that no longer learns multiplies by one number a channel, so its gradient does, and nothing
of its input need be kept or summed up; and a clamp in place needs its result alone, where torch copies its input first.
The forward pass stays as it is because a network of ReLUs changes in jumps: folding the normalisations into the
convolutions, which is faster still, rounds differently, and at a kink that moves a pixel by a hundredth of the map.

>>> import torch
>>> layer = torch.nn.BatchNorm1d(2).eval().requires_grad_(False)
>>> _ = layer.running_var.copy_(torch.tensor([4.0, 0.25])), layer.weight.copy_(torch.tensor([1.0, 3.0]))
>>> x = torch.ones(1, 2, requires_grad=True)
>>> with LeanBackward():
...     y = layer(x).sum()
>>> torch.autograd.grad(y, x)[0].round(decimals=3).tolist()  # weight / √variance
[[0.5, 6.0]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class LeanBackward(TorchFunctionMode):
    """Within it, these operations record the lean gradient, whatever model calls them; all others are untouched."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        return _LEAN.get(func, func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    learns = training or any(each is not None and each.requires_grad for each in (weight, bias))
    if learns or mean is None or variance is None:
        return functional.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    return _Normalised.apply(x, mean, variance, weight, bias, eps)


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    if not inplace:
        return functional.hardtanh(x, min_val, max_val)
    return _Clamped.apply(x, min_val, max_val)


def _relu6(x: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(x, 0.0, 6.0, True) if inplace else functional.relu6(x)


_LEAN: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.batch_norm: _batch_norm,
    functional.hardtanh: _hardtanh,
    functional.relu6: _relu6,
}


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(scale if weight is None else scale * weight)
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        return gradient * scale.view(-1, *[1] * (gradient.dim() - 2)), None, None, None, None, None


class _Clamped(torch.autograd.Function):
    """In place; its gradient is open where the result lies strictly within the bounds, as the input then does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.bounds = low, high
        ctx.mark_dirty(x.clamp_(low, high))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, result, *ctx.bounds), None, None
