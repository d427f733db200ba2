"""From a data set's archives to the folder that the tasks read: one function each, named in the catalogue.

Each is given the folder with the files that were downloaded, a new folder to fill, a folder that is not there yet for
what is needed in between, and how many bytes may come out of the archives. Photos end as ``{train,val,test}/<class>/``.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.datasets.unpack import unpack

_BREEDS = {
    "n02086240": "Shih_Tzu",
    "n02087394": "Rhodesian_ridgeback",
    "n02088364": "beagle",
    "n02089973": "English_foxhound",
    "n02093754": "Border_terrier",
    "n02096294": "Australian_terrier",
    "n02099601": "golden_retriever",
    "n02105641": "Old_English_sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}
_CIFAR_SIDE, _CIFAR_RECORD = 32, 1 + 3 * 32 * 32  # px; bytes: a label, then red, green, blue, each row by row


def as_they_are(downloads: Path, target: Path, scratch: Path, most: int) -> None:
    for file in sorted(downloads.glob("*.gz")):
        os.replace(file, target / file.name)


def imagewoof(downloads: Path, target: Path, scratch: Path, most: int) -> None:
    """``{train,val}/<synset>-<breed>``, as Stanford Dogs calls them, so that one can read a confusion."""
    unpack(downloads / "imagewoof2-320.tgz", scratch, most)
    for split in ("train", "val"):
        for synset, breed in _BREEDS.items():
            (target / split).mkdir(exist_ok=True)
            os.replace(scratch / "imagewoof2-320" / split / synset, target / split / f"{synset}-{breed}")


def stanford_dogs(downloads: Path, target: Path, scratch: Path, most: int) -> None:
    """``{train,test}/<synset>-<breed>``: a hundred of each breed to train on, as its lists say."""
    from scipy.io import loadmat

    unpack(downloads / "images.tar", scratch / "images", most)
    unpack(downloads / "lists.tar", scratch / "lists", most)
    for split in ("train", "test"):
        for row in loadmat(scratch / "lists" / f"{split}_list.mat")["file_list"]:
            name = str(row[0][0])  # n02085620-Chihuahua/n02085620_5927.jpg
            _move(scratch / "images" / "Images" / name, target / split / name)


def oxford_pets(downloads: Path, target: Path, scratch: Path, most: int) -> None:
    """``{train,test}/<breed>``, as its lists ``trainval.txt`` and ``test.txt`` say."""
    unpack(downloads / "images.tar.gz", scratch / "images", most)
    unpack(downloads / "annotations.tar.gz", scratch / "annotations", most)
    for split, name in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in (scratch / "annotations" / "annotations" / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                photo = line.split()[0]  # Abyssinian_100, of the breed before the last underscore
                breed = photo.rpartition("_")[0]
                _move(scratch / "images" / "images" / f"{photo}.jpg", target / split / breed / f"{photo}.jpg")


def cifar10(downloads: Path, target: Path, scratch: Path, most: int) -> None:
    """``{train,test}/<class>/<place in the file>.png``: the same pixels, as every reader of photos reads them."""
    import numpy as np
    from PIL import Image

    unpack(downloads / "cifar-10-binary.tar.gz", scratch, most)
    source = scratch / "cifar-10-batches-bin"
    classes = (source / "batches.meta.txt").read_text(encoding="utf-8").split()
    for split, batches in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        for name in classes:
            (target / split / name).mkdir(parents=True)
        packed = b"".join((source / f"{batch}.bin").read_bytes() for batch in batches)
        records = np.frombuffer(packed, np.uint8).reshape(-1, _CIFAR_RECORD)
        for place, record in enumerate(records):
            pixels = record[1:].reshape(3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(1, 2, 0)
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            picture.save(target / split / classes[record[0]] / f"{place:05}.png")


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
