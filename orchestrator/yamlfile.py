"""YAML with line numbers: the only importer of ``yaml``.

Loads safely (plain values only), knows the line of every key, refuses a key given twice, and reads ``1e-3`` as the
number everyone means by it (YAML 1.1 as PyYAML has it reads a string).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import StudyError

Lines = dict[tuple[str, ...], int]


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load(path: Path, what: str = "a study", start: str = "task: NAME") -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and the line (from 1) of each of its keys, by path of keys.

    Raises `StudyError` with file and line when the file is no YAML, no mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot be read: {error}", str(path)) from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise StudyError(f"{what} is a mapping of keys to values", str(path), f"start with '{start}'")
        lines: Lines = {}
        _collect(node, (), lines, path)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StudyError(f"not valid YAML: {error.problem}", f"{path}:{line}") from error


def _collect(node: yaml.Node, where: tuple[str, ...], lines: Lines, path: Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*where, str(index))] = value.start_mark.line + 1
            _collect(value, (*where, str(index)), lines, path)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here, line = (*where, str(key.value)), key.start_mark.line + 1
        if here in lines:
            raise StudyError(f"'{key.value}' is given twice, first on line {lines[here]}", f"{path}:{line}")
        lines[here] = line
        _collect(value, here, lines, path)


def parse_value(text: str, where: str) -> Any:
    """The value of one ``key=value`` override: any YAML value, a bare word is a string."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise StudyError("the value is not valid YAML", where, f"quote it: '{where}'") from error


def dump(value: Any) -> str:
    """YAML text of plain values, keys in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
