"""Lines for people, and how values stand in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from orchestrator.history.states import State

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
SOFT = not console.is_terminal  # lines break at words for people and not at all for programs
STYLE = {
    State.PENDING: "dim",
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.PRUNED: "yellow",
    State.FAILED: "red",
    State.STOPPED: "magenta",
}


def say(line: str) -> None:
    console.print(escape(line), soft_wrap=SOFT)


def complain(message: str, hint: str | None) -> None:
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=SOFT)
    if hint:
        errors.print(f"  → {escape(hint)}", soft_wrap=SOFT)


def print_json(value: Any) -> None:
    """Print plain values for programs."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    """NaN and infinities as null, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def assignments(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shown(value)}" for name, value in params.items())


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
