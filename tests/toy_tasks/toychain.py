"""A task for tests that reads what trials of earlier studies left: which one is best, and the x that it wrote down."""

from __future__ import annotations

from pathlib import Path

from tasks.api import Field, Goal, InputError, IntRange, Params, Task


class ChainParams(Params):
    nth: int = Field(0, ge=0)
    """Which input to read."""


def run(params, context):
    if not context.inputs:
        return {"x": 0.0, "inputs": 0.0}
    chosen = context.inputs[params.nth]
    note = Path(chosen.artifacts / "notes/x.txt")
    if not note.exists():
        raise InputError(f"{chosen.study}/{chosen.trial} left no note")
    return {"x": float(note.read_text()), "inputs": float(len(context.inputs)), "loss_there": chosen.metrics["loss"]}


TASK = Task(
    name="toychain",
    question="What did the other study find?",
    params=ChainParams,
    metric="x",
    goal=Goal.MAX,
    reports={"x": "what it wrote", "inputs": "how many", "loss_there": "its loss"},
    space={"nth": IntRange(0, 3)},
    run=run,
    reads_inputs=True,
)
