"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import tasks.angles
import tasks.attribution
import tasks.batchnorm
import tasks.compare
import tasks.ebgan
import tasks.ensemble
import tasks.layerwise
import tasks.multilabel
import tasks.terms


def modules_of(package) -> list[str]:
    """A package and its modules that have an example."""
    found = [package.__name__, *(f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__))]
    return [name for name in found if ">>>" in Path(importlib.util.find_spec(name).origin).read_text()]


@pytest.mark.parametrize(
    "module",
    [
        "tasks.api",
        "tasks.dogs",
        *modules_of(tasks.angles),
        *modules_of(tasks.attribution),
        *modules_of(tasks.layerwise),
        *modules_of(tasks.compare),
        *modules_of(tasks.ensemble),
        "tasks.logits",
        *modules_of(tasks.multilabel),
        *modules_of(tasks.batchnorm),
        *modules_of(tasks.ebgan),
        *modules_of(tasks.terms),
        "orchestrator.studies.study",
        "orchestrator.studies.studyfile",
        "orchestrator.analysis.finalists",
        "orchestrator.analysis.standings",
        "orchestrator.notification",
        "orchestrator.probe.gpus",
        "orchestrator.probe.trackercheck",
        "orchestrator.redaction",
    ],
)
def test_examples(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0
