"""Small data in the place of a reader's own: photos, pictures, MNIST's files, KDD's rows, texts. All are drawn."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.terms import builtin


def make(root: Path) -> None:
    """All of them, each below ``root`` by its name."""
    photos(root / "photos", {"train": 4, "val": 8})
    photos(root / "pictures", {"train": 40, "test": 20})
    mnist(root / "mnist")
    kdd(root / "kdd")
    field = builtin.ensure(root / "field")
    for made, name in ((field.corpus, "corpus.txt"), (field.background, "other.txt"), (field.gold, "list.txt")):
        shutil.copy(made, root / name)


def photos(root: Path, splits: dict[str, int]) -> None:
    """Three breeds, told apart by their colour; ``splits`` says how many photos of each."""
    random = np.random.default_rng(0)
    for split, count in splits.items():
        for breed, name in enumerate(("beagle", "borzoi", "collie")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (32, 32, 3), np.uint8)
                pixels[..., breed] += 120
                Image.fromarray(pixels).save(folder / f"{number}.jpg")


def mnist(root: Path) -> None:
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 60)):
        labels = np.arange(count) % 10
        images = random.integers(0, 40, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6, 6:22] = 250
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            packed = gzip.compress(header + values.astype(np.uint8).tobytes())
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(packed)


def kdd(root: Path) -> None:
    """Rows of 41 features: attacks alike, normal ones spread out."""
    root.mkdir(parents=True)
    random, lines = np.random.default_rng(0), []
    for row in range(400):
        normal = row % 5 == 0
        words = [str(number) for number in random.integers(0, 500 if normal else 20, 41)]
        words[1:4] = ["udp" if normal else "tcp", "http", "SF"]
        for column in (6, 11, 20, 21):
            words[column] = str(int(normal and row % 2))
        lines.append(",".join([*words, "normal." if normal else "smurf."]))
    (root / "kddcup.data_10_percent.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
