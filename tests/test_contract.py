"""What every task owes: defaults run, the metric is finite, the same seed gives the same metrics."""

from __future__ import annotations

import math

import pytest
from fakes import FakeContext

from orchestrator.studies import registry

TASKS = [name for name in registry.task_names() if not name.startswith(("toy", "five", "many", "ring"))]


@pytest.fixture(scope="module", params=TASKS)
def twice(request, tmp_path_factory, session_cache):
    """A task's defaults run twice with the same seed, as ``(task, metrics, metrics, context)``."""
    task = registry.task(request.param)
    contexts = [FakeContext(tmp_path_factory.mktemp(task.name), seed=3, cache=session_cache) for _ in range(2)]
    first, second = (dict(task.run(task.params(), context)) for context in contexts)
    return task, first, second, contexts[0]


def test_defaults_run_and_the_metric_is_finite(twice):
    task, metrics, _, _ = twice
    assert math.isfinite(metrics[task.metric])


def test_the_same_seed_gives_the_same_metrics(twice):
    _, first, second, _ = twice
    assert first == second


def test_it_reports_what_it_declares(twice):
    task, metrics, _, context = twice
    said = set(metrics).union(*(reported for _, reported in context.reports))
    assert said <= set(task.reports)
    steps = [step for step, _ in context.reports]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("name", TASKS)
def test_every_parameter_is_documented(name):
    for field, info in registry.task(name).params.model_fields.items():
        assert info.description, f"{name}.{field} has no docstring"


@pytest.mark.parametrize("name", TASKS)
def test_the_space_stays_within_the_parameters(name):
    task = registry.task(name)
    for parameter, dimension in task.space.items():
        for end in dimension.ends():
            task.params(**{parameter: end})
