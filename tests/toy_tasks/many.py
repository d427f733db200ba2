"""A task for tests whose work is in maps: random numbers in pieces, shuffled by their remainders, added up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.api import Field, Goal, InputError, IntRange, Params, Task


class ManyParams(Params):
    items: int = Field(12, ge=0)
    """Pieces."""
    parts: int = Field(3, ge=1)
    """What the second map has items."""
    size: int = Field(1000, ge=1)
    """Numbers in a piece."""
    pace: float = Field(0.0, ge=0)
    """Seconds of pretended work on a piece."""
    burn: float = Field(0.0, ge=0)
    """Seconds of real work on a piece."""
    mood: Literal["well", "raise", "input", "die", "kill"] = "well"
    """What goes wrong at piece 5: an error, bad input, its worker's end, each time or (kill) the first time."""
    keyed: bool = False
    """Whether pieces are kept in the shared cache."""
    x: int = 0
    """Does nothing; for spaces."""


@dataclass(frozen=True)
class Piece:
    params: ManyParams
    seed: int
    index: int
    folder: Path


def draw(piece: Piece) -> list[np.ndarray]:
    """The numbers of a piece, by their remainder."""
    params = piece.params
    print(f"piece {piece.index}")
    with (piece.folder / "drawn.txt").open("a") as file:
        file.write(f"{piece.index} {os.getpid()}\n")
    time.sleep(params.pace)
    end = time.process_time() + params.burn
    while time.process_time() < end:
        pass
    if piece.index == 5:
        go_wrong(piece)
    numbers = np.random.default_rng([piece.seed, piece.index]).integers(0, 10**6, params.size)
    return [numbers[numbers % params.parts == part] for part in range(params.parts)]


def go_wrong(piece: Piece) -> None:
    if piece.params.mood == "raise":
        raise RuntimeError("the piece broke")
    if piece.params.mood == "input":
        raise InputError("piece 5 is no piece")
    if piece.params.mood == "die":
        os._exit(7)
    mark = piece.folder / "killed"
    if piece.params.mood == "kill" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def add(item: tuple[int, Sequence[Any]]) -> float:
    """The sum of one remainder's numbers, read from all pieces."""
    part, pieces = item
    return float(sum(np.sqrt(piece.load()[part]).sum() for piece in pieces))


def process_of(x: int) -> tuple[int, int, str | None]:
    return x, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def parent_of(x: float) -> int:
    """The process that started this one, after ``x`` seconds: its node's, under Ray."""
    time.sleep(x)
    return os.getppid()


def endless(x: int) -> None:
    while True:
        time.sleep(0.01)


def run(params, context):
    folder = context.artifact("drawn.txt").parent
    seed = 7 if params.keyed else context.seed
    pieces = [Piece(params, seed, index, folder) for index in range(params.items)]
    keys = [f"{params.size}-{params.parts}-{index}" for index in range(params.items)] if params.keyed else None
    drawn = context.map(draw, pieces, keys=keys)
    sums = context.map(add, [(part, drawn.handles) for part in range(params.parts)])
    total = 0.0
    for part, value in enumerate(sums, 1):
        total += value
        context.report(part, total=total)
    return {"total": total}


TASK = Task(
    name="many",
    question="What is the sum?",
    params=ManyParams,
    metric="total",
    goal=Goal.MAX,
    reports={"total": "sum of roots"},
    space={"x": IntRange(0, 100)},
    run=run,
    maps=True,
)
