"""Which layer a parameter is in, counted from the input: what a learning rate that decays by layers goes by.

timm knows its own models (`group_matcher`). Any other module counts its children in the order they were made, and
descends where there is only one, so that a backbone and a head in one module are the backbone's layers and then the
head.

>>> from torch import nn
>>> layer_numbers(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
{'0.weight': 0, '0.bias': 0, '2.weight': 1, '2.bias': 1}
"""

from __future__ import annotations

from torch import nn

from tasks.layerwise.names import plain


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Each parameter's layer, from 0 at the input; names as in `tasks.layerwise.names.named`, in its order.

    Parameters that a module holds itself, beside those of its children (position embeddings), are in its first layer.
    """
    found = _numbers(model)
    return {name: found[name] for name in (plain(name) for name, _ in model.named_parameters())}


def _numbers(model: nn.Module) -> dict[str, int]:
    # Asked of the class: wrappers (torch.compile) pass the attribute on while their parameters have other names.
    if hasattr(type(model), "group_matcher"):
        return _timm_numbers(model)
    own = {plain(name): 0 for name, _ in model.named_parameters(recurse=False)}
    parts = [(name, child) for name, child in model.named_children() if any(True for _ in child.parameters())]
    # A parametrised module keeps its tensors in a child of its own; it is one layer all the same.
    if any(name == "parametrizations" for name, _ in parts):
        return {plain(name): 0 for name, _ in model.named_parameters()}
    alone = len(parts) == 1 and not own
    numbers, first = own, 0
    for name, child in parts:
        if alone or hasattr(type(child), "group_matcher"):
            inner = _numbers(child)
        else:
            inner = {plain(below): 0 for below, _ in child.named_parameters()}
        # setdefault: a tensor that two modules share is in the first one's layer
        for below, number in inner.items():
            numbers.setdefault(f"{name}.{below}", first + number)
        first += max(inner.values()) + 1
    return numbers


def _timm_numbers(model: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters  # heavy, and needed for timm's models alone

    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    return {plain(name): int(number) for name, number in numbers.items()}
