"""Checkpoints: one safetensors file each, written aside and renamed, holding tensors and plain values only.

Nothing is pickled, so a checkpoint from anywhere can be loaded without running code from it. Two are kept: the last,
and the best of the others, to which a trial falls back when the last is damaged.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEEP = 2


class Checkpoint(NamedTuple):
    """``notes`` are the machinery's own, one mapping each."""

    step: int
    state: dict[str, Any]
    notes: list[dict[str, Any]]


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    score: float = -math.inf,
    notes: Sequence[Mapping[str, Any]] = (),
    last_look: Callable[[], None] = lambda: None,
) -> None:
    """Write ``step-<n>.safetensors``; of the older ones keep the one of the highest ``score``, the newer in a tie.

    ``last_look`` is called when it is all written and before it appears: what it raises keeps it from appearing.
    Raises TypeError for a value that is neither a tensor nor plain (None, bool, number, string, list, tuple, dict), and
    OSError when the disk is full: what was there before is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    tree = _flatten(state, tensors, "state")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}.safetensors"
    aside = path.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")  # an attempt that was given up may be writing the same
    metadata = {"step": str(step), "score": repr(score), "notes": json.dumps(list(notes)), "tree": json.dumps(tree)}
    metadata["crc"] = _checksum(tensors, metadata)
    try:
        save_file(tensors, aside, metadata=metadata)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        last_look()
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        # safetensors writes in Rust and says it in its own words
        if isinstance(error, OSError | SafetensorError) and "os error 28" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    _drop_old(folder, path)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None. Says which one was damaged."""
    from safetensors import SafetensorError, safe_open

    for path in reversed(_files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                if metadata.pop("crc") != _checksum(tensors, metadata):
                    raise ValueError("the checksum does not match")
                state = _unflatten(json.loads(metadata["tree"]), tensors)
                return Checkpoint(int(metadata["step"]), state, json.loads(metadata["notes"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            print(f"checkpoint {path} is damaged ({error}); taking the one before it", flush=True)
    return None


def _checksum(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Of all that a file holds: safetensors has none of its own."""
    import torch

    total = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"


def adopt(folder: Path, parent: Path) -> None:
    """Replace a trial's checkpoints by the newest of another trial."""
    newest = _files(parent)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    aside = (folder / newest.name).with_suffix(".tmp")
    shutil.copyfile(newest, aside)
    for old in _files(folder):
        old.unlink()
    os.replace(aside, folder / newest.name)


def largest(folder: Path) -> int:
    """The size in bytes of the largest checkpoint of a trial, 0 without one."""
    return max((path.stat().st_size for path in _files(folder)), default=0)


def _drop_old(folder: Path, newest: Path) -> None:
    older = [path for path in _files(folder) if path != newest]
    for path in sorted(older, key=lambda path: (_score(path), path.name))[: -(KEEP - 1)]:
        path.unlink()
    for left in folder.glob("step-*.tmp"):  # by a worker that died at it
        left.unlink(missing_ok=True)


def _score(path: Path) -> float:
    """What a checkpoint was saved with; one that cannot be read is worth nothing."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            score = float(file.metadata()["score"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        return -math.inf
    return -math.inf if math.isnan(score) else score


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
