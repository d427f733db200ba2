"""The examples in the modules' docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tasks.terms

MODULES = ["tasks.terms", *(f"tasks.terms.{module.name}" for module in pkgutil.iter_modules(tasks.terms.__path__))]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0
