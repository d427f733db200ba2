"""The pages of the experiments name what is there: each task has a page, and its tables name the task's parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.studies import registry

FOLDER = Path(__file__).parents[1] / "docs" / "experiments"
SHARED = {"ensembles": ("ensemble", "compare")}
TASKS = sorted(path.parent.name for path in (FOLDER.parents[1] / "tasks").glob("*/__init__.py"))


def text(page: str) -> str:
    return (FOLDER / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TASKS)
def test_each_task_has_a_page_that_the_index_leads_to(name):
    page = next((page for page, tasks in SHARED.items() if name in tasks), name)
    assert f"`{name}`" in text("README")
    assert f"]({page}.md)" in text("README")
    assert f"(../../tasks/{name})" in text(page)


@pytest.mark.parametrize("page", sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README"))
def test_the_tables_name_the_tasks_parameters_and_their_defaults(page):
    task = registry.task(SHARED.get(page, (page,))[0])
    table = re.search(r"^## The parameters that matter\n(.*?)^## ", text(page), re.MULTILINE | re.DOTALL)
    assert table is not None
    rows = [line.split(" | ") for line in table[1].splitlines() if line.startswith("| `")]
    named = [(name, row[1]) for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    assert len(named) >= 5
    for name, default in named:
        assert name in task.params.model_fields, f"{page}.md: the task {task.name} has no parameter '{name}'"
        value = task.params.model_fields[name].default
        if isinstance(value, str) and value:
            assert f"`{value}`" in default, f"{page}.md: {name} is '{value}' by default"
