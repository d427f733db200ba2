"""Claims against rows whose answer is known: ratios, pairs, what divergence does, what the figures draw."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.api import Row, Support
from tasks.batchnorm import ARMS, BANDS, STAGES, TASK
from tasks.batchnorm.stability import RATIO
from tasks.batchnorm.verdict import CLAIMS, best_setting, find

RATES = (0.01, 0.1)
CLAIM = {claim.says: claim for claim in CLAIMS}


def row(arm, seed, lr, **changed):
    """A trial that saw the same as all others of its seed, but for what is changed."""
    level = 1.0 + seed  # seeds differ much, arms of a seed do not
    metrics = {
        "val/score": 0.5, "test/score": 0.5, "diverged": 0.0, "stable/lr": level, "landscape/loss_range": level,
        "landscape/gradient_change": level, "landscape/beta": level, "gradient/spread": level, "hessian/top": level,
        "shift/distance": level, **{f"bands/{n}/{s}": 1.0 for n in BANDS for s in range(1, STAGES + 1)},
    }  # fmt: skip
    return Row(f"{arm}-{seed}-{lr}", {"norm": arm, "lr": lr}, {**metrics, **changed}, seed)


def rows_of(changes=None, seeds=(1, 2, 3), arms=ARMS, rates=RATES):
    """All trials; ``changes[arm](seed, lr)`` gives what its metrics differ in."""
    changes = changes or {}
    return [
        row(arm, seed, lr, **changes.get(arm, lambda seed, lr: {})(seed, lr))
        for arm in arms for seed in seeds for lr in rates
    ]  # fmt: skip


def smaller(factor):
    def change(seed, lr):
        value = (1 + seed) * factor * (1 + 0.05 * seed)
        return {f"landscape/{name}": value for name in ("loss_range", "gradient_change", "beta")}

    return change


@pytest.mark.parametrize(
    ("factor", "support"), [(0.3, Support.SUPPORTED), (3.0, Support.NOT_SUPPORTED), (0.92, Support.UNDECIDED)]
)
def test_the_verdict_is_on_the_three_measures_of_smoothness(factor, support):
    verdict = TASK.conclude(rows_of({"batch": smaller(factor)}))
    assert verdict.support is support
    assert "3 paired seeds, 2 learning rates" in verdict.sentence
    assert "Of 15 claims" in verdict.sentence


def test_one_measure_that_goes_the_other_way_is_not_hidden():
    def mixed(seed, lr):
        return {**smaller(0.3)(seed, lr), "landscape/beta": 5.0 * (1 + seed)}

    assert TASK.conclude(rows_of({"batch": mixed})).support is Support.NOT_SUPPORTED


def test_ratios_are_taken_in_pairs_and_averaged_within_seeds():
    """ln-ratios by seed: means over the rates of (ln 2, ln 8), (ln 4, ln 4), (ln 4, ln 16)."""
    factors = {(1, 0.01): 2, (1, 0.1): 8, (2, 0.01): 4, (2, 0.1): 4, (3, 0.01): 4, (3, 0.1): 16}
    changes = {"batch": lambda seed, lr: {"landscape/beta": (1 + seed) * factors[seed, lr]}}
    found = find(CLAIM["BN: smaller effective β"], rows_of(changes))
    by_seed = np.log([4, 4, 8])
    half = 4.302653 * by_seed.std(ddof=1) / math.sqrt(3)  # Student's t, two degrees of freedom, 97.5 %
    assert (found.seeds, found.settings) == (3, 2)
    assert found.value == pytest.approx(math.exp(by_seed.mean()))
    assert found.low == pytest.approx(math.exp(by_seed.mean() - half), rel=1e-5)
    assert found.high == pytest.approx(math.exp(by_seed.mean() + half), rel=1e-5)
    assert found.support is (Support.NOT_SUPPORTED if found.low > 1 else Support.UNDECIDED)


def test_a_rate_at_which_one_arm_diverged_is_left_out_for_both():
    """At lr .1 'none' diverged once, with numbers that mean nothing: they count nowhere."""
    changes = {
        "batch": smaller(0.5),
        "none": lambda seed, lr: (
            {"diverged": 1.0, "landscape/beta": 1e30, "val/score": 0.0, "test/score": 0.0}
            if (seed, lr) == (2, 0.1)
            else {}
        ),
    }
    found = find(CLAIM["BN: smaller effective β"], rows_of(changes))
    assert found.settings == 1
    assert 0.5 < found.value < 0.6
    verdict = TASK.conclude(rows_of(changes))
    assert "diverged: 'none' in 1 of 6 runs" in verdict.sentence
    assert "1 learning rate." in verdict.sentence


def test_what_diverges_everywhere_cannot_be_compared():
    changes = {"none": lambda seed, lr: {"diverged": 1.0, "val/score": 0.0, "test/score": 0.0}}
    verdict = TASK.conclude(rows_of(changes))
    assert verdict.support is Support.UNDECIDED
    assert "'none' in 6 of 6 runs" in verdict.sentence
    assert find(CLAIM["BN: larger stable learning rate"], rows_of(changes)) is not None  # that is measured apart


def test_accuracy_compares_each_arm_at_its_own_best_rate():
    """'none' is best at .01, BN at .1, where 'none' diverges; held-out samples choose, test samples count."""
    changes = {
        "none": lambda seed, lr: (
            {"val/score": 0.6, "test/score": 0.60}
            if lr == 0.01
            else {"val/score": 0.0, "test/score": 0.0, "diverged": 1.0}
        ),
        "batch": lambda seed, lr: {"val/score": 0.5 + lr, "test/score": 0.7 + 0.01 * seed if lr == 0.1 else 0.99},
    }
    rows = rows_of(changes)
    assert {r.params["lr"] for r in best_setting(rows, "none").values()} == {0.01}
    assert {r.params["lr"] for r in best_setting(rows, "batch").values()} == {0.1}
    found = find(CLAIM["BN: higher accuracy"], rows)
    assert found.value == pytest.approx(0.12)
    assert found.support is Support.SUPPORTED


def test_a_stable_rate_is_known_no_better_than_it_was_bisected():
    for factor, support in ((1.0, Support.UNDECIDED), (RATIO * 0.999, Support.UNDECIDED), (2.0, Support.SUPPORTED)):
        changes = {"batch": lambda seed, lr, factor=factor: {"stable/lr": (1 + seed) * factor}}
        assert find(CLAIM["BN: larger stable learning rate"], rows_of(changes)).support is support


@pytest.mark.parametrize(
    "rows", [rows_of(seeds=(1, 2)), rows_of(arms=("batch",)), rows_of(arms=("none", "layer")), [row("batch", 0, 0.1)]]
)
def test_without_pairs_on_three_seeds_nothing_is_concluded(rows):
    verdict = TASK.conclude(rows)
    assert verdict.support is Support.UNDECIDED
    assert "search.seeds=3" in verdict.sentence


@pytest.mark.parametrize(
    "rows",
    [
        rows_of({"batch": smaller(0.3)}),
        rows_of({"none": lambda seed, lr: {"diverged": float(lr > 0.05), "test/score": 0.0}}),
        [row("batch", 0, 0.1)],
        [row("none", 0, 0.1, diverged=1.0)],
    ],
)
def test_figures_are_drawn_of_whatever_there_is(rows, tmp_path):
    drawn = TASK.figures(rows)
    assert {"bands", "rates"} <= set(drawn) <= {"claims", "bands", "rates"}
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
