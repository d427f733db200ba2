"""The task: that it finds what is true, would find what is false, and says which."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fakes import FakeContext
from pydantic import ValidationError

from orchestrator.studies import studyfile
from tasks.api import Row, Support
from tasks.layerwise import BREAKERS, OPTIMIZERS, TASK, LayerwiseParams
from tasks.layerwise.trajectories import CLASSES, Problem, Training, deviation, train


def run(folder: Path, seed: int = 3, **params):
    context = FakeContext(folder, seed=seed)
    return TASK.run(LayerwiseParams(**params), context), context


def row(optimizer: str, scale: float = 3.0, **changed) -> Row:
    metrics = {
        "optimizer": OPTIMIZERS.index(optimizer), "scale": scale, "deviation/clean": 1e-13, "deviation/control": 0.5,
        "deviation/clipping": 0.2, "corrected/clipping": 1e-7,
    }  # fmt: skip
    return Row(f"{optimizer}-{scale}", {}, metrics | changed)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trial_finds_the_claim_exact_and_each_breaker_costly(tmp_path, optimizer):
    metrics, context = run(tmp_path, optimizer=optimizer, scale=0.3, steps=60)
    breakers = BREAKERS[1:] if optimizer in ("sgd", "momentum") else BREAKERS
    expected = {"optimizer", "scale", "digits", "clipped", "loss/first", "loss/last"}
    expected |= {"deviation/clean", "deviation/control"}
    expected |= {f"{kind}/{name}" for kind in ("deviation", "corrected") for name in breakers}
    assert set(metrics) == expected
    assert metrics["deviation/clean"] < 1e-12
    assert metrics["digits"] == pytest.approx(-math.log10(metrics["deviation/clean"]))
    assert metrics["deviation/control"] > 0.1
    for name in breakers:
        assert metrics[f"deviation/{name}"] > 1e-6
        assert metrics[f"corrected/{name}"] < 1e-5 * (1 if name == "clipping" else 1e-7)
    assert metrics["loss/last"] < 0.8 * metrics["loss/first"]
    assert 0 < metrics["clipped"] <= 1
    assert [step for step, _ in context.reports] == list(range(6, 61, 6))
    assert context.reports[-1][1] == {name: metrics[name] for name in context.reports[-1][1]}
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["deviations.png"]


def test_every_metric_is_described(tmp_path):
    metrics, _ = run(tmp_path, optimizer="adam", steps=2)
    assert set(metrics) == set(TASK.reports)


def test_fewer_steps_than_reports(tmp_path):
    _, context = run(tmp_path, steps=3)
    assert [step for step, _ in context.reports] == [1, 2, 3]


def test_epsilon_costs_more_as_it_grows(tmp_path):
    """To first order in ε the cost is proportional to it."""
    small, large = (run(tmp_path, optimizer="adam", steps=20, epsilon=e)[0]["deviation/epsilon"] for e in (1e-9, 1e-8))
    assert large / small == pytest.approx(10, rel=0.01)


def test_the_seed_decides(tmp_path):
    first, again, other = (run(tmp_path, seed, steps=5)[0] for seed in (1, 1, 2))
    assert first == again
    assert first["loss/first"] != other["loss/first"]


def test_all_that_is_trained_starts_alike():
    problem = Problem(seed=1, steps=2, batch_size=8)
    for name in CLASSES:
        options = {"lr": 1e-3}
        plain, scaled = (train(problem, Training(name, options, options, scale)) for scale in (None, 8.0))
        assert plain.weights.shape == (3, 8 * 16 + 16 + 16 + 1)
        assert plain.weights[0].equal(scaled.weights[0])  # a power of 2 is exact


def test_deviation_is_of_the_way_from_the_start():
    """A trajectory that goes half as far parts by half of the way, at every step, to first order in the rate."""
    problem = Problem(seed=1, steps=3, batch_size=8)
    slow, fast = ({"lr": lr} for lr in (0.5e-9, 1e-9))
    half, whole = (train(problem, Training("sgd", options, options)) for options in (slow, fast))
    assert deviation(half, whole).tolist() == pytest.approx([0.5] * 3, rel=1e-5)
    assert deviation(whole, whole).tolist() == [0, 0, 0]


# -------------------------------------------------------------------------------------------------------- verdict


def test_supported_when_every_optimizer_agrees():
    rows = [row(name) for name in OPTIMIZERS]
    rows[2] = row("adam", **{"deviation/epsilon": 2e-5, "corrected/epsilon": 3e-15})
    verdict = TASK.conclude(rows)
    assert verdict.support is Support.SUPPORTED
    assert "λ² under SGD and momentum and by λ under Adam" in verdict.sentence
    assert "the trajectories of 5 trials part by at most 1.0e-13 of the way" in verdict.sentence
    assert "ε 2.0e-05 … 2.0e-05 (corrected: at most 3.0e-15)" in verdict.sentence
    assert "clipping 2.0e-01 … 2.0e-01 (corrected: at most 1.0e-07)" in verdict.sentence


@pytest.mark.parametrize("clean", [2e-6, math.nan])
def test_not_supported_when_one_trial_parts(clean):
    rows = [*(row(name) for name in OPTIMIZERS), row("rmsprop", 10.0, **{"deviation/clean": clean})]
    verdict = TASK.conclude(rows)
    assert verdict.support is Support.NOT_SUPPORTED
    assert "In 1 of 6 trials" in verdict.sentence
    assert "(rmsprop, λ = 10)" in verdict.sentence


def test_undecided_when_an_optimizer_is_missing():
    verdict = TASK.conclude([row(name) for name in OPTIMIZERS if name != "adamw"])
    assert verdict.support is Support.UNDECIDED
    assert "no telling trial of adamw" in verdict.sentence


def test_what_could_not_fail_proves_nothing(tmp_path):
    """λ = 1: both powers are right. Such a trial does not count, and alone it decides nothing."""
    metrics, _ = run(tmp_path, optimizer="sgd", scale=1.0, steps=5)
    assert metrics["deviation/control"] == 0
    assert metrics["digits"] == 18
    blind = Row("blind", {}, metrics)
    assert TASK.conclude([blind]).support is Support.UNDECIDED
    verdict = TASK.conclude([blind, *(row(name) for name in OPTIMIZERS[1:])])
    assert verdict.support is Support.UNDECIDED
    assert "no telling trial of sgd" in verdict.sentence


def test_a_wrong_power_would_be_found(tmp_path, monkeypatch):
    """The task with a wrong claim in it: the verdict turns."""
    monkeypatch.setattr("tasks.layerwise.trial.exponent", lambda make: 2)
    rows = [Row(name, {}, run(tmp_path, optimizer=name, steps=20)[0]) for name in ("sgd", "rmsprop")]
    verdict = TASK.conclude(rows)
    assert verdict.support is Support.NOT_SUPPORTED
    assert "In 1 of 2 trials" in verdict.sentence


def test_the_figure_has_a_panel_for_the_claim_and_each_breaker():
    """Two optimisers over two λ; a point where a number is, an exact 0 at the floor."""
    rows = [row(name, scale) for name in ("sgd", "adam") for scale in (0.1, 10.0)]
    rows[0] = row("sgd", 0.1, **{"deviation/clean": 0.0})
    (figure,) = TASK.figures(rows).values()
    panels = {axes.get_title().split(" (")[0]: axes for axes in figure.axes}
    assert list(panels) == ["as claimed", "ε", "weight decay", "joint clipping"]
    lines = [line for line in panels["as claimed"].get_lines() if line.get_label() in OPTIMIZERS]
    assert [(line.get_label(), list(line.get_xdata())) for line in lines] == [("sgd", [0.1, 10]), ("adam", [0.1, 10])]
    assert list(lines[0].get_ydata()) == [1e-18, 1e-13]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"optimizer": "lbfgs"}, "'sgd', 'momentum', 'adam', 'adamw' or 'rmsprop'"),
        ({"scale": 0}, "greater than or equal to 0.001"),
        ({"lr": 0}, "greater than 0"),
        ({"batch_size": 257}, "less than or equal to 256"),
        ({"epsilon": 0}, "greater than 0"),
    ],
)
def test_bad_parameters_are_refused_with_their_bound(params, told):
    with pytest.raises(ValidationError, match=told):
        LayerwiseParams(**params)


def test_the_study_tries_every_optimizer():
    study = studyfile.load_study("layerwise")
    assert study.search.space["optimizer"].options == OPTIMIZERS
    assert study.search.algorithm.value == "grid"
    assert all(scale != 1 for scale in study.search.space["scale"].options)
