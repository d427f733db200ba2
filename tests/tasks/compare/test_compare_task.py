"""The task: pairs by seed and photo, arms by parameter or study, and one verdict over all arms."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeContext

from tasks import logits as left
from tasks.api import Input, InputError, Row, Support
from tasks.compare import TASK
from tasks.logits import Logits

PHOTOS = 400
KEYS = tuple(f"val/{'ab'[i % 2]}/{i:03}" for i in range(PHOTOS))
LABELS = np.arange(PHOTOS) % 2


def trial(folder, arm, seed, hits, study="arms", order=None, **params):
    """A trial whose hits (photos,) are these, its photos left in some order."""
    order = np.arange(PHOTOS) if order is None else order
    said = np.where(hits, LABELS, 1 - LABELS)[order]
    artifacts = folder / study / f"{arm}-{seed}-{len(params)}-{'-'.join(map(str, params.values()))}"
    left.write(
        artifacts / "logits",
        Logits(np.eye(2)[said] * 3, tuple(KEYS[i] for i in order), LABELS[order], ("a", "b")),
    )
    return Input(study, artifacts.name, {"without": arm, **params}, {}, seed, artifacts)


def hits(accuracy, seed):
    return np.random.default_rng(seed).permutation(PHOTOS) < accuracy * PHOTOS


def ran(folder, inputs, **params):
    context = FakeContext(folder, inputs=inputs)
    return TASK.run(TASK.params(**{"by": "without", "baseline": "nothing", "arm": "glu", **params}), context), context


def arms(folder, **accuracies):
    return [
        trial(folder, arm, seed, hits(accuracy, 10 * place + seed))
        for place, (arm, accuracy) in enumerate(accuracies.items())
        for seed in (1, 2, 3)
    ]


def test_the_difference_is_that_of_the_paired_hits(tmp_path):
    """The arm errs where the baseline does, and on 8, 12 and 16 photos more, left in another order."""
    inputs = []
    for seed, more in ((1, 8), (2, 12), (3, 16)):
        base = hits(0.8, seed)
        worse = base.copy()
        worse[np.flatnonzero(base)[:more]] = False
        order = np.random.default_rng(seed).permutation(PHOTOS)
        inputs += [trial(tmp_path, "nothing", seed, base), trial(tmp_path, "glu", seed, worse, order=order)]
    metrics, context = ran(tmp_path, inputs)
    assert metrics["difference"] == pytest.approx(-12 / PHOTOS)
    assert metrics["baseline/top1"] == pytest.approx(0.8)
    assert metrics["baseline/log_loss"] == pytest.approx(0.2 * 3 + np.log1p(np.exp(-3)), rel=1e-6)  # a miss: 3 more
    assert metrics["log_loss_gain"] == pytest.approx(3 * metrics["difference"], rel=1e-6)
    assert metrics["log_loss_gain_high"] == pytest.approx(3 * metrics["difference_high"], rel=1e-6)
    assert metrics["seed_spread"] == pytest.approx(4 / PHOTOS)
    assert (metrics["seeds"], metrics["photos"], metrics["gained"]) == (3, PHOTOS, 0)
    assert metrics["difference_low"] < metrics["photo_low"] < metrics["difference"] < metrics["photo_high"] < 0
    assert metrics["mcnemar_p"] == pytest.approx(0.5 ** metrics["lost"])
    assert [step for step, _ in context.reports] == [1, 2, 3]
    assert context.reports[0][1]["difference"] == pytest.approx(-8 / PHOTOS)
    table = (context.folder / "artifacts" / "seeds.csv").read_text().splitlines()
    assert table[0] == "seed,arm,baseline,difference"
    assert len(table) == 4
    again, _ = ran(tmp_path / "again", inputs[::-1])
    assert again == metrics


def test_studies_can_be_the_arms(tmp_path):
    inputs = [trial(tmp_path, "x", s, hits(0.7, s), study="probe") for s in (1, 2, 3)]
    inputs += [trial(tmp_path, "x", s, hits(0.9, 10 + s), study="finetune") for s in (1, 2, 3)]
    metrics, _ = ran(tmp_path, inputs, by="study", baseline="probe", arm="finetune")
    assert metrics["difference"] == pytest.approx(0.2)
    assert metrics["difference_low"] > 0


def test_several_trials_of_an_arm_and_seed_stand_for_it_by_their_mean(tmp_path):
    inputs = [trial(tmp_path, "nothing", s, hits(0.7, s)) for s in (1, 2, 3)]
    inputs += [trial(tmp_path, "glu", s, hits(a, 9), lr=a) for s in (1, 2, 3) for a in (0.7, 0.9)]
    assert ran(tmp_path, inputs)[0]["arm/top1"] == pytest.approx(0.8)


def test_arms_may_be_numbers(tmp_path):
    inputs = arms(tmp_path, nothing=0.7)
    inputs += [trial(tmp_path, 0.5, s, hits(0.8, s)) for s in (1, 2, 3)]
    assert ran(tmp_path, inputs, arm=0.5)[0]["difference"] == pytest.approx(0.1)
    assert ran(tmp_path, inputs, arm="0.5")[0]["difference"] == pytest.approx(0.1)


def refused(folder, inputs, **params):
    with pytest.raises(InputError) as caught:
        ran(folder, inputs, **params)
    return str(caught.value)


def test_an_arm_that_no_trial_has_lists_those_there_are(tmp_path):
    told = refused(tmp_path, arms(tmp_path, nothing=0.7, centre=0.8), arm="glu")
    assert told == "no input has without=glu; there are: centre (3 trials), nothing (3 trials)"


def test_a_parameter_that_no_trial_has_lists_those_there_are(tmp_path):
    told = refused(tmp_path, arms(tmp_path, nothing=0.7, glu=0.8), by="with")
    assert told == "params.by=with: no input has such a parameter (there are: without, study)"


def test_a_single_seed_is_refused(tmp_path):
    inputs = [trial(tmp_path, arm, 1, hits(0.7, 1)) for arm in ("nothing", "glu")]
    assert "1 seed that both without=glu (seeds 1) and without=nothing (seeds 1) ran on: 3 are the least" in refused(
        tmp_path, inputs
    )


def test_seeds_that_do_not_pair_are_listed(tmp_path):
    inputs = arms(tmp_path, nothing=0.7) + [trial(tmp_path, "glu", s, hits(0.7, s)) for s in (4, 5, 6)]
    assert "0 seeds that both without=glu (seeds 4, 5, 6) and without=nothing (seeds 1, 2, 3)" in refused(
        tmp_path, inputs
    )


def test_the_baseline_is_no_arm(tmp_path):
    assert "is the baseline" in refused(tmp_path, arms(tmp_path, nothing=0.7), arm="nothing")


def test_a_trial_without_logits_is_named(tmp_path):
    inputs = arms(tmp_path, nothing=0.7, glu=0.8)
    inputs[4] = Input("arms", "t4", {"without": "glu"}, {}, 2, tmp_path / "none")
    assert "trial arms/t4" in refused(tmp_path, inputs)


def row(arm, difference, p, **params):
    metrics = {
        "difference": difference, "difference_low": difference - 0.01, "difference_high": difference + 0.01,
        "p_value": p, "photos": 3600.0, "seeds": 3.0, "photo_low": difference, "photo_high": difference,
    }  # fmt: skip
    return Row(arm, {"arm": arm, **params}, metrics)


def test_the_verdict_corrects_for_all_arms():
    """.03 would do for one arm of its own, and does not for the second of two."""
    verdict = TASK.conclude([row("a", 0.02, 0.001), row("b", 0.01, 0.03), row("c", 0.005, 0.2)])
    assert verdict.support is Support.UNDECIDED
    assert "Better than the baseline: a (+2.00, +1.00 … +3.00). Undecided: b" in verdict.sentence
    assert "without which 1 more would count" in verdict.sentence


def test_what_is_left_out_helps_where_the_arm_is_worse():
    rows = [row("glu", -0.02, 0.001, removes=True), row("zoom", -0.01, 0.002, removes=True)]
    verdict = TASK.conclude(rows)
    assert verdict.support is Support.SUPPORTED
    assert verdict.sentence.startswith("Help (without them it is worse): glu (-2.00")
    labels = TASK.figures(rows)["differences"].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["without zoom", "without glu"]
    rows.append(row("clean", 0.01, 0.2, removes=True))
    assert "Undecided (what leaving them out changes): clean (+1.00" in TASK.conclude(rows).sentence
    rows.append(row("mask", 0.02, 0.001, removes=True))
    assert TASK.conclude(rows).support is Support.NOT_SUPPORTED
    assert "Hurt (without them it is better): mask" in TASK.conclude(rows).sentence


def test_the_generated_arms_are_told_apart(tmp_path):
    rows = []
    for arm in ("better", "same", "worse"):
        metrics = TASK.run(TASK.params(arm=arm), FakeContext(tmp_path / arm))
        rows.append(Row(arm, {"arm": arm}, metrics))
    sentence = TASK.conclude(rows).sentence
    assert "Better than the baseline: better (" in sentence
    assert "Worse than the baseline: worse (" in sentence
    assert "Undecided: same (" in sentence
    assert set(TASK.figures(rows)) == {"differences"}
