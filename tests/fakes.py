"""A context that keeps everything in memory: all that it takes to run a task in a test."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path


class InMemory(list):
    """Results of a map, all of them here."""

    @property
    def handles(self):
        return [Here(result) for result in self]


@dataclass(frozen=True)
class Here:
    result: object

    def load(self):
        return self.result


class FakeContext:
    def __init__(self, folder: Path, seed: int = 1, data=None, cache=None, inputs=()) -> None:
        self.seed, self.device, self.data = seed, "cpu", data
        self.inputs = inputs
        self.rank, self.processes = 0, 1
        self.folder, self.cache = folder, cache or folder / "cache"
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.saved: list[tuple[int, dict]] = []
        self.start: tuple[int, dict] | None = None
        self.mapped: dict[str, int] = {}

    def report(self, step, /, **metrics):
        self.reports.append((step, metrics))

    def save(self, step, state):
        self.saved.append((step, copy.deepcopy(dict(state))))

    def restore(self):
        return self.start

    def map(self, function, items, *, name=None, keys=None):
        results = InMemory(function(item) for item in items)
        assert keys is None or len(set(keys)) == len(results)
        self.mapped[name or function.__name__] = len(results)
        return results

    def artifact(self, name):
        path = self.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def figure(self, name, figure):
        figure.savefig(self.artifact(f"{name}.png"))
