"""What the Tab key offers. Quick, and silent whatever is wrong: somebody is in the middle of typing.

Nothing here asks a network: of runs at a URL those are offered that this machine has seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.datasets import catalogue
from orchestrator.history.folder import Runs
from orchestrator.studies import registry
from orchestrator.studies.studyfile import load_study

Offer = list[tuple[str, str] | str]
"""Words, each alone or with what it is."""


def _quietly(offer: Callable[[Any, str], Offer]) -> Callable[[Any, str], Offer]:
    @functools.wraps(offer)
    def quiet(ctx: Any, incomplete: str) -> Offer:
        try:
            return offer(ctx, incomplete)
        except Exception:  # a traceback would land in the line that is being typed
            return []

    return quiet


@_quietly
def studies(ctx: Any, incomplete: str) -> Offer:
    """Studies that ship, and the YAML files of the folder that is being typed."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    files = sorted(path.name for path in Path(folder or ".").glob("*.y*ml"))
    return [*registry.study_names(), *(folder + name for name in files)]


@_quietly
def runs(ctx: Any, incomplete: str) -> Offer:
    """Studies that have run."""
    return sorted(path.parent.name for path in Runs.default().root.glob("*/journal.jsonl"))


@_quietly
def trials(ctx: Any, incomplete: str) -> Offer:
    """Trials of the study that stands before them."""
    (folder,) = (
        path.parent for path in Runs.default().root.glob("*/trials") if path.parent.name == ctx.params["study"]
    )
    return sorted(path.name for path in (folder / "trials").iterdir())


@_quietly
def results(ctx: Any, incomplete: str) -> Offer:
    """Studies that have run and, once one is typed with a slash, its trials."""
    study, slash, _ = incomplete.rpartition("/")
    if not slash:
        return runs(ctx, incomplete)
    return sorted(f"{study}/{path.name}" for path in (Runs.default().root / study / "trials").iterdir())


@_quietly
def overrides(ctx: Any, incomplete: str) -> Offer:
    """``key=value`` of what is plain in the study that stands before them, as it is: whole words, to be changed."""
    name = ctx.params["study"]
    ran = Runs.default().root / name / "study.yaml"
    study = load_study(str(ran) if ran.exists() and name not in registry.study_names() else name, check_data=False)
    return list(_assignments(study.to_plain(), ""))


@_quietly
def data_sets(ctx: Any, incomplete: str) -> Offer:
    return [(known.name, known.about) for known in catalogue.ALL.values()]


def _assignments(plain: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{prefix}{key}.")
        elif value is None:
            yield f"{prefix}{key}="
        elif isinstance(value, bool | int | float) or (isinstance(value, str) and value.replace("_", "").isalnum()):
            yield f"{prefix}{key}={str(value).lower() if isinstance(value, bool) else value}"
