"""Which photos there are, of which class, for training and for validation. Standard library only: it runs before
anything heavy is imported, so that wrong data is reported at once."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

from tasks.api import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
UNLABELLED = "unlabelled"
_VALIDATION = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Photos:
    """``paths[i]`` shows class ``classes[labels[i]]``; the first ``trained`` of them are for training.

    A label of −1 is an unlabelled photo; those come last. ``keys`` name photos wherever the data lies:
    ``train/<class>/<file>``, ``val/<class>/<file>``, ``unlabelled/<file>``.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    trained: int
    keys: tuple[str, ...]

    def digest(self) -> str:
        """Changes when a photo is added, removed, moved to another split or class, or written anew."""
        hasher = hashlib.sha256()
        for path, label in zip(self.paths, self.labels, strict=True):
            stat = path.stat()
            hasher.update(f"{path}|{label}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return hasher.hexdigest()[:16]


def find_photos(root: Path, val_fraction: float = 0.2, split_seed: int = 0, unlabelled: bool = False) -> Photos:
    """The photos under ``root``: ``train/<class>/*`` with ``val/<class>/*``, or ``<class>/*``, split by class.

    ``unlabelled`` adds what is in the folder ``unlabelled/``, which is no class.
    Raises `InputError` saying which folder lacks what.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder of photos")
    train = root / "train"
    if train.is_dir():
        val = next((root / name for name in _VALIDATION if (root / name).is_dir()), None)
        if val is None:
            raise InputError(
                f"{root} has train/ but no val/: add it, or point at a folder with a folder for each class"
            )
        by_class, held = _classes(train), _classes(val)
        roots = (train, val)
        unknown = sorted(set(held) - set(by_class))
        if unknown:
            raise InputError(f"{val} has the class '{unknown[0]}', which {train} has not")
    else:
        roots = (root, root)
        by_class, held = _split(_classes(root), val_fraction, split_seed)
    classes = tuple(sorted(by_class))
    if len(classes) < 2:
        raise InputError(
            f"{root} has {len(classes)} class{'' if len(classes) else 'es'} with photos; two are the least"
        )
    for name in classes:
        if not held.get(name):
            raise InputError(
                f"class '{name}' of {root} has no validation photo: add one, or take the class out of train/"
            )
    found = [
        (path, label, f"{split}/{path.relative_to(base).as_posix()}")
        for split, base, part in zip(("train", "val"), roots, (by_class, held), strict=True)
        for label, name in enumerate(classes)
        for path in part[name]
    ]
    if unlabelled:
        found += [(path, -1, path.relative_to(root).as_posix()) for path in _unlabelled(root)]
    paths, labels, keys = zip(*found, strict=True)
    return Photos(paths, labels, classes, sum(len(by_class[name]) for name in classes), keys)


def _unlabelled(root: Path) -> list[Path]:
    photos = _photos_below(root / UNLABELLED)
    if not photos:
        raise InputError(
            f"{root / UNLABELLED} holds no photos, and params.pseudo_source is unlabelled: put them there, "
            "or give pseudo_rounds=0"
        )
    return photos


def _photos_below(folder: Path) -> list[Path]:
    return sorted(
        Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )


def _classes(root: Path) -> dict[str, list[Path]]:
    """Photos by the folder they lie under, sorted; folders without any are left out."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.name != UNLABELLED and (photos := _photos_below(folder)):
            found[folder.name] = photos
    if not found:
        raise InputError(f"{root} holds no photos: expected {root}/<class>/<photo>.jpg")
    return found


def _split(
    classes: dict[str, list[Path]], fraction: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Hold out the same share of each class, at least one photo, chosen by the seed and the class's name alone."""
    train, held = {}, {}
    for name, photos in classes.items():
        if len(photos) < 2:
            raise InputError(
                f"class '{name}' has a single photo ({photos[0]}): two are the least, one to validate with"
            )
        count = min(len(photos) - 1, max(1, round(fraction * len(photos))))
        chosen = set(random.Random(f"{seed}/{name}").sample(photos, count))
        train[name] = [photo for photo in photos if photo not in chosen]
        held[name] = [photo for photo in photos if photo in chosen]
    return train, held
