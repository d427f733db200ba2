"""The task: what it takes, how it is drawn in shards, and its verdict."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fakes import FakeContext
from pydantic import ValidationError

from orchestrator.studies import studyfile
from tasks.angles import TAILS, TASK, AngleParams
from tasks.angles.verdict import TABLE
from tasks.api import Row, Support


def run(folder: Path, seed: int = 3, **params):
    context = FakeContext(folder, seed=seed)
    return TASK.run(AngleParams(**params), context), context


def rows_of(dimensions, **changed) -> list[Row]:
    """Rows as trials give them, each test passing, the law's variance by its first terms summed."""
    metrics = {
        "samples": 1000, "ks/distance": 0.01, "ks/distance_low": 0.0, "ks/distance_high": 0.02, "ks/p_value": 0.4,
        "chi2/p_value": 0.7,
    }  # fmt: skip
    return [
        Row(f"t{n}", {"n": n}, {**metrics, "dimension": n, "variance/exact": variance(n), **changed})
        for n in dimensions
    ]


def variance(n: int) -> float:
    """Σ 2/(n+2k)², its tail by Euler and Maclaurin."""
    many = 20_000
    end = n + 2 * many
    return math.fsum(2 / (n + 2 * k) ** 2 for k in range(many)) + 1 / end + 1 / end**2 + 2 / (3 * end**3)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"n": 1}, "greater than or equal to 2"),
        ({"n": 0}, "greater than or equal to 2"),
        ({"n": 2_000_000}, "less than or equal to 1000000"),
        ({"samples": 0}, "greater than or equal to 1000"),
        ({"shard": 0}, "greater than or equal to 1000"),
        ({"bins": 1}, "greater than or equal to 2"),
        ({"bins": 201}, "less than or equal to 200"),
        ({"sampler": "cube"}, "'exact' or 'direct'"),
    ],
)
def test_bad_parameters_are_refused_with_their_bound(params, told):
    with pytest.raises(ValidationError, match=told):
        AngleParams(**params)


@pytest.mark.parametrize("sampler", ["exact", "direct"])
def test_a_trial_reports_draws_and_measures(tmp_path, sampler):
    metrics, context = run(tmp_path, n=10, samples=25_500, shard=1000, sampler=sampler, bins=50)
    assert context.mapped == {"measure": 26}
    assert [step for step, _ in context.reports] == list(range(1, 11))
    assert [reported["samples"] for _, reported in context.reports][-3:] == [21_000, 24_000, 25_500]
    assert context.reports[-1][1]["ks/distance"] == metrics["ks/distance"]
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"density.png", "ks.png"}
    assert (metrics["dimension"], metrics["samples"]) == (10, 25_500)
    for name in ("ks/distance", "variance/sample", *(f"tail_{epsilon}/log10_sample" for epsilon in TAILS)):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(value > 1e-4 for name, value in metrics.items() if name.endswith("p_value"))


def test_every_reported_metric_is_described(tmp_path):
    metrics, _ = run(tmp_path, n=3, samples=5000)
    assert set(metrics) == set(TASK.reports)


def test_fewer_shards_than_steps(tmp_path):
    _, context = run(tmp_path, n=2, samples=2500, shard=1000)
    assert [reported["samples"] for _, reported in context.reports] == [1000, 2000, 2500]


def test_the_seed_decides(tmp_path):
    first, again, other = (run(tmp_path, seed, n=5, samples=3000)[0] for seed in (1, 1, 2))
    assert first == again
    assert first["ks/distance"] != other["ks/distance"]


def test_the_plane_has_no_approximation_by_the_post(tmp_path):
    metrics, _ = run(tmp_path, n=2, samples=5000)
    assert "normal/post_distance" not in metrics


def test_supported_when_all_tests_pass_and_the_table_is_there():
    verdict = TASK.conclude(rows_of([2, *TABLE, 4096]))
    assert verdict.support is Support.SUPPORTED
    assert "all 9 dimensions" in verdict.sentence
    assert "95 % 0 … 0.02" in verdict.sentence


def test_undecided_when_dimensions_of_the_table_are_missing():
    verdict = TASK.conclude(rows_of([2, 3, 10]))
    assert verdict.support is Support.UNDECIDED
    assert "n = 20, 50, 100, 200, 1000 did not run" in verdict.sentence


def test_not_supported_when_one_test_rejects():
    rows = rows_of(TABLE)
    bad = Row("bad", {}, {**rows[0].metrics, "dimension": 50, "variance/exact": variance(50), "chi2/p_value": 1e-5})
    verdict = TASK.conclude([*rows, bad])
    assert verdict.support is Support.NOT_SUPPORTED
    assert "1 of 16 tests" in verdict.sentence
    assert "chi2/p_value = 1e-05 at n = 50" in verdict.sentence


def test_one_small_p_value_among_many_is_no_rejection():
    """Bonferroni: 0.002 would reject alone, not as the least of 14."""
    rows = rows_of(TABLE)
    lucky = Row("t", {}, {**rows[0].metrics, "ks/p_value": 0.002})
    assert TASK.conclude([lucky, *rows[1:]]).support is Support.SUPPORTED


def test_not_supported_when_a_digit_of_the_table_is_wrong():
    rows = rows_of(TABLE)
    off = Row("t", {}, {**rows[2].metrics, "variance/exact": 0.0525838})
    verdict = TASK.conclude([*rows[:2], off, *rows[3:]])
    assert verdict.support is Support.NOT_SUPPORTED
    assert "at n = 20" in verdict.sentence


def test_figures_of_a_study():
    (name, figure), *rest = TASK.figures(rows_of([2, 3, 10, 100])).items()
    lines = figure.axes[0].get_lines()
    assert (name, rest) == ("approximations", [])
    post, better = (line.get_ydata() for line in lines[:2])
    assert (len(post), len(better)) == (3, 4)
    assert all(p > b for p, b in zip(post, better[1:], strict=True))


def test_the_study_asks_for_one_trial_a_dimension():
    study = studyfile.load_study("angles")
    options = study.search.space["n"].options
    assert study.task == "angles"
    assert set(TABLE) <= set(options)
    assert study.search.algorithm.value == "grid"
