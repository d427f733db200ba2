"""Where each key of a study came from, so that whatever is wrong with it is said with its file and line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import StudyError, did_you_mean
from orchestrator.redaction import redacted_words
from orchestrator.studies import yamlfile

_Model = TypeVar("_Model", bound=BaseModel)


class Sources:
    """Where each key came from: a line of the file, or an override."""

    def __init__(self, path: Path | None, lines: yamlfile.Lines) -> None:
        self.path, self.lines = path, lines
        self.overrides: dict[tuple[str, ...], str] = {}

    def where(self, key: tuple[str, ...]) -> str | None:
        """The nearest known place of a key: itself, or the closest key above it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.overrides:
                return self.overrides[key[:end]]
            if key[:end] in self.lines:
                return f"{self.path}:{self.lines[key[:end]]}"
        return str(self.path) if self.path else None

    def error(self, key: tuple[str, ...], message: str, hint: str | None = None) -> StudyError:
        dotted, where = ".".join(key), self.where(key)
        said = dotted in message or (where or "").startswith(f"{dotted}=")
        return StudyError(message if said else f"{dotted}: {message}", where, hint)

    @contextmanager
    def named(self, key: tuple[str, ...]) -> Iterator[None]:
        """Errors raised in here are about this key."""
        try:
            yield
        except (StudyError, ValueError) as error:
            raise self.error(key, str(error), getattr(error, "hint", None)) from error


def apply(raw: dict[str, Any], override: str, sources: Sources) -> tuple[str, ...]:
    """Set one dotted ``key=value``; returns the keys."""
    key, equals, text = override.partition("=")
    (override,) = redacted_words([override])  # what is said of it from here on
    keys = tuple(key.split("."))
    if not equals or not all(keys):
        raise StudyError("an override is written key=value", override, "for example params.epochs=5")
    at = raw
    for name in keys[:-1]:
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
        if not isinstance(at, dict):
            raise StudyError(f"'{name}' has no keys below it", override)
    at[keys[-1]] = yamlfile.parse_value(text, override)
    sources.overrides[keys] = override
    return keys


def validated(model: type[_Model], raw: Any, key: tuple[str, ...], sources: Sources) -> _Model:
    """Build a pydantic model; its first error becomes a `StudyError` with file, line and key."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise sources.error(key, f"expected keys and values, got {raw!r}")
    try:
        return model(**raw)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a typo leaves a gap, too
        loc = (*key, *(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(loc[-1], model.model_fields)
            raise sources.error(loc, f"unknown key '{loc[-1]}' in {'.'.join(key)}", hint) from error
        if first["type"] == "value_error":
            raise sources.error(loc, str(first["ctx"]["error"])) from error
        raise sources.error(loc, f"{first['msg']}, got {first['input']!r}") from error
