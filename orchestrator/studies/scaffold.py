"""A new task with its test and its study: three short files that run as they are, to be changed into one's own."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.studies import registry

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FOLDER = "my_tasks"


def tasks_folder() -> Path:
    """Where one's own tasks are: the first folder of ``$ORCHESTRATOR_TASKS``, or ``my_tasks`` in the current one."""
    given = [folder for folder in os.environ.get("ORCHESTRATOR_TASKS", "").split(os.pathsep) if folder]
    return Path(given[0] if given else _FOLDER).expanduser().absolute()


def create(name: str) -> Mapping[str, Path]:
    """Write a task, its test and its study, and return where they are. Raises `UserError`, and writes nothing then."""
    _check(name)
    folder = tasks_folder()
    paths = {
        "task": folder / f"{name}.py",
        "test": folder.parent / "tests" / f"test_{name}.py",
        "study": folder.parent / f"{name}.yaml",
    }
    for path in paths.values():
        if path.exists():
            raise UserError(f"{path} is there already, and stays as it is", "take another name, or another folder")
    title = "".join(part.capitalize() for part in name.split("_"))
    for what, path in paths.items():
        text = _TEMPLATES[what].replace("NAME", name).replace("TITLE", title).replace("FOLDER", folder.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return paths


def _check(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        proposal = re.sub(r"\W+", "_", name.lower()).strip("_")
        usable = _NAME.fullmatch(proposal) and not keyword.iskeyword(proposal)
        raise UserError(
            f"{name!r} cannot be a task's name: it is lower-case letters, digits and '_', and no word of Python",
            f"for example: orchestrator new {proposal if usable else 'my_task'}",
        )
    if name in registry.task_names() or name in registry.NOT_TASKS:
        raise UserError(
            f"there is a '{name}' already", "take another name; orchestrator tasks lists those that are taken"
        )


_TASK = '''"""NAME: how fast does gradient descent come to the minimum?

Source: say here which paper or page the question and the formulas come from.
The idea, in two sentences: on f(x) = x²/2 a step of length lr takes x to (1 − lr)·x. So the distance to the minimum
after k steps is |1 − lr|^k of what it was, least for lr = 1.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from tasks.api import Context, Field, Goal, Params, Resources, Task, Uniform


class TITLEParams(Params):
    lr: float = Field(0.1, gt=0, lt=2)
    """How long a step is."""
    steps: int = Field(3, ge=1, le=100_000)
    """How many steps are made."""


def run(params: TITLEParams, context: Context) -> Mapping[str, float]:
    """One trial. Import heavy libraries in here: listing the tasks stays quick."""
    x = random.Random(context.seed).gauss(0, 1)  # all that is random comes from the trial's seed
    for step in range(1, params.steps + 1):
        x -= params.lr * x
        context.report(step, distance=abs(x))
    context.artifact("x.txt").write_text(f"{x}\\n")
    return {"distance": abs(x)}


TASK = Task(
    name="NAME",
    question="Which step length brings gradient descent nearest to the minimum?",
    params=TITLEParams,
    metric="distance",
    goal=Goal.MIN,
    reports={"distance": "to the minimum, after the step"},
    space={"lr": Uniform(0.01, 1.5)},
    resources=Resources(cpus=1),
    run=run,
    reads_data=False,  # True, once `run` reads context.data
)
'''

_TEST = '''"""What NAME must give, known in closed form."""

from __future__ import annotations

import importlib.util
import math
import random
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "FOLDER" / "NAME.py"
spec = importlib.util.spec_from_file_location("tasks.NAME", FILE)
NAME = importlib.util.module_from_spec(spec)
spec.loader.exec_module(NAME)
TASK = NAME.TASK


class Context:
    """What the task asks of its context, kept in memory; `tasks.api.Context` has all there is."""

    device, data = "cpu", None

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.folder, self.seed, self.reports = folder, seed, []

    def report(self, step, /, **metrics):
        self.reports.append((step, metrics))

    def artifact(self, name):
        return self.folder / name


@pytest.mark.parametrize("lr", [0.1, 1.0, 1.5])
def test_the_distance_falls_as_the_formula_says(tmp_path, lr):
    context = Context(tmp_path)
    result = TASK.run(TASK.params(lr=lr, steps=7), context)
    start = random.Random(context.seed).gauss(0, 1)
    expected = [abs(start) * abs(1 - lr) ** step for step in range(1, 8)]
    assert [metrics["distance"] for _, metrics in context.reports] == pytest.approx(expected)
    assert result == context.reports[-1][1]


def test_the_defaults_run_and_the_same_seed_gives_the_same(tmp_path):
    first, second = (TASK.run(TASK.params(), Context(tmp_path, seed=3)) for _ in range(2))
    assert first == second
    assert math.isfinite(first[TASK.metric])
'''

_STUDY = """\
# orchestrator plan NAME.yaml     what it would run
# orchestrator run NAME.yaml
task: NAME
question: Which step length brings gradient descent nearest to the minimum?
params: {steps: 3}
search:
  algorithm: random
  trials: 8
  space:
    lr: {uniform: [0.01, 1.5]}
finalists: {top: 2, seeds: 3}      # the best again on fresh seeds: the verdict is on those
resources: {cpus: 1}
"""

_TEMPLATES = {"task": _TASK, "test": _TEST, "study": _STUDY}
