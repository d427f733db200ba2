"""Checkpoints: one safetensors file each, written aside and renamed, holding tensors and plain values only.

Nothing is pickled, so a checkpoint from anywhere can be loaded without running code from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEEP = 2  # the last one and the one before it, in case the last is damaged


def save(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write ``step-<n>.safetensors`` and drop all but the last `KEEP`.

    Raises TypeError for a value that is neither a tensor nor plain (None, bool, number, string, list, tuple, dict).
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    tree = _flatten(state, tensors, "state")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}.safetensors"
    aside = path.with_suffix(".tmp")
    save_file(tensors, aside, metadata={"step": str(step), "tree": json.dumps(tree)})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    for old in _files(folder)[:-KEEP]:
        old.unlink()


def load_last(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """``(step, state)`` of the newest checkpoint that is whole, or None."""
    from safetensors import SafetensorError, safe_open

    for path in reversed(_files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError as error:
            print(f"checkpoint {path} is damaged ({error}); taking the one before it", flush=True)
            continue
        return int(metadata["step"]), _unflatten(json.loads(metadata["tree"]), tensors)
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))


def _flatten(value: Any, tensors: dict[str, Any], name: str) -> Any:
    """A JSON tree in which ``{"t": name}`` stands for a tensor; keys keep their type."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()  # a clone: safetensors refuses shared memory
        return {"t": name}
    if isinstance(value, Mapping):
        return {"d": [[k, _flatten(v, tensors, f"{name}.{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]
        return {"l" if isinstance(value, list) else "u": items}
    if value is None or isinstance(value, bool | int | float | str):
        return {"v": value}
    raise TypeError(f"a checkpoint holds tensors and plain values; {name} is a {type(value).__name__}")


def _unflatten(tree: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    (kind, value), *_ = tree.items()
    if kind == "t":
        return tensors[value]
    if kind == "d":
        return {k: _unflatten(v, tensors) for k, v in value}
    if kind == "l":
        return [_unflatten(v, tensors) for v in value]
    if kind == "u":
        return tuple(_unflatten(v, tensors) for v in value)
    return value
