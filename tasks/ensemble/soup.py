"""Model soups: the mean of the weights of several models, which costs no more to run than one.

Source: Wortsman et al., Model soups (arXiv 2203.05482). Idea: models fine-tuned from one start with different settings
often lie in one basin of the loss, where the mean of their weights is better than each; heads trained on the same
frozen features do too. Models that do not share architecture and shapes have no mean.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.api import InputError
from tasks.ensemble.members import Members

ARCHITECTURE = ("backbone", "weights", "regime", "head", "hidden", "resolution", "views", "classes")
"""What model.json must say alike, as far as it says it: the shapes say the rest."""
_BATCH = 32


def soup(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights in the ``model`` folders of trials' artifacts, in float64 between, by tensor's name.

    Tensors of whole numbers (counts of batches) are the first model's. Raises `InputError` naming two models that
    cannot be averaged, and why.
    """
    if not folders:
        raise ValueError("a soup needs a model")
    first = _tensors(folders[0])
    total = {name: tensor.double() for name, tensor in first.items()}
    for folder in folders[1:]:
        tensors = _tensors(folder)
        check_alike(folders[0], folder, first, tensors)
        for name, tensor in tensors.items():
            total[name] += tensor.double()
    return {
        name: (total[name] / len(folders)).to(tensor.dtype).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def check_alike(one: Path, other: Path, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless two models have the same architecture and tensors of the same shapes."""
    about, of_other = _about(one), _about(other)
    for key in ARCHITECTURE:
        if about.get(key) != of_other.get(key):
            said = "their classes" if key == "classes" else f"{key}={about.get(key)} and {key}={of_other.get(key)}"
            raise InputError(
                f"{one} and {other} make no soup: they differ in {said}; soups are of one architecture (chain to one "
                "study that searches only how it is trained, or take another method)"
            )
    shapes, of_others = ({name: tuple(t.shape) for name, t in ts.items()} for ts in (tensors, others))
    if shapes != of_others:
        name = sorted(shapes.items() ^ of_others.items())[0][0]
        raise InputError(
            f"{one} and {other} make no soup: their tensor {name} has the shapes {shapes.get(name)} and "
            f"{of_others.get(name)}"
        )


class SoupsOfPhotos:
    """What soups of members say of the photos under ``data``, through the task that trained them.

    Raises `InputError` for members that left no weights, and for photos that are not there.
    """

    def __init__(self, members: Members, data: Path | None) -> None:
        if data is None:
            raise InputError("soups are new models: give the study the photos that its members were validated on")
        absent = [member.name for member in members.all if member.model is None or not _weights(member.model).is_file()]
        if absent:
            raise InputError(f"{absent[0]} left no weights (model/trained.safetensors), which a soup needs")
        missing = [key for key in members.frame.keys if not (data / key).is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} photos that the members were validated on are not in {data}: {missing[0]}"
            )
        self._members, self._data = members, data
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def log_probabilities(self, which: tuple[int, ...]) -> np.ndarray:
        """Of the soup of these members: (photos, classes) of the members' frame. Each soup is evaluated once."""
        which = tuple(sorted(which))
        if which not in self._known:
            self._known[which] = self._evaluate([self._folder(m) for m in which])
        return self._known[which]

    def _folder(self, m: int) -> Path:
        model = self._members.all[m].model
        assert model is not None
        return model

    def _evaluate(self, folders: Sequence[Path]) -> np.ndarray:
        from tasks.dogs import TASK
        from tasks.dogs.photos import read_photo

        assert TASK.model is not None
        with tempfile.TemporaryDirectory() as place:
            artifacts, target = Path(place) / "artifacts", Path(place) / "model"
            target.mkdir()
            write_soup(folders, artifacts)
            side = TASK.model.export(artifacts, target).shape[1]
            predict: Callable[[np.ndarray], np.ndarray] = TASK.model.load(target)
        keys, said = self._members.frame.keys, []
        for start in range(0, len(keys), _BATCH):
            said.append(predict(np.stack([read_photo(self._data / key, side) for key in keys[start : start + _BATCH]])))
        classes = _about(folders[0])["classes"]
        columns = [classes.index(name) for name in self._members.frame.classes]
        return np.asarray(np.log(np.maximum(np.concatenate(said).astype(np.float64), 1e-30))[:, columns])


def write_soup(folders: Sequence[Path], artifacts: Path) -> None:
    """Leave the soup of trials' artifacts as a trial's own: it exports and loads like any of them."""
    model = artifacts / "model"
    model.mkdir(parents=True)
    save_file(soup(folders), model / "trained.safetensors")
    for name in ("model.json", "example.npy"):
        (model / name).write_bytes((folders[0] / "model" / name).read_bytes())


def _weights(artifacts: Path) -> Path:
    return artifacts / "model" / "trained.safetensors"


def _tensors(artifacts: Path) -> dict[str, Tensor]:
    try:
        return load_file(_weights(artifacts))
    except (OSError, ValueError) as error:
        raise InputError(f"{_weights(artifacts)} cannot be read: {error}") from error


def _about(artifacts: Path) -> dict[str, Any]:
    path = artifacts / "model" / "model.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return about
