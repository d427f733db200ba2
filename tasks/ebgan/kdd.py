"""KDD Cup 99, the 10 % file, by the protocol of the paper.

Four in five rows are attacks, so attacks are what is normal here and ``normal.`` rows are the anomaly (ρ ≈ .2), as in
Zong et al. 2018 (DAGMM) and Kumar et al. 2019. Half of the rows, drawn at random, are for training, and only attacks
of them are used; the other half is tested on. Symbols become one column a value. Numbers are spread over many powers
of ten, so they enter as ln(1 + v), scaled to 0 … 1 by the training rows; the paper's code leaves them as they are.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.api import InputError

FILE = "kddcup.data_10_percent"
_COLUMNS = 42  # 41 features and the label
_SYMBOLS = (1, 2, 3, 6, 11, 20, 21)
"""protocol_type, service, flag, land, logged_in, is_host_login, is_guest_login."""
_NORMAL = b"normal."


@dataclass(frozen=True)
class Table:
    """Rows as numbers, and which of them are anomalous."""

    train: np.ndarray
    test: np.ndarray
    anomalous: np.ndarray


def find_file(data: Path) -> Path:
    """The file itself, or in a folder, packed or not. Raises `InputError` without it."""
    places = [data, data / FILE, data / f"{FILE}.gz"]
    if (path := next((place for place in places if place.is_file()), None)) is None:
        raise InputError(f"{data} holds neither {FILE} nor {FILE}.gz: give data=FOLDER, or the file, of KDD Cup 99")
    return path


def load_table(path: Path, seed: int, *, validate: bool = False) -> Table:
    """Training rows (attacks alone), test rows and which of those are anomalous; the halves are drawn from ``seed``.

    ``validate`` cuts the training half in two by the same protocol, so that settings can be chosen without a row, or a
    label, of the test half.
    """
    features, anomalous = _read(path)
    order = np.random.default_rng(seed).permutation(len(features))
    if validate:
        order = order[: len(order) // 2]
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    train = features[first[~anomalous[first]]]
    if not len(train) or not 0 < anomalous[second].sum() < len(second):
        raise InputError(f"{path}: there must be rows labelled '{_NORMAL.decode()}' and others, many of each")
    low, high = train.min(0), train.max(0)
    span = np.where(high > low, high - low, 1)
    scaled = ((features - low) / span).clip(-1, 2)  # what training has never seen may lie far off
    return Table(scaled[first[~anomalous[first]]], scaled[second], anomalous[second])


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All rows as float32, and which are ``normal.``"""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt") as lines:
            if (found := lines.readline().count(",") + 1) != _COLUMNS:
                raise InputError(f"{path}: line 1 has {found} columns, KDD Cup 99 has {_COLUMNS}")
        numeric = [column for column in range(_COLUMNS - 1) if column not in _SYMBOLS]
        numbers = np.loadtxt(path, np.float32, delimiter=",", usecols=numeric, ndmin=2)
        words = np.loadtxt(path, "S20", delimiter=",", usecols=(*_SYMBOLS, _COLUMNS - 1), ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path} cannot be read: {error}") from error
    if (numbers < 0).any():
        raise InputError(f"{path}: a number is below 0, which no count, share or duration is")
    columns = [np.log1p(numbers)]
    for column in words.T[:-1]:
        values, which = np.unique(column, return_inverse=True)
        columns.append(np.eye(len(values), dtype=np.float32)[which])
    return np.concatenate(columns, 1), words[:, -1] == _NORMAL
