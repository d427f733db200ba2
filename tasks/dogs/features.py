"""What a frozen backbone sees, computed once for a (weights, photos, resolution, view).

All trials of all studies share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tasks.dogs import store
from tasks.dogs.backbone import Backbone, identity, load_backbone
from tasks.dogs.folders import Photos
from tasks.dogs.photos import Unreadable, read_photo

SHARD = 200  # photos; what a killed process loses at most
# Small batches stay in a CPU's cache: on two cores lite2 at 260 px runs at 40 photos/s in fours, at 22 in 32s.
_BATCH = {"cpu": 4, "cuda": 128}
VIEWS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (lambda x: x, lambda x: x.flip(3))  # as it is, mirrored


def features(
    photos: Photos, backbone: str, weights: str, resolution: int, view: int, cache: Path, device: str = "cpu"
) -> tuple[np.ndarray, store.Problems]:
    """Features of one view of all photos, float32 (photos, features), memory-mapped, and which could not be read."""
    key = f"{identity(backbone, weights)}-{resolution}px-view{view}-{photos.digest()}"
    compute = _Compute(photos, backbone, weights, resolution, view, device)
    return store.fill(cache / "features" / key, len(photos.paths), SHARD, compute)


class _Compute:
    """Features of a range of photos; loads the backbone when first asked."""

    def __init__(self, photos: Photos, backbone: str, weights: str, resolution: int, view: int, device: str) -> None:
        self._photos, self._resolution, self._view, self._device = photos, resolution, view, device
        self._name, self._weights = backbone, weights
        self._backbone: Backbone | None = None

    @torch.inference_mode()
    def __call__(self, rows: range) -> tuple[np.ndarray, store.Problems]:
        if self._backbone is None:
            self._backbone = load_backbone(self._name, self._weights)
            self._backbone.net.to(self._device).eval()
        backbone = self._backbone
        began = time.monotonic()
        problems: store.Problems = {}
        out = np.zeros((len(rows), backbone.features), dtype=np.float32)
        step = _BATCH[self._device]
        for start in range(0, len(rows), step):
            batch = rows[start : start + step]
            pixels = np.stack([self._read(row, problems) for row in batch])
            x = backbone.normalise(torch.from_numpy(pixels).to(self._device))
            out[start : start + len(batch)] = backbone.net(VIEWS[self._view](x)).float().cpu().numpy()
        done, speed = f"{rows.start}–{rows.stop} of {len(self._photos.paths)}", len(rows) / (time.monotonic() - began)
        print(f"features of view {self._view}: photos {done}, {speed:.0f}/s", flush=True)
        return out, problems

    def _read(self, row: int, problems: store.Problems) -> np.ndarray:
        try:
            return read_photo(self._photos.paths[row], self._resolution)
        except Unreadable as error:
            problems[row] = str(error)
            return np.zeros((self._resolution, self._resolution, 3), np.uint8)
