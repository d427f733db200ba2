"""Parameters by name: what a glob pattern matches, and what is said when it matches nothing.

>>> from torch import nn
>>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
>>> list(named(model))
['0.weight', '0.bias', '2.weight', '2.bias']
>>> matching("2.*", named(model), "clip")
['2.weight', '2.bias']
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import nn

from tasks.api import InputError

_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters, each once, by the names its modules give them.

    A parametrised ``body.parametrizations.weight.original`` is called ``body.weight``, as it was before.
    """
    return {plain(name): parameter for name, parameter in model.named_parameters()}


def plain(name: str) -> str:
    """A parameter's name without what `torch.nn.utils.parametrize` adds to it."""
    return _PARAMETRIZED.sub(r"\1\2", name)


def matching(pattern: str, names: Collection[str], said_by: str) -> list[str]:
    """The names that a glob pattern matches, in their order. ``*`` crosses dots: ``head.*`` is all below ``head``.

    Raises `InputError` when there are none; ``said_by`` is what the pattern was given to.
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise InputError(f"{said_by}: no parameter is called '{pattern}'{near_patterns(pattern, names)}")
    return found


def near_patterns(pattern: str, names: Collection[str]) -> str:
    """``"; near it: …"``: names and whole modules of the model like the pattern, or what there is at all."""
    modules = {".".join(parts[:depth]) + ".*" for parts in _split(names) for depth in range(1, len(parts))}
    near = difflib.get_close_matches(pattern, [*sorted(modules), *names], n=3, cutoff=0.5)
    if near:
        return "; near it: " + ", ".join(f"'{name}'" for name in near)
    return f"; the model has {listed(sorted({parts[0] for parts in _split(names)}), most=6)} at its top"


def listed(names: Collection[str], most: int = 3) -> str:
    """The first few names, quoted, and how many more there are."""
    first = ", ".join(f"'{name}'" for name in list(names)[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def _split(names: Iterable[str]) -> list[list[str]]:
    return [name.split(".") for name in names]
