"""Parameter groups: each layer its own learning rate, by rules or by depth.

Source: Su Jianlin, kexue.fm/archives/6418 (layer-wise learning rates), and BEiT, arXiv 2106.08254, for rates that decay
by depth, as timm's ``param_groups_layer_decay`` has them.
Idea: a fine-tuned network wants small steps where it is already right and large ones where it is new. The groups hold
real rates (``lr`` times the layer's scale): timm's own hold an ``lr_scale`` that its schedulers alone multiply in, and
that torch's optimisers ignore without a word.

>>> from torch import nn
>>> from torch.optim import AdamW
>>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
>>> groups = parameter_groups(model, [rule("0.*", lr_mult=0.1), rule("*.bias", weight_decay=0), rule("*")],
...                           lr=0.01, weight_decay=0.05)
>>> print(table(groups))
group   tensors  parameters  lr     weight decay
0.*           2           9  0.001  0.05
*.bias        1           1  0.01   0
*             1           3  0.01   0.05
>>> optimizer = AdamW(groups)

Schedulers multiply each group's own rate and so keep the ratios (LambdaLR, cosine down to 0), except where they are
told one rate for all: give OneCycleLR ``max_lr=[group["lr"] for group in groups]``; a floor (``eta_min``) is one floor.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tasks.api import InputError
from tasks.layerwise.layers import layer_numbers
from tasks.layerwise.names import listed, matching, named


@dataclass(frozen=True)
class Rule:
    """What the parameters of a name get: a factor on the learning rate, a decay, and other options of the optimiser."""

    pattern: str
    lr_mult: float = 1.0
    weight_decay: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.lr_mult > 0 or not math.isfinite(self.lr_mult):
            raise InputError(
                f"rule '{self.pattern}': lr_mult must be above 0, got {self.lr_mult}"
                " (to freeze parameters, call requires_grad_(False) on them)"
            )
        if self.weight_decay is not None and (not self.weight_decay >= 0 or not math.isfinite(self.weight_decay)):
            raise InputError(f"rule '{self.pattern}': weight_decay must be 0 or more, got {self.weight_decay}")
        if taken := {"params", "lr", "name", "names"} & set(self.options):
            raise InputError(f"rule '{self.pattern}': {listed(sorted(taken))} cannot be set; a rate is set by lr_mult")


def rule(pattern: str, *, lr_mult: float = 1.0, weight_decay: float | None = None, **options: Any) -> Rule:
    """A `Rule` for the parameters that a glob pattern matches. Other options go to the optimiser: ``eps=1e-6``."""
    return Rule(pattern, lr_mult, weight_decay, options)


class Groups(list[dict[str, Any]]):
    """Parameter groups as torch's optimisers take them, and the names of what was left out as frozen.

    A group holds ``params``, ``lr``, ``weight_decay`` and, which optimisers pass over, ``name`` and ``names``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], frozen: Sequence[str] = ()) -> None:
        super().__init__(groups)
        self.frozen = tuple(frozen)

    def __str__(self) -> str:
        return table(self)


def parameter_groups(
    model: nn.Module,
    rules: Sequence[Rule] | None = None,
    *,
    lr: float,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
    weight_decay_exclude_1d: bool = False,
    keep_frozen: bool = False,
) -> Groups:
    """Groups for an optimiser, by rules (the first that matches wins), by depth, or by both, whose factors multiply.

    lr: of a factor of 1. weight_decay: where no rule says otherwise. layer_decay: in (0, 1]; the last layer learns at
    ``lr``, each one before it at ``layer_decay`` times the rate of the next. weight_decay_exclude_1d: tensors of one
    dimension (biases, norms) do not decay, unless their rule gives a decay.
    keep_frozen: parameters that need no gradient are left out unless this is set. Set it where they are unfrozen later,
    as an optimiser passes over what has no gradient; then no rule may forget them.

    Raises `InputError` for a rule that matches nothing or comes too late to, and for a parameter without a rule.
    """
    _check(lr, weight_decay, layer_decay)
    parameters = named(model)
    frozen = () if keep_frozen else tuple(name for name, p in parameters.items() if not p.requires_grad)
    trained = {name: p for name, p in parameters.items() if name not in set(frozen)}
    if not trained:
        raise InputError("no parameter of the model is trained: all are frozen (requires_grad is False)")
    given = list(rules) if rules is not None else [Rule("*")]
    ruled = _ruled(parameters, given, needed=trained)
    layers = layer_numbers(model) if layer_decay is not None else dict.fromkeys(parameters, 0)
    depth = max(layers.values())
    groups: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for name, parameter in trained.items():
        one, layer = given[ruled[name]], layers[name]
        exempt = weight_decay_exclude_1d and parameter.ndim <= 1 and one.weight_decay is None
        key = (layer, ruled[name], exempt)
        if key not in groups:
            title = ([f"layer {layer}"] if layer_decay is not None else []) + ([one.pattern] if rules else [])
            groups[key] = {
                **one.options,
                "params": [],
                "names": [],
                "name": (" ".join(title) or "all") + (", 1-d" if exempt else ""),
                "lr": lr * one.lr_mult * (layer_decay or 1.0) ** (depth - layer),
                "weight_decay": 0.0 if exempt else weight_decay if one.weight_decay is None else one.weight_decay,
            }
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return Groups([groups[key] for key in sorted(groups)], frozen)


def table(groups: Sequence[Mapping[str, Any]]) -> str:
    """The groups as text: a line each with its tensors, parameters, learning rate and weight decay.

    Takes an optimiser's ``param_groups`` too, and then shows the rates as they are now.
    """
    rows = [["group", "tensors", "parameters", "lr", "weight decay"]]
    for number, group in enumerate(groups):
        params = group["params"]
        frozen = sum(not p.requires_grad for p in params)
        rows.append(
            [
                group.get("name", f"group {number}") + (f" ({frozen} frozen)" if frozen else ""),
                str(len(params)), f"{sum(p.numel() for p in params):,}",
                f"{group['lr']:.4g}" if "lr" in group else "default",
                f"{group['weight_decay']:.4g}" if "weight_decay" in group else "default",
            ]
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{name:<{widths[0]}}  {tensors:>{widths[1]}}  {count:>{widths[2]}}  {rate:<{widths[3]}}  {decay}".rstrip()
        for name, tensors, count, rate, decay in rows
    ]
    left_out = getattr(groups, "frozen", ())
    return "\n".join([*lines, *([f"frozen, in no group: {listed(left_out)}"] if left_out else [])])


def _check(lr: float, weight_decay: float, layer_decay: float | None) -> None:
    if not lr > 0 or not math.isfinite(lr):
        raise InputError(f"lr must be above 0, got {lr}")
    if not weight_decay >= 0 or not math.isfinite(weight_decay):
        raise InputError(f"weight_decay must be 0 or more, got {weight_decay}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay must be in (0, 1], got {layer_decay} (1 gives all layers the same rate)")


def _ruled(names: Mapping[str, Any], rules: Sequence[Rule], needed: Mapping[str, Any]) -> dict[str, int]:
    """Which rule each name falls under: the first that matches. What is in ``needed`` must have one."""
    ruled: dict[str, int] = {}
    for number, one in enumerate(rules):
        said = f"rule {number + 1} of {len(rules)}"
        found = matching(one.pattern, names, said)
        if all(name in ruled for name in found):
            earlier = list(dict.fromkeys(rules[ruled[name]].pattern for name in found))
            raise InputError(
                f"{said}: '{one.pattern}' comes too late, all that it matches is taken by {listed(earlier)}; "
                "the first rule that matches wins: put the narrower one first"
            )
        for name in found:
            ruled.setdefault(name, number)
    if forgotten := [name for name in needed if name not in ruled]:
        raise InputError(
            f"no rule matches {listed(forgotten)}{_near_rules(forgotten[0], rules)}; "
            'end the rules with rule("*") for all that is left, or freeze these with requires_grad_(False)'
        )
    return ruled


def _near_rules(name: str, rules: Sequence[Rule]) -> str:
    near = difflib.get_close_matches(name, [one.pattern for one in rules], n=2, cutoff=0.5)
    return f" (near the first: {listed(near)})" if near else ""
