"""Pictures to learn from: digits (built in), MNIST, MNIST stacked three deep, CIFAR-10; all within ±1."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.api import InputError
from tasks.dogs.folders import find_photos
from tasks.multilabel.digits import check_folder, read_idx

_BATCHES = "cifar-10-batches-py"


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits: (n, 1, 8, 8) and their labels."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pictures / 8 - 1).float().view(-1, 1, 8, 8), torch.from_numpy(labels).long()


def mnist(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pictures (n, 1, 28, 28) and labels, then those to test on."""
    found = []
    for at, path in enumerate(check_folder(folder)):
        values = torch.from_numpy(read_idx(path).copy())
        found.append(values.long() if at % 2 else _within(values[:, None]))
    pictures, labels, test, test_labels = found
    return pictures, labels, test, test_labels


def check_cifar(root: Path) -> None:
    """Raises `InputError` where there is neither a folder a class nor torchvision's copy."""
    if not (root / _BATCHES).is_dir():
        find_photos(root)


def cifar(root: Path) -> Tensor:
    """Training pictures (n, 3, side, side): torchvision's ``cifar-10-batches-py``, or one folder for each class."""
    if (root / _BATCHES).is_dir():
        return _within(torch.from_numpy(_torchvision_batches(root)))
    found = find_photos(root)
    return _within(torch.from_numpy(_read_all(found.paths[: found.trained or len(found.paths)])))


def _torchvision_batches(root: Path) -> np.ndarray:
    from torchvision.datasets import CIFAR10

    try:
        return CIFAR10(root, train=True, download=False).data.transpose(0, 3, 1, 2)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{root / _BATCHES} is damaged or not whole: {error}") from error


def _read_all(paths: list[Path] | tuple[Path, ...]) -> np.ndarray:
    """uint8 (n, 3, side, side). All must be of one size, and square."""
    first, pictures = None, []
    for path in paths:
        try:
            with Image.open(path) as image:
                size = image.size
                pictures.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except OSError as error:
            raise InputError(f"{path} is no picture that can be read: {error}; mend it or take it out") from error
        first = first or size
        if size != first or size[0] != size[1]:
            raise InputError(
                f"{path} is {size[0]} × {size[1]} px, {paths[0]} is {first[0]} × {first[1]}: a generator makes "
                f"squares of one size, so bring all pictures to that first"
            )
    return np.stack(pictures)


def _within(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1
