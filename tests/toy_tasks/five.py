"""A trial that does nothing but report: 10 times 5 metrics."""

from __future__ import annotations

import time

from tasks.api import Field, Goal, Params, Task, Uniform


class FiveParams(Params):
    x: float = Field(0.5, ge=0, le=1)
    """What the metrics start from."""
    pace: float = Field(0.0, ge=0)
    """Seconds before each report."""


def metrics(x, step):
    return {f"m{i}": x + i / step for i in range(5)}


def run(params, context):
    for step in range(1, 11):
        if params.pace:
            time.sleep(params.pace)
        context.report(step, **metrics(params.x, step))
    return {"m0": params.x}


TASK = Task(
    name="five",
    question="What does a report cost?",
    params=FiveParams,
    metric="m0",
    goal=Goal.MIN,
    reports={f"m{i}": "a number" for i in range(5)},
    space={"x": Uniform(0, 1)},
    run=run,
)
