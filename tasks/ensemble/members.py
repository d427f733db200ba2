"""The classifiers that an ensemble chooses from: their scores stay on disk, what is needed of all of them is small.

Exact copies of a classifier count once, and neither the order of the inputs nor that of their photos matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from tasks import logits as left
from tasks.api import Input, InputError
from tasks.logits import Frame, Logits, Places


@dataclass(frozen=True)
class Member:
    """One classifier: ``source`` holds its scores or the folder where they lie, ``model`` the folder of its weights."""

    name: str
    source: Path | Logits
    places: Places
    model: Path | None = None

    def log_probabilities(self, photos: np.ndarray | slice = slice(None), temperature: float = 1.0) -> np.ndarray:
        """Of some of the frame's photos: float32 (photos, classes)."""
        # A folder is opened anew each time: a thousand open maps are a thousand file descriptors.
        scores = left.scores(self.source) if isinstance(self.source, Path) else self.source.scores
        taken = self.places.take(scores, photos)
        scaled: np.ndarray = log_softmax(taken / np.float32(temperature), axis=1)
        return scaled


@dataclass(frozen=True)
class Members:
    """Classifiers of the same photos, sorted by name, no two alike.

    ``own`` (members, photos), float32: the log-probability of the right class. ``hits`` (members, photos): whether it
    scores above all others. ``copies`` were left out as equal to another.
    """

    frame: Frame
    all: tuple[Member, ...]
    own: np.ndarray
    hits: np.ndarray
    copies: int

    def __len__(self) -> int:
        return len(self.all)


def of_inputs(inputs: Sequence[Input]) -> Members:
    """The classifiers that earlier trials left behind. Raises `InputError` naming the trial that does not fit."""
    by_name = {f"{given.study}/{given.trial}": given for given in inputs}
    return gather((name, by_name[name].artifacts / "logits", by_name[name].artifacts) for name in sorted(by_name))


def gather(sources: Iterable[tuple[str, Path | Logits, Path | None]]) -> Members:
    """From ``(name, scores or their folder, the trial's artifacts)``, sorted by name."""
    frame: Frame | None = None
    found: list[Member] = []
    own, hits, seen, copies, first = [], [], set(), 0, ""
    for name, source, model in sources:
        logits = _read(name, source)
        if frame is None:
            frame, first = Frame.of(logits), name
        member = Member(name, source, frame.match(logits, name, first), model)
        scores = member.places.take(logits.scores)
        if not np.isfinite(scores).all():
            raise InputError(f"{name} left scores that are no finite numbers: leave it out of the inputs")
        digest = hashlib.blake2b(np.ascontiguousarray(scores).data, digest_size=16).digest()
        if digest in seen:
            copies += 1
            continue
        seen.add(digest)
        found.append(member)
        log_p = log_softmax(scores, axis=1)
        own.append(log_p[np.arange(len(log_p)), frame.labels])
        hits.append(right(log_p, frame.labels))
    if frame is None or len(found) < 2:
        raise InputError(
            f"an ensemble needs two classifiers, and there {'is' if len(found) == 1 else 'are'} {len(found)}"
            + (f" (and {copies} copies of it)" if copies else "")
            + ": chain the study to one that leaves more (inputs: {from: STUDY})"
        )
    return Members(frame, tuple(found), np.stack(own), np.stack(hits), copies)


def right(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the right class scores above all others (photos,): a tie is no success."""
    own = log_p[np.arange(len(labels)), labels]
    return np.asarray((log_p >= own[:, None]).sum(axis=1) == 1)


def _read(name: str, source: Path | Logits) -> Logits:
    if isinstance(source, Logits):
        return source
    try:
        return left.read(source)
    except InputError as error:
        raise InputError(f"trial {name}: {error}") from error
