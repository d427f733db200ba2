"""A task for tests: a random walk towards a parabola's minimum, with ways to fail."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.api import Choice, Field, Goal, Params, Task, Uniform


class ToyParams(Params):
    x: float = Field(0.0, ge=-1, le=1)
    """Where to look; the minimum is at 0.5."""
    steps: int = Field(3, ge=1)
    """Reports."""
    mood: Literal[
        "well", "nan", "inf_final", "raise", "die", "string", "forgetful", "hang", "eat", "wide", "save_first"
    ] = "well"
    """What goes wrong, from step 2 on."""
    once: bool = False
    """Whether it goes wrong in the first attempt only."""
    saves: bool = False
    """Whether it saves a checkpoint at each step and goes on from it."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of the walk's steps: what a resumed trial must repeat exactly."""
    pace: float = Field(0.0, ge=0)
    """Seconds of pretended work at each step."""
    wait_for: str = ""
    """A file: step 2 is not reached before it exists."""
    width: int = Field(4, ge=1, le=64)
    """Does nothing; for spaces."""


def run(params, context):
    print("the toy says hello")
    distance, walk, rng, first = (params.x - 0.5) ** 2, 0.0, np.random.default_rng(context.seed), 1
    attempts = context.artifact("attempts.txt")
    goes_wrong = not (params.once and attempts.exists())
    with attempts.open("a") as file:
        file.write("again\n")
    if params.saves and (kept := context.restore()) is not None:
        first, walk = kept[0] + 1, kept[1]["walk"]
        rng.bit_generator.state = kept[1]["rng"]
    executed = context.artifact("executed.txt")
    for step in range(first, params.steps + 1):
        with executed.open("a") as file:
            file.write(f"{step}\n")
        time.sleep(params.pace)
        walk += params.noise * rng.standard_normal()
        loss = distance + walk + 1 / step
        if step == 2:
            while params.wait_for and not Path(params.wait_for).exists():
                time.sleep(0.02)
            if goes_wrong:
                loss = go_wrong(params.mood, context, loss)
        state = {"walk": walk, "rng": rng.bit_generator.state}
        if params.mood == "save_first":
            context.save(step, state)
        many = {f"many/{i}": float(i) for i in range(100_000)} if params.mood == "wide" and step == 2 else {}
        context.report(step, loss=loss, seed=context.seed, **many)
        if params.saves:
            context.save(step, state)
    context.artifact("notes/x.txt").write_text(str(params.x))
    context.artifact("cards.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if params.mood == "forgetful":
        return {}
    return {"loss": math.inf if params.mood == "inf_final" else distance + walk}


def go_wrong(mood, context, loss):
    if mood == "nan":
        return math.nan
    if mood == "string":
        return "low"
    if mood == "raise":
        raise RuntimeError("the toy broke")
    if mood == "die":
        os._exit(7)
    if mood == "hang":
        while True:
            time.sleep(0.1)
    if mood == "eat":
        eaten = []
        while True:
            eaten.append(np.ones(10_000_000))  # 80 MB
    return loss


TASK = Task(
    name="toy",
    question="Where is the minimum?",
    params=ToyParams,
    metric="loss",
    goal=Goal.MIN,
    reports={"loss": "squared distance", "seed": "the trial's seed"},
    space={"x": Uniform(-1, 1), "mood": Choice("well")},
    run=run,
)
