"""YAML with line numbers: the only importer of ``yaml``.

Loads safely (plain values only, of a size that a person writes), knows the line of every key, refuses a key given
twice, and reads ``1e-3`` as the number everyone means by it (YAML 1.1 as PyYAML has it reads a string).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import StudyError

Lines = dict[tuple[str, ...], int]
_MOST_BYTES = 1_000_000
_MOST_VALUES = 100_000  # once each alias stands for all that it repeats
_DEEPEST = 50
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load(path: Path, what: str = "a study", start: str = "task: NAME") -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and the line (from 1) of each of its keys, by path of keys.

    Raises `StudyError` with file and line when the file is no YAML, no mapping, has a key twice, or is not plain.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot be read: {error}", str(path)) from error
    if len(text) > _MOST_BYTES:
        raise StudyError(f"{what} is at most {_MOST_BYTES // 1_000_000} MB of YAML", str(path))
    try:
        value, lines = _parse(text, lambda line: f"{path}:{line}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        words = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise StudyError(f"not valid YAML: {words}", f"{path}:{mark.line + 1 if mark else 1}") from error
    if not isinstance(value, dict):
        raise StudyError(f"{what} is a mapping of keys to values", str(path), f"start with '{start}'")
    return value, lines


def parse_value(text: str, where: str) -> Any:
    """The value of one ``key=value`` override: any plain YAML value, a bare word is a string. Raises `StudyError`."""
    try:
        return _parse(text, lambda line: where)[0]
    except yaml.YAMLError as error:
        raise StudyError("the value is not valid YAML", where, f"quote it: '{where}'") from error


def _parse(text: str, place: Callable[[int], str]) -> tuple[Any, Lines]:
    """The value and the lines of its keys; ``place`` says where a line is."""
    lines: Lines = {}
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _Walk(lines, place).collect(node, ())
        return loader.construct_document(node), lines
    except RecursionError as error:  # from the parser, which descends before anybody can look
        raise StudyError(_TOO_DEEP, place(loader.line + 1)) from error
    except (ValueError, LookupError, AttributeError) as error:  # `!!int x`: a tag that does not fit what it is on
        raise StudyError(f"not valid YAML: {error}", place(loader.line + 1)) from error
    finally:
        loader.dispose()


_TOO_DEEP = f"values are nested more than {_DEEPEST} deep"


class _Walk:
    """Looks at all there is before anything is made of it."""

    def __init__(self, lines: Lines, place: Callable[[int], str]) -> None:
        self._lines, self._place, self._values = lines, place, 0

    def collect(self, node: yaml.Node, where: tuple[str, ...]) -> None:
        line = node.start_mark.line + 1
        self._check(node, where, line)
        if isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*where, str(index))] = value.start_mark.line + 1
                self.collect(value, (*where, str(index)))
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise StudyError("a key is a word or a number", self._place(key.start_mark.line + 1))
            here, line = (*where, key.value), key.start_mark.line + 1
            if here in self._lines:
                message = f"'{key.value}' is given twice, first on line {self._lines[here]}"
                raise StudyError(message, self._place(line))
            self._lines[here] = line
            self._check(key, here, line)
            self.collect(value, here)

    def _check(self, node: yaml.Node, where: tuple[str, ...], line: int) -> None:
        self._values += 1
        if self._values > _MOST_VALUES:
            raise StudyError(f"there are more than {_MOST_VALUES} values, aliases written out", self._place(line))
        if len(where) > _DEEPEST:
            raise StudyError(_TOO_DEEP, self._place(line))
        if node.tag not in _PLAIN_TAGS:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            hint = "quote it to mean the text: '...'" if kind == "timestamp" else None
            raise StudyError(f"a {kind} is no plain value: text, number, list or mapping", self._place(line), hint)


def dump(value: Any) -> str:
    """YAML text of plain values, keys in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
