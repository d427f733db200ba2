"""Photos for the training: decoded once into a memory-mapped array, read in batches, one batch ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tasks.api import Context, InputError
from tasks.dogs import store
from tasks.dogs.folders import Photos
from tasks.dogs.photos import Unreadable, read_photo

SHARD = 200  # photos; what a killed process loses at most
T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """The readable photos by row number, and why the others are left out. ``unlabelled`` ones have no class."""

    train: Tensor
    val: Tensor
    unlabelled: Tensor
    labels: Tensor
    problems: Mapping[int, str]


def decoded(photos: Photos, side: int, context: Context) -> tuple[np.ndarray, store.Problems]:
    """All photos as uint8 (photos, side, side, 3), memory-mapped, shared by all trials."""

    def compute(rows: range) -> tuple[np.ndarray, store.Problems]:
        out, problems = np.zeros((len(rows), side, side, 3), np.uint8), {}
        for at, row in enumerate(rows):
            try:
                out[at] = read_photo(photos.paths[row], side)
            except Unreadable as error:
                problems[row] = str(error)
        print(f"decoded photos {rows.start}–{rows.stop} of {len(photos.paths)}", flush=True)
        return out, problems

    return store.fill(context.cache / "pixels" / f"{side}px-{photos.digest()}", len(photos.paths), SHARD, compute)


def readable(photos: Photos, problems: Mapping[int, str]) -> Rows:
    """The rows that can be used. Raises `InputError` when a class has no photo left to train or validate with."""
    labels = torch.tensor(photos.labels)
    good = torch.ones(len(labels), dtype=torch.bool)
    good[list(problems)] = False
    for row, reason in sorted(problems.items()):
        print(f"left out: {photos.paths[row]}: {reason}", flush=True)
    rows = torch.arange(len(labels))
    train, unlabelled = rows[good & (rows < photos.trained)], rows[good & (labels < 0)]
    val = rows[good & (rows >= photos.trained) & (labels >= 0)]
    for part, name in ((train, "training"), (val, "validation")):
        counts = torch.bincount(labels[part], minlength=len(photos.classes))
        if (counts == 0).any():
            missing = photos.classes[int((counts == 0).nonzero()[0])]
            raise InputError(f"class '{missing}' has no readable {name} photo; the log names those that were left out")
    return Rows(train, val, unlabelled, labels, problems)


def take(pixels: np.ndarray, rows: Tensor, pinned: bool = False) -> Tensor:
    """The photos of some rows, uint8 (n, side, side, 3), copied once; page-locked where a GPU will fetch them."""
    out = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    np.take(pixels, rows.numpy(), axis=0, out=out.numpy(), mode="clip")  # other modes go through a buffer
    return out


def ahead(source: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while this one is used. What the source raises is raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    left = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not left.is_set():
            try:
                ready.put((kind, value), timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in source:
                if not offer("item", item):
                    return
        except BaseException as error:  # handed on, whatever it is
            offer("error", error)
        else:
            offer("end", None)

    thread = threading.Thread(target=work, name="dogs-loading", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        left.set()
        thread.join()
