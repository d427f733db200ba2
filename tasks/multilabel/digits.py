"""Canvases of several MNIST digits: which digits are on it?

A canvas of 32 × 32 pixels holds none up to ``most_digits`` digits, each number as often, of half size (14 × 14) and at
random places; they may overlap and repeat. Test canvases are made of MNIST's test digits, the others of its training
digits, of which those to choose by have every tenth for themselves. Built in are scikit-learn's 1,797 digits of 8 × 8
pixels (UCI's test set of optical recognition), enlarged; the last third is for testing.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tasks.api import Context, InputError
from tasks.multilabel.problem import Part, Problem

if TYPE_CHECKING:
    from tasks.multilabel import MultilabelParams

__all__ = ["check_folder", "compose", "make_digits", "read_idx"]

_CANVAS, _DIGIT, _CLASSES = 32, 14, 10
_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def check_folder(folder: Path) -> list[Path]:
    """MNIST's four files in a folder or its ``MNIST/raw``, packed or not. Raises `InputError` without them."""
    told = "give data=FOLDER with MNIST's four idx files, as they are or as .gz"
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: {told}")
    found = []
    for name in _FILES:
        places = [place / f"{name}{end}" for place in (folder, folder / "MNIST" / "raw") for end in ("", ".gz")]
        if (path := next((place for place in places if place.is_file()), None)) is None:
            raise InputError(f"{folder} holds neither {name} nor {name}.gz: {told}")
        found.append(path)
    return found


def read_idx(path: Path) -> np.ndarray:
    """The bytes in an idx file: 0, 0, 8 (unsigned bytes), how many dimensions, their sizes (big endian), the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        if (zero, kind) != (0, 8):
            raise ValueError(f"it begins with {data[:4].hex(' ')}")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise InputError(f"{path} is no idx file of bytes, or is damaged: {error}") from error


def compose(
    images: np.ndarray, labels: np.ndarray, rows: int, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Canvases (rows, 32, 32), 0 … 1, and which digits are on each (rows, 10). ``images`` (n, 28, 28) bytes."""
    canvases, holds = np.zeros((rows, _CANVAS, _CANVAS), np.float32), np.zeros((rows, _CLASSES), bool)
    number = rng.integers(most + 1, size=rows)
    inside = np.arange(_DIGIT)
    for k in range(most):
        row = np.flatnonzero(number > k)
        which = rng.integers(len(images), size=len(row))
        corner = rng.integers(_CANVAS - _DIGIT + 1, size=(2, len(row)))
        small = images[which].reshape(-1, _DIGIT, 2, _DIGIT, 2).mean(axis=(2, 4), dtype=np.float32) / 255
        at = (row[:, None, None], (corner[0][:, None] + inside)[:, :, None], (corner[1][:, None] + inside)[:, None, :])
        canvases[at] = np.maximum(canvases[at], small)
        holds[row, labels[which]] = True
    return canvases, holds


def make_digits(params: MultilabelParams, context: Context) -> Problem:
    """Canvases drawn from the context's seed, and a small convolutional network."""
    files = None if context.data is None else check_folder(context.data)
    images, labels, test_images, test_labels = _built_in() if files is None else map(read_idx, files)
    rng = np.random.default_rng(context.seed)
    chosen = np.arange(len(images)) % 10 == 0
    most, held = params.most_digits, params.held_rows
    drawn = (
        compose(images[~chosen], labels[~chosen], params.train_rows, most, rng),
        compose(images[chosen], labels[chosen], held, most, rng),
        compose(test_images, test_labels, held, most, rng),
    )
    train, val, test = (Part(torch.from_numpy(x)[:, None], torch.from_numpy(y)) for x, y in drawn)
    model = nn.Sequential(
        *_stage(1, 16, 5, nn.MaxPool2d(2)),  # (n, 16, 16, 16)
        *_stage(16, 32, 3, nn.MaxPool2d(2)),  # (n, 32, 8, 8)
        *_stage(32, 96, 3, nn.AdaptiveMaxPool2d(1)),  # (n, 96, 1, 1): seen anywhere is seen
        nn.Flatten(), nn.Linear(96, params.hidden), nn.GELU(), nn.Linear(params.hidden, _CLASSES),
    )  # fmt: skip
    return Problem(train, val, test, model)


def _stage(before: int, after: int, side: int, pool: nn.Module) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, side, padding=side // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU(), pool


def _built_in() -> tuple[np.ndarray, ...]:
    """Images (n, 28, 28) and labels to learn from, and as many arrays to test on."""
    from sklearn.datasets import load_digits

    packed = load_digits()
    images = np.kron(packed.images * (255 / 16), np.ones((1, 3, 3))).round().astype(np.uint8)
    images, labels, last = np.pad(images, ((0, 0), (2, 2), (2, 2))), packed.target, -(len(images) // 3)
    return images[:last], labels[:last], images[last:], labels[last:]
