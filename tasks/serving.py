"""Loads a model that a trial left behind, whichever task made it.

An exported folder says in ``task.json`` which task it belongs to. `_load_pyfunc` is the name that model servers of the
``pyfunc`` kind look for; nothing else here depends on them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np


class Predictor:
    """Maps a batch of inputs to a batch of outputs."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function

    def predict(self, inputs: np.ndarray, params: object = None) -> np.ndarray:
        return self._function(np.asarray(inputs))


def mark(folder: Path, task: str) -> None:
    """Write down which task an exported folder belongs to."""
    (folder / "task.json").write_text(json.dumps({"task": task}))


def load(folder: Path) -> Predictor:
    """The predictor of an exported folder."""
    name = json.loads((folder / "task.json").read_text())["task"]
    task = importlib.import_module(f"tasks.{name}").TASK
    return Predictor(task.model.load(folder))


def _load_pyfunc(path: str) -> Predictor:
    return load(Path(path))
