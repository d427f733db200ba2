"""How experiments run: one YAML study becomes a plan, trials, a journal, a leaderboard and a verdict.

From Python: `load_study`, `run` and `results`, see `orchestrator.notebook`. They are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.notebook import Results, load_study, results, run

__all__ = ["Results", "__version__", "load_study", "results", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from orchestrator import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
