"""Attribution at a named layer's output: at the embedding of a text, whose tokens have no gradient.

Idea: the layer's output is computed once for the input and once for the baseline; the path runs between those two, and
at each of its points the model runs with that point in the layer's place. The product with (x − x̄) is taken at the
layer's output as it is; multiplying by the scaled embedding α·x inside the integral, as the demonstration of
kexue.fm/archives/7533 does, does not add up to the score's change.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.api import InputError
from tasks.attribution.gradients import Score


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """A module of the model by its dotted name. Raises `InputError` with names that are near."""
    layers = dict(model.named_modules())
    layers.pop("", None)
    if name in layers:
        return layers[name]
    endings = [known for known in layers if name and known.rpartition(".")[2] == name.rpartition(".")[2]]
    near = list(dict.fromkeys([*difflib.get_close_matches(name, layers, n=3, cutoff=0.5), *endings]))[:5]
    some = f"near it: {', '.join(near)}" if near else f"it has {', '.join(list(layers)[:8])} …"
    raise InputError(f"the model has no layer '{name}'; {some}")


@torch.no_grad()
def layer_output(model: nn.Module, name: str, inputs: Tensor) -> Tensor:
    """What a layer gives for ``inputs`` (n, …): one tensor (n, …)."""
    seen: list[Any] = []
    _with_hook(model, name, lambda _module, _args, output: seen.append(output), inputs)
    (output,) = seen
    if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != len(inputs):
        raise InputError(f"layer '{name}' gives no tensor of numbers, one row an input: nothing to attribute to")
    return output.detach()


def layer_score(model: nn.Module, name: str, inputs: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The score of rows that stand for the layer's output; row r is of ``inputs[items[r]]``.

    ``score`` maps the model's output and the items to one number each, as ``lambda output, items: output[:, 3]``.
    """
    find_layer(model, name)

    def scored(rows: Tensor, items: Tensor) -> Tensor:
        return score(_with_hook(model, name, lambda _module, _args, _output: rows, inputs[items]), items)

    return scored


def _with_hook(model: nn.Module, name: str, hook: Callable[..., Any], inputs: Tensor) -> Any:
    calls = 0

    def counted(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        return hook(module, args, output)

    handle = find_layer(model, name).register_forward_hook(counted)
    try:
        output = model(inputs)
    finally:
        handle.remove()
    if calls != 1:
        raise InputError(f"layer '{name}' ran {calls} times in one pass: attribution takes a layer that runs once")
    return output
