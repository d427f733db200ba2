"""Whether every node of a cluster sees the folders that a study needs, asked before it starts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.errors import EnvironmentProblem
from orchestrator.history.folder import Runs
from orchestrator.objectstore.data import DataUrl
from orchestrator.studies.plan import Node

OnEveryNode = Callable[..., list[tuple[Node, list[str] | None]]]  # `cluster.on_every_node` of this


def check(runs: Runs, data: Path | DataUrl | None, on_every_node: OnEveryNode) -> None:
    """Raise `EnvironmentProblem`, which names the nodes, unless all of them see the runs folder and the data.

    Of the runs folder they must see the same: a folder that each node has for itself would lose checkpoints. What is at
    a URL is not asked for: each node brings it from there.
    """
    wanted = [str(data)] if isinstance(data, Path) else []
    mark = runs.root / f".seen-{uuid.uuid4().hex}"
    if runs.mirror is None:
        runs.root.mkdir(parents=True, exist_ok=True)
        mark.touch()
        wanted.append(str(mark))
    try:
        answers = on_every_node(unseen, wanted) if wanted else []
    finally:
        mark.unlink(missing_ok=True)
    silent = [node.name for node, missing in answers if missing is None]
    if silent:
        raise EnvironmentProblem(
            f"{_names(silent)} did not answer: whether the study's folders are visible there is unknown",
            "see: orchestrator doctor",
        )
    blind = [node.name for node, missing in answers if missing and str(mark) in missing]
    if blind:
        raise EnvironmentProblem(
            f"{_names(blind)} does not see this machine's {runs.root}: checkpoints written there would be lost",
            "keep runs where every node sees them: ORCHESTRATOR_RUNS=FOLDER on a shared disk, or s3://bucket/runs",
        )
    without = [node.name for node, missing in answers if missing]
    if without:
        raise EnvironmentProblem(
            f"{_names(without)} does not see data={data}",
            "mount it there too, give a URL (s3://…), or send a small folder along with --ship-data",
        )


def unseen(paths: Sequence[str]) -> list[str]:
    """Which of these paths are not there, on the node where this is called."""
    return [path for path in paths if not Path(path).exists()]


def _names(nodes: Sequence[str]) -> str:
    return f"node {nodes[0]}" if len(nodes) == 1 else f"each of the nodes {', '.join(nodes)}"
