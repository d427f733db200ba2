"""A task for tests: a parabola seen through a decreasing curve, with ways to fail."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Literal

from tasks.api import Choice, Field, Goal, Params, Task, Uniform


class ToyParams(Params):
    x: float = Field(0.0, ge=-1, le=1)
    """Where to look; the minimum is at 0.5."""
    steps: int = Field(3, ge=1)
    """Reports."""
    mood: Literal["well", "nan", "inf_final", "raise", "die", "string", "forgetful"] = "well"
    """What goes wrong, from step 2 on."""
    wait_for: str = ""
    """A file: step 2 is not reached before it exists."""
    width: int = Field(4, ge=1, le=64)
    """Does nothing; for spaces."""


def run(params, context):
    print("the toy says hello")
    distance = (params.x - 0.5) ** 2
    for step in range(1, params.steps + 1):
        loss = distance + 1 / step
        if step == 2:
            while params.wait_for and not Path(params.wait_for).exists():
                time.sleep(0.02)
            if params.mood == "nan":
                loss = math.nan
            elif params.mood == "raise":
                raise RuntimeError("the toy broke")
            elif params.mood == "die":
                os._exit(7)
            elif params.mood == "string":
                loss = "low"
        context.report(step, loss=loss, seed=context.seed)
    context.artifact("notes/x.txt").write_text(str(params.x))
    if params.mood == "forgetful":
        return {}
    return {"loss": math.inf if params.mood == "inf_final" else distance}


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
