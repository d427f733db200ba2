from __future__ import annotations

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.history.folder import Runs
from orchestrator.running import visibility
from orchestrator.studies.plan import Node

HERE, THERE = Node("10.0.0.1", 1, 0), Node("10.0.0.2", 1, 0)


def answers(**of):
    """A cluster of two nodes, of which the second sees less, or says nothing."""

    def on_every_node(function, paths):
        own = function(paths)
        return [(HERE, own), (THERE, None if of.get("silent") else own + [p for p in paths if of["hides"](p)])]

    return on_every_node


def test_all_see_all(tmp_path):
    visibility.check(Runs(tmp_path / "runs"), tmp_path, answers(hides=lambda path: False))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_node_with_runs_of_its_own_is_named(tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"node 10\.0\.0\.2 does not see this machine's .*runs"):
        visibility.check(Runs(tmp_path), None, answers(hides=lambda path: ".seen-" in path))
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_the_data_is_named(tmp_path):
    data = tmp_path / "photos"
    data.mkdir()
    with pytest.raises(EnvironmentProblem, match=r"node 10\.0\.0\.2 does not see data=.*photos") as caught:
        visibility.check(Runs(tmp_path / "runs"), data, answers(hides=lambda path: path == str(data)))
    assert "--ship-data" in caught.value.hint


def test_a_node_that_says_nothing_is_named(tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"10\.0\.0\.2 did not answer"):
        visibility.check(Runs(tmp_path), None, answers(silent=True))
