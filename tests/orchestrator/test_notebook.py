"""What ``import orchestrator`` gives: each function by use, and nothing heavy before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

import orchestrator
from orchestrator.errors import UnknownName, UserError
from orchestrator.studies.studyfile import build


def test_importing_it_imports_next_to_nothing():
    code = "import sys, orchestrator; dir(orchestrator); print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pandas", "pydantic", "torch", "ray", "mlflow", "matplotlib"} & set(done.stdout.split())


def test_a_name_that_it_has_not():
    with pytest.raises(AttributeError, match="resalts"):
        orchestrator.resalts  # noqa: B018


def test_a_study_from_its_name_to_its_table_and_figures(runs, capsys):
    study = orchestrator.load_study("angles", ["search.trials=1"])
    assert (study.task, study.search.trials) == ("angles", 1)
    search = {"trials": 3, "algorithm": "random"}
    toy = build({"task": "toy", "search": search, "finalists": {"top": 1, "seeds": 2}})
    ran = orchestrator.run(toy, runs=runs.root)
    assert "3 trials" in capsys.readouterr().out
    assert (ran.name, ran.state) == ("toy", "FINISHED")
    assert ran.verdict.startswith("supported: t000")

    again = orchestrator.results("toy", runs.root)
    table = again.to_pandas()
    pd.testing.assert_frame_equal(table, ran.to_pandas())
    searched = table[table["of"].isna()]
    assert set(searched.index) == {"t0000", "t0001", "t0002"}
    assert searched.index[0] == again.best
    assert list(searched["metrics.loss"]) == sorted(searched["metrics.loss"])
    assert list(searched["metrics.loss"]) == pytest.approx(list((searched["params.x"] - 0.5) ** 2))
    runs_of_best = table[table["of"] == again.best]
    assert len(runs_of_best) == 2
    assert set(runs_of_best["params.x"]) == {searched["params.x"].iloc[0]}
    assert (table["seconds"] >= 0).all()

    reports = again.reports()
    assert len(reports) == 3 * len(table)
    assert set(reports["step"]) == {1, 2, 3}
    lines = again.curves(top=2).axes[0].lines
    assert sum(not line.get_label().startswith("_") for line in lines) == 2
    assert {len(line.get_xdata()) for line in lines} == {3}
    assert dict(again.figures()) == {}
    assert (again.artifacts("t0000") / "notes" / "x.txt").exists()
    with pytest.raises(UnknownName, match="t0009"):
        again.artifacts("t0009")


def test_what_is_wrong_is_said(runs):
    with pytest.raises(UnknownName):
        orchestrator.results("toy", runs.root)
    with pytest.raises(UserError, match="overrides go with"):
        orchestrator.run(orchestrator.load_study("angles"), ["params.samples=1"], runs.root)
