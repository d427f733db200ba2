"""The task: honest folds, order and copies that do not matter, what it leaves, errors that say which trial."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from fakes import FakeContext
from scipy.special import log_softmax

from tasks import logits as left
from tasks.api import Input, InputError, Row, Support
from tasks.ensemble import TASK
from tasks.ensemble.builtin import Generated
from tasks.ensemble.split import split
from tasks.logits import Logits

SMALL = {"size": 8, "bags": 3, "folds": 3}


def inputs_of(folder, drawn, study="dogs"):
    """Trials that left these ``(name, logits)`` behind."""
    found = []
    for name, logits in drawn:
        artifacts = folder / study / name.replace("/", "-")
        left.write(artifacts / "logits", logits)
        found.append(Input(study, name, {}, {}, 0, artifacts))
    return found


def drawn(members=6, photos=300, correlation=0.3, seed=0):
    return Generated(tuple(np.linspace(1.5, 2.5, members)), correlation, 6, photos).draw(seed)


def ran(folder, inputs, **params):
    context = FakeContext(folder, seed=7, inputs=inputs)
    return TASK.run(TASK.params(**{**SMALL, **params}), context), context


def shuffled(logits, seed):
    """The same scores, photos and classes in another order."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(logits.keys)), rng.permutation(len(logits.classes))
    place = np.argsort(columns)
    return Logits(
        logits.scores[rows][:, columns],
        tuple(logits.keys[r] for r in rows),
        place[logits.labels[rows]],
        tuple(logits.classes[c] for c in columns),
    )


def test_neither_the_order_of_trials_nor_of_photos_nor_copies_matter(tmp_path):
    models = drawn()
    wanted, _ = ran(tmp_path / "a", inputs_of(tmp_path / "one", models))
    changed = [(name, shuffled(logits, seed)) for seed, (name, logits) in enumerate(models)]
    changed += [(f"zz{copy}", models[2][1]) for copy in range(3)]
    found, _ = ran(tmp_path / "b", inputs_of(tmp_path / "other", changed)[::-1])
    assert found == pytest.approx(wanted, abs=1e-6)
    assert found["models"] == 6


@pytest.mark.parametrize("method", ["greedy", "stacking", "average"])
def test_what_knows_the_photos_that_choose_gains_nothing_where_they_report(tmp_path, method):
    """A member that is right on the search part alone, and guesses elsewhere, is chosen, and the report part does not
    believe it. One that knows all folds but one is chosen for that one, and its predictions are no better there."""
    models = drawn(members=4, photos=600)
    _, honest = models[0]
    frame = left.Frame.of(honest)
    parts = split(frame.keys, frame.labels, 0.5, 3, 0)
    place = {key: row for row, key in enumerate(frame.keys)}
    order = [place[key] for key in honest.keys]
    rng = np.random.default_rng(0)
    known = np.isin(order, parts.search)
    guesses = rng.integers(0, 6, len(order))
    leak = np.full((len(order), 6), -4.0)
    leak[np.arange(len(order)), np.where(known, honest.labels, guesses)] = 4.0
    cheat = Logits(leak, honest.keys, honest.labels, honest.classes)
    params = {"method": method, "size": 1 if method == "average" else 8}
    found, context = ran(tmp_path / "x", inputs_of(tmp_path / "in", [*models, ("cheat", cheat)]), **params)
    weights = json.loads((context.folder / "artifacts" / "ensemble.json").read_text())["weights"]
    assert max(weights, key=weights.get) == "dogs/cheat"
    assert found["top1"] > 0.99
    assert found["report/top1"] < 0.7
    assert found["report/single/top1"] < 0.35

    for fold in range(3):  # knows all folds but one: on that one, nothing is gained
        some = np.isin(order, parts.others(fold))
        leak = np.full((len(order), 6), -4.0)
        leak[np.arange(len(order)), np.where(some, honest.labels, guesses)] = 4.0
        cheat = Logits(leak, honest.keys, honest.labels, honest.classes)
        _, context = ran(
            tmp_path / f"f{fold}", inputs_of(tmp_path / f"in{fold}", [*models, ("cheat", cheat)]), **params
        )
        said = left.read(context.folder / "artifacts" / "logits")
        on_fold = parts.folds[fold]
        assert (said.scores[on_fold].argmax(1) == said.labels[on_fold]).mean() < 0.75


def test_the_report_part_chooses_nothing(tmp_path):
    """Turning all scores of the report part upside down changes nothing that is chosen; of a fold, it does."""
    models = drawn(members=4)
    frame = left.Frame.of(models[0][1])
    parts = split(frame.keys, frame.labels, 0.5, 3, 0)

    def chosen_with(rows, folder):
        turned = []
        for name, logits in models:
            scores = frame.match(logits, name, name).take(logits.scores)
            scores[rows] = scores[rows][:, ::-1]
            turned.append((name, Logits(scores, frame.keys, frame.labels, frame.classes)))
        _, context = ran(folder, inputs_of(folder / "in", turned))
        return json.loads((context.folder / "artifacts" / "ensemble.json").read_text())

    untouched = chosen_with(np.zeros(0, int), tmp_path / "a")
    assert chosen_with(parts.report, tmp_path / "b") == untouched
    assert chosen_with(parts.folds[0], tmp_path / "c") != untouched


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_opponent_is_the_best_of_its_kind_whatever_chooses_the_ensemble(tmp_path, metric):
    """The member that is right most often is sure of its errors, so another one has the lesser log loss."""
    models = Generated((0.5, 0.7, 1.8, 2.2), 0.3, 6, 300).draw(0)
    _, strong = models[-1]
    sure = Logits(9 * strong.scores, strong.keys, strong.labels, strong.classes)
    given = inputs_of(tmp_path / "in", [*models[:-1], ("sure", sure)])
    metrics, _ = ran(tmp_path / "x", given, metric=metric, recalibrate=False)
    frame = left.Frame.of(sure)
    report = split(frame.keys, frame.labels, 0.5, 3, 0).report
    scores, labels = frame.match(sure, "sure", "sure").take(sure.scores)[report], frame.labels[report]
    assert metrics["report/single/top1"] == (scores.argmax(1) == labels).mean()
    loss = -log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean()
    assert metrics["report/single/log_loss"] < 0.8 * loss


def test_it_leaves_weights_figures_and_logits_that_chain(tmp_path):
    metrics, context = ran(tmp_path, inputs_of(tmp_path / "in", drawn()))
    artifacts = context.folder / "artifacts"
    rows = list(csv.DictReader((artifacts / "weights.csv").open()))
    assert sum(float(row["weight"]) for row in rows) == pytest.approx(1)
    assert {row["trial"] for row in rows} <= {f"dogs/generated/{m:03}" for m in range(6)}
    assert len(rows) == metrics["members"]
    for name in ("reliability", "disagreement", "members"):
        assert (artifacts / f"{name}.png").is_file()
    own = left.read(artifacts / "logits")
    parts = split(own.keys, own.labels, 0.5, 3, 0)
    hits = own.scores.argmax(1) == own.labels
    assert hits[parts.report].mean() == pytest.approx(metrics["report/top1"])
    assert hits[parts.search].mean() == pytest.approx(metrics["top1"])
    two = [Input("ensemble", "0", {}, {}, 0, artifacts), *inputs_of(tmp_path / "in", drawn()[:1])]
    assert ran(tmp_path / "chained", two)[0]["models"] == 2


def test_reports_grow_by_fold_and_end_with_the_metrics(tmp_path):
    metrics, context = ran(tmp_path, inputs_of(tmp_path / "in", drawn()))
    assert [reported["photos"] for _, reported in context.reports] == [50, 100, 150]
    assert context.reports[-1][1]["top1"] == metrics["top1"]


def test_independent_members_gain_and_the_interval_says_so(tmp_path):
    metrics, _ = ran(tmp_path, inputs_of(tmp_path / "in", drawn(members=8, photos=1200, correlation=0.0)))
    assert metrics["report/gain_low"] > 0
    assert metrics["report/log_loss_gain_low"] > 0
    assert metrics["report/mcnemar_p"] < 0.01
    assert metrics["diversity/ambiguity"] > 0
    verdict = TASK.conclude([Row("t1", {"method": "greedy"}, metrics)])
    assert verdict.support is Support.SUPPORTED
    assert "600 photos that chose nothing" in verdict.sentence


@pytest.mark.parametrize(
    ("low", "high", "support"),
    [(0.01, 0.03, Support.SUPPORTED), (-0.01, 0.03, Support.UNDECIDED), (-0.03, -0.01, Support.NOT_SUPPORTED)],
)
def test_the_verdict_is_the_reports_interval(low, high, support, tmp_path):
    metrics, _ = ran(tmp_path, ())
    metrics |= {"report/gain_low": low, "report/gain_high": high, "gain_low": 0.5, "gain_high": 0.6}
    verdict = TASK.conclude([Row("t1", {}, metrics), Row("t2", {}, metrics)])
    assert verdict.support is support
    assert "best of 2 trials" in verdict.sentence


def test_the_generated_classifiers_come_near_their_best_combination(tmp_path):
    metrics, _ = ran(tmp_path, (), method="greedy", size=30)
    assert metrics["report/single/top1"] < metrics["report/top1"] < metrics["bayes/top1"] + 0.01
    assert metrics["report/ece"] < 0.05


def test_splits_are_by_key_and_even_in_every_class():
    keys = tuple(f"val/{c}/{i}.jpg" for c in "abcd" for i in range(30))
    labels = np.repeat(np.arange(4), 30)
    parts = split(keys, labels, 0.5, 5, 0)
    assert [np.bincount(labels[parts.report]).tolist()] == [[15] * 4]
    assert all(np.bincount(labels[fold]).tolist() == [3] * 4 for fold in parts.folds)
    assert sorted(np.concatenate([parts.report, *parts.folds])) == list(range(120))
    order = np.random.default_rng(0).permutation(120)
    mixed = split(tuple(keys[i] for i in order), labels[order], 0.5, 5, 0)
    assert {keys[order[i]] for i in mixed.folds[2]} == {keys[i] for i in parts.folds[2]}
    assert set(split(keys, labels, 0.5, 5, 1).report) != set(parts.report)


def wrong(folder, change):
    models = drawn(members=3)
    models[1] = (models[1][0], change(models[1][1]))
    with pytest.raises(InputError) as caught:
        ran(folder, inputs_of(folder / "in", models))
    return str(caught.value)


def test_photos_that_differ_are_counted_and_one_is_named(tmp_path):
    told = wrong(tmp_path, lambda x: Logits(x.scores[3:], x.keys[3:], x.labels[3:], x.classes))
    assert "dogs/generated/001 and dogs/generated/000 differ: 3 photos only the second has" in told
    assert "val/class000/00000.jpg" in told


def test_photos_of_other_data_are_told(tmp_path):
    told = wrong(tmp_path, lambda x: Logits(x.scores, tuple(f"x{k}" for k in x.keys), x.labels, x.classes))
    assert "no photo in common" in told


def test_classes_that_differ_are_told(tmp_path):
    told = wrong(tmp_path, lambda x: Logits(x.scores, x.keys, x.labels, ("cat", *x.classes[1:])))
    assert "1 class only the first has ('cat'), 1 class only the second has ('class000')" in told


def test_labels_that_differ_are_told(tmp_path):
    told = wrong(tmp_path, lambda x: Logits(x.scores, x.keys, np.roll(x.labels, 1), x.classes))
    assert "300 photos different classes" in told


def test_scores_that_are_no_numbers_name_their_trial(tmp_path):
    told = wrong(tmp_path, lambda x: Logits(np.where(x.scores > 3, np.nan, x.scores), x.keys, x.labels, x.classes))
    assert told.startswith("dogs/generated/001 left scores that are no finite numbers")


def test_a_trial_without_logits_is_named(tmp_path):
    inputs = [*inputs_of(tmp_path / "in", drawn()), Input("dogs", "t9", {}, {}, 0, tmp_path / "nothing")]
    with pytest.raises(InputError, match=r"trial dogs/t9: .*holds no logits"):
        ran(tmp_path, inputs)


def test_one_classifier_and_its_copies_are_no_ensemble(tmp_path):
    one = drawn()[0][1]
    with pytest.raises(InputError, match=r"there is 1 \(and 2 copies of it\)"):
        ran(tmp_path, inputs_of(tmp_path / "in", [("a", one), ("b", one), ("c", one)]))


def test_too_few_photos_are_refused(tmp_path):
    with pytest.raises(InputError, match="12 photos are too few"):
        ran(tmp_path, inputs_of(tmp_path / "in", drawn(photos=12)), folds=5)


def test_soups_need_data(tmp_path):
    with pytest.raises(InputError, match="give the study the photos"):
        ran(tmp_path, inputs_of(tmp_path / "in", drawn()), method="soup")
