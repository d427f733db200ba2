"""What a selection looks at of every candidate: the right class's probability, and by how much others exceed it.

The excess pₘ(c) − pₘ(y) of every member m, photo and class c does not fit into memory for a thousand members. It lies
photo by photo in one file, (photos, classes, members), written in chunks: what decides one photo is read in one piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.ensemble.members import Members

CHUNK_BYTES = 64 << 20
IN_MEMORY = 128 << 20


class Candidates:
    """Some members on some photos, each at its temperature. ``folder``: where the file lies while this lives."""

    def __init__(
        self, members: Members, which: Sequence[int], photos: np.ndarray, temperatures: np.ndarray, folder: Path
    ) -> None:
        self._members, self.which, self.photos, self._temperatures = members, list(which), photos, temperatures
        self.labels = members.frame.labels[photos]
        self._folder = folder
        self.own = np.empty((len(photos), len(self.which)), np.float32)
        for place in range(len(self.which)):
            if temperatures[place] == 1:
                self.own[:, place] = np.exp(members.own[self.which[place], photos])
            else:
                self.own[:, place] = np.exp(self._log_p(place, photos)[np.arange(len(photos)), self.labels])
        np.maximum(self.own, 1e-30, out=self.own)  # a member may give the right class none: the loss stays finite

    def __len__(self) -> int:
        return len(self.which)

    def excess(self, place: int) -> np.ndarray:
        """Of one candidate: p(c) − p(y), float32 (photos, classes), −inf at the right class itself."""
        return self._excess(place, slice(0, len(self.photos)))

    def cube(self) -> np.ndarray:
        """The excess of all candidates: float32 (photos, classes, candidates)."""
        shape = (len(self.photos), len(self._members.frame.classes), len(self.which))
        size = 4 * int(np.prod(shape))
        if size <= IN_MEMORY:
            cube = np.empty(shape, np.float32)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:  # the map outlives the file's name
                cube = np.memmap(file, np.float32, "w+", shape=shape)
        step = max(1, CHUNK_BYTES // (size // shape[0]))
        for start in range(0, shape[0], step):
            some = slice(start, min(start + step, shape[0]))
            chunk = np.stack([self._excess(place, some) for place in range(shape[2])])
            cube[some] = chunk.transpose(1, 2, 0)
        return cube

    def _excess(self, place: int, some: slice) -> np.ndarray:
        p = np.exp(self._log_p(place, self.photos[some]))
        rows = np.arange(len(p))
        p -= p[rows, self.labels[some]][:, None]
        p[rows, self.labels[some]] = -np.inf
        return p

    def _log_p(self, place: int, photos: np.ndarray) -> np.ndarray:
        return self._members.all[self.which[place]].log_probabilities(photos, float(self._temperatures[place]))
