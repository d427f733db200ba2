"""A task for tests whose trials have several processes: at each step they add up their ranks, with ways to fail."""

from __future__ import annotations

import os
import time
from typing import Literal

from tasks.api import Field, Goal, Params, Task, Uniform


class RingParams(Params):
    x: float = Field(0.0, ge=-1, le=1)
    """What each process adds besides."""
    steps: int = Field(3, ge=1)
    """Sums."""
    pace: float = Field(0.0, ge=0)
    """Seconds of pretended work at each step."""
    mood: Literal["well", "raise", "die", "late"] = "well"
    """What goes wrong in the last rank at step 2 (late: after the last), in the first attempt only."""


def run(params, context):
    import torch
    from torch import distributed

    print(f"rank {context.rank} of {context.processes}")
    first, total = 1, 0.0
    if (kept := context.restore()) is not None:
        first, total = kept[0] + 1, kept[1]["total"]
    if context.processes > 1:
        distributed.init_process_group("gloo", init_method="env://")
        assert distributed.get_rank() == context.rank
        assert distributed.get_world_size() == context.processes
    context.artifact("rank.txt").write_text(f"{context.rank} {context.seed} {os.environ.get('LOCAL_RANK')}")
    for step in range(first, params.steps + 1):
        time.sleep(params.pace)
        if step == 2 and first == 1 and context.rank == context.processes - 1:
            go_wrong(params.mood)
        part = torch.tensor(params.x + context.rank, dtype=torch.float64)
        if context.processes > 1:
            distributed.all_reduce(part)
        total += float(part)
        context.report(step, total=total)
        context.save(step, {"total": total})
    if params.mood == "late" and context.rank:
        raise ValueError("after the last step")
    return {"total": total} if context.rank == 0 else {}


def go_wrong(mood):
    if mood == "raise":
        raise RuntimeError("the ring broke")
    if mood == "die":
        os._exit(7)


TASK = Task(
    name="ring",
    question="What is the sum of the ranks?",
    params=RingParams,
    metric="total",
    goal=Goal.MIN,
    reports={"total": "sum over steps and ranks"},
    space={"x": Uniform(-1, 1)},
    run=run,
    distributed=True,
)
