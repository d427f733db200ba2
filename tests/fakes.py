"""A context that keeps everything in memory: all that it takes to run a task in a test."""

from __future__ import annotations

import copy
from pathlib import Path


class FakeContext:
    def __init__(self, folder: Path, seed: int = 1, data: Path | None = None, cache: Path | None = None) -> None:
        self.seed, self.device, self.data = seed, "cpu", data
        self.folder, self.cache = folder, cache or folder / "cache"
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.saved: list[tuple[int, dict]] = []
        self.start: tuple[int, dict] | None = None

    def report(self, step, /, **metrics):
        self.reports.append((step, metrics))

    def save(self, step, state):
        self.saved.append((step, copy.deepcopy(dict(state))))

    def restore(self):
        return self.start

    def artifact(self, name):
        path = self.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def figure(self, name, figure):
        figure.savefig(self.artifact(f"{name}.png"))
