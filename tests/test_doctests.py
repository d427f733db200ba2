"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

ANGLES = ["", ".approximations", ".exact", ".goodness", ".gpu", ".sample", ".shards", ".statistics", ".verdict"]


@pytest.mark.parametrize(
    "module",
    [
        "tasks.api",
        "tasks.dogs",
        *(f"tasks.angles{part}" for part in ANGLES),
        "orchestrator.study",
        "orchestrator.studyfile",
        "orchestrator.finalists",
    ],
)
def test_examples(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0
