"""The rules of the house, checked on the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MACHINERY = {"ray", "mlflow", "yaml", "orchestrator", "typer", "rich", "optuna"}
# Each outside system has one room, the module that imports it; Ray has five: its cluster, its job server, its trials,
# the other processes of one trial, its tasks.
ROOMS = {
    "ray": {"machines.cluster", "machines.jobserver", "running.trials", "trial.ranks", "trial.pool"},
    "mlflow": {"tracker.tracking", "tracker.models"},
    "yaml": {"studies.yamlfile"},
    "rich": {"terminal.lines", "terminal.live", "terminal.tables"},
    "typer": {"cli", "commands.cluster", "commands.data", "commands.explain", "commands.insight", "commands.look"},
    "pandas": {"notebook"},
    "fsspec": {"objectstore.storage"},
    "optuna": {"tuning.search"},
    "urllib.request": {"web", "probe.trackercheck"},  # the latter is sent to machines that have nothing else
}
# The modules and folders of orchestrator/, each of which imports only those before it.
ORDER = [
    "redaction", "errors", "failures", "web", "notification", "objectstore", "history", "probe", "datasets", "studies",
    "tuning", "machines", "health", "trial", "analysis", "tracker", "report", "running", "terminal", "notebook",
    "commands", "cli", "remote",
]  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for package in ("orchestrator", "tasks"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names imported by a file, inside functions too unless told otherwise, but not for types only."""
    names = set()
    stack: list[ast.AST] = [ast.parse(path.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if top_level_only and isinstance(node, ast.FunctionDef):
            continue
        stack += list(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("module", [m for m in modules() if m.split(".")[0] == "tasks"])
def test_science_knows_nothing_of_machinery(module):
    used = {name.split(".")[0] for name in imports(modules()[module])}
    assert not used & MACHINERY


@pytest.mark.parametrize(("system", "rooms"), ROOMS.items())
def test_each_outside_system_has_its_rooms(system, rooms):
    users = {m for m, path in modules().items() if any(f"{n}.".startswith(f"{system}.") for n in imports(path))}
    assert users == {f"orchestrator.{room}" for room in rooms}


def test_folders_import_one_way():
    known = {m: path for m, path in modules().items() if m.startswith("orchestrator.")}
    assert {m.split(".")[1] for m in known} == set(ORDER)
    for module, path in known.items():
        folder = ORDER.index(module.split(".")[1])
        used = {n.split(".")[1] for n in imports(path) if n.startswith("orchestrator.") and n in known}
        assert {name for name in used if ORDER.index(name) > folder} == set(), module


def test_no_import_cycles():
    known = modules()
    graph = {m: {n for n in imports(path, top_level_only=True) if n in known and n != m} for m, path in known.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join((*above, module))
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_module_outgrows_its_name():
    assert [m for m, path in modules().items() if len(path.read_text().splitlines()) > 400] == []


def test_listing_tasks_imports_nothing_heavy():
    """`orchestrator tasks` answers at once: a task imports torch when it runs, not when it is listed."""
    heavy = {"torch", "timm", "torchvision", "matplotlib", "scipy", "mlflow", "ray"}
    for name in (
        "tasks.angles",
        "tasks.attribution",
        "tasks.compare",
        "tasks.batchnorm",
        "tasks.dogs",
        "tasks.dogs.folders",
        "tasks.ebgan",
        "tasks.ebgan.sources",
        "tasks.layerwise",
        "tasks.ensemble",
        "tasks.terms",
        "tasks.multilabel",
        "tasks.api",
        "orchestrator.cli",
        "orchestrator.studies.study",
        "orchestrator.studies.studyfile",
    ):
        assert not {n.split(".")[0] for n in imports(modules()[name], top_level_only=True)} & heavy
