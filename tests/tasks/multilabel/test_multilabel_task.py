"""The task: each loss learns, a resumed trial ends alike, the verdict says what the seeds allow, bad data is told."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FakeContext

from orchestrator.studies import studyfile
from tasks.api import InputError, Row, Support
from tasks.multilabel import LOSSES, TASK
from tasks.multilabel.digits import compose, read_idx
from tasks.multilabel.losses import indices, make_loss
from tasks.multilabel.sentences import Finder, read_terms
from tasks.multilabel.verdict import arms, conclude, interval

SMALL = {"epochs": 3, "train_rows": 600, "held_rows": 300, "labels": 8}


def run(folder, seed=3, data=None, cache=None, start=None, **params):
    context = FakeContext(folder, seed=seed, data=data, cache=cache)
    context.start = start
    return dict(TASK.run(TASK.params(**{**SMALL, **params}), context)), context


def checked(folder, data, **params):
    """As a study does: the data is looked at first."""
    TASK.check(TASK.params(**params), data)
    run(folder, data=data, **params)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_learns_and_the_best_rule_stays_ahead(tmp_path, loss):
    metrics, context = run(tmp_path, loss=loss, epochs=8, lr=0.01)
    assert metrics["f1_micro_tuned"] > 0.6
    assert metrics["map"] > 1.5 * metrics["labels/positive"] / metrics["labels"]  # the map of chance
    assert metrics["gap/f1_micro"] > -0.02
    assert metrics["gap/f1_micro"] == pytest.approx(metrics["bayes/f1_micro"] - metrics["f1_micro"])
    assert metrics["gap/hamming"] == pytest.approx(metrics["hamming"] - metrics["bayes/hamming"])
    assert [step for step, _ in context.reports] == list(range(1, 9))
    assert (tmp_path / "artifacts" / "reliability.png").stat().st_size > 5000
    assert set(metrics) | {"train/loss"} == set(TASK.reports)


def test_dense_and_sparse_train_alike(tmp_path):
    dense, _ = run(tmp_path / "dense", loss="zlpr")
    sparse, _ = run(tmp_path / "sparse", loss="zlpr_sparse")
    assert dense["map"] == pytest.approx(sparse["map"], abs=0.01)


def test_tuning_moves_the_threshold_and_nothing_else(tmp_path):
    plain, _ = run(tmp_path / "plain", loss="bce")
    tuned, _ = run(tmp_path / "tuned", loss="bce_tuned")
    assert tuned["f1_micro"] == plain["f1_micro_tuned"]
    assert tuned["val/f1_micro"] > plain["val/f1_micro"]
    assert tuned["map"] == plain["map"]


def test_a_resumed_trial_ends_like_one_that_was_never_cut_off(tmp_path):
    whole, context = run(tmp_path / "whole", loss="zlpr")
    step, state = context.saved[0]
    again, second = run(tmp_path / "again", loss="zlpr", start=(step, state))
    assert again == whole
    assert [s for s, _ in second.reports] == [2, 3]


def test_what_diverges_reports_no_number_that_looks_like_one(tmp_path):
    metrics, context = run(tmp_path, loss="bce", lr=1.0, weight_decay=100, epochs=30)
    assert not math.isfinite(metrics["val/f1_micro"]) or 0 <= metrics["val/f1_micro"] <= 1
    assert len(context.reports) == 30


def test_losses_by_hand():
    scores, holds = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[True, False, False]])
    p = torch.sigmoid(scores)[0]
    each = -torch.stack([p[0].log(), (1 - p[1]).log(), (1 - p[2]).log()])
    assert make_loss(TASK.params(loss="bce"))(scores, holds).item() == pytest.approx(each.sum().item())
    weights = torch.stack([0.25 * (1 - p[0]) ** 2, 0.75 * p[1] ** 2, 0.75 * p[2] ** 2])
    assert make_loss(TASK.params(loss="focal"))(scores, holds).item() == pytest.approx((weights * each).sum().item())
    q = (p - 0.05).clamp(min=0)  # ASL, arXiv 2009.14119, eq. 5 and 7
    asl = -(1 - p[0]) * p[0].log() - q[1] ** 4 * (1 - q[1]).log() - q[2] ** 4 * (1 - q[2]).log()
    assert make_loss(TASK.params(loss="asl"))(scores, holds).item() == pytest.approx(asl.item(), rel=1e-5)
    dense, sparse = (make_loss(TASK.params(loss=loss))(scores, holds).item() for loss in ("zlpr", "zlpr_sparse"))
    assert dense == pytest.approx(sparse)
    assert make_loss(TASK.params(loss="zlpr_soft", smoothing=0.0))(scores, holds).item() == pytest.approx(dense)


def test_indices_of_what_holds():
    holds = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    assert indices(holds).tolist() == [[1, 2], [-1, -1], [0, -1]]
    assert indices(holds[1:2]).shape == (1, 0)
    assert indices(holds[:0]).shape == (0, 0)


# -------------------------------------------------------------------------------------------------------- the verdict


def rows_of(values, seeds=(1, 2, 3), problem="generated", **more):
    """Rows of losses: ``values`` maps a loss to its micro-F1 by seed."""
    return [
        Row(f"{loss}-{seed}", {"problem": problem, "loss": loss, "lr": 0.01, **more},
            dict.fromkeys(("val/f1_micro", "f1_micro", "f1_micro_tuned", "map"), value), seed)
        for loss, each in values.items() for seed, value in zip(seeds, each, strict=True)
    ]  # fmt: skip


def test_a_lead_that_all_seeds_share_decides_even_where_seeds_differ_more():
    verdict = conclude(rows_of({"bce": [0.5, 0.6, 0.7], "zlpr": [0.512, 0.61, 0.711], "asl": [0.49, 0.59, 0.69]}))
    assert verdict.support is Support.SUPPORTED
    assert "zlpr has the best micro-F1, 0.6110, ahead of bce by +0.0110" in verdict.sentence
    assert "zlpr − bce in micro-F1: +0.0110" in verdict.sentence


def test_a_lead_that_seeds_contradict_is_undecided_and_says_against_whom():
    verdict = conclude(rows_of({"bce": [0.5, 0.7, 0.6], "zlpr": [0.6, 0.6, 0.65], "asl": [0.1, 0.1, 0.15]}))
    assert verdict.support is Support.UNDECIDED
    assert "not decided against bce;" in verdict.sentence


def test_the_sparse_form_is_no_rival_of_the_dense():
    same = {"bce": [0.5, 0.5, 0.51], "zlpr": [0.6, 0.6, 0.61], "zlpr_sparse": [0.6, 0.6, 0.61]}
    verdict = conclude(rows_of(same))
    assert verdict.support is Support.SUPPORTED
    assert "zlpr_sparse − zlpr: +0.0000 (95 % +0.0000 … +0.0000), the same function" in verdict.sentence


def test_without_common_seeds_nothing_is_decided():
    rows = rows_of({"bce": [0.5]}, seeds=[1]) + rows_of({"zlpr": [0.9]}, seeds=[2])
    verdict = conclude(rows)
    assert verdict.support is Support.UNDECIDED
    assert "set search.seeds to 3 or more" in verdict.sentence
    assert conclude(rows[:1]).support is Support.UNDECIDED


def test_a_loss_is_represented_by_the_point_that_is_best_to_choose_by():
    rows = rows_of({"zlpr": [0.6, 0.6, 0.6]}) + rows_of({"zlpr": [0.5, 0.5, 0.5]}, weight_decay=1)
    lucky = replace(rows[3], metrics={**rows[3].metrics, "f1_micro": 0.99})
    (arm,) = arms([*rows[:3], lucky, *rows[4:]])["generated"]
    assert list(arm.values("f1_micro").values()) == [0.6, 0.6, 0.6]
    partial = rows_of({"zlpr": [0.9]}, seeds=[1], weight_decay=2)  # failed on the other seeds
    (arm,) = arms([*rows, *partial])["generated"]
    assert arm.mean("f1_micro") == 0.6


def test_each_problem_has_its_sentence():
    one = rows_of({"bce": [0.5, 0.5, 0.51], "zlpr": [0.6, 0.6, 0.61]})
    other = rows_of({"bce": [0.5, 0.7, 0.6], "zlpr": [0.6, 0.6, 0.65]}, problem="digits")
    verdict = conclude([*one, *other])
    assert verdict.support is Support.UNDECIDED
    assert "generated, 3 seeds: zlpr" in verdict.sentence
    assert "digits, 3 seeds: zlpr" in verdict.sentence


def test_an_interval_is_students():
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.high - 2) == (2, pytest.approx(4.302653 / math.sqrt(3), rel=1e-5))
    assert interval([1.0]).low == -math.inf


def test_figures_of_one_seed_and_of_several(tmp_path):
    rows = []
    for loss in ("bce", "zlpr"):
        for seed in (1, 2):
            metrics, _ = run(tmp_path / f"{loss}{seed}", seed=seed, loss=loss, epochs=1)
            rows.append(Row(f"{loss}{seed}", {"problem": "generated", "loss": loss}, metrics, seed))
    for some in (rows, rows[::2]):
        figures = TASK.figures(some)
        assert set(figures) == {"generated-f1", "generated-calibration", "generated-gap"}
        assert [label.get_text() for label in figures["generated-f1"].axes[0].get_yticklabels()].count("zlpr") == 1


@pytest.mark.parametrize("name", ["multilabel", "multilabel-digits", "multilabel-terms"])
def test_each_loss_has_the_same_budget(name):
    study = studyfile.load_study(name)
    assert study.search.algorithm == "grid"
    assert study.search.seeds >= 3
    assert study.search.space["loss"].options == LOSSES
    assert all(dimension.when is None for dimension in study.search.space.values())


# ----------------------------------------------------------------------------------------------------------- the data


def idx(path, values):
    """Write bytes in the idx format."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    data = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def digits(tmp_path):
    """Four files like MNIST's: a digit d is a bright row of pixels at the height 2d."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for part, rows, end in (("train", 400, ".gz"), ("t10k", 100, "")):
        labels = np.arange(rows) % 10
        images = np.zeros((rows, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] = 255
        idx(folder / f"{part}-images-idx3-ubyte{end}", images)
        idx(folder / f"{part}-labels-idx1-ubyte{end}", labels)
    return folder


def test_digits_from_idx_files(tmp_path, digits):
    params = {"problem": "digits", "train_rows": 200, "held_rows": 100, "hidden": 16}
    TASK.check(TASK.params(**params), digits)
    metrics, _ = run(tmp_path, data=digits, **params)
    assert metrics["labels"] == 10
    assert "gap/f1_micro" not in metrics
    assert 1.2 < metrics["labels/positive"] < 2.4


def test_the_built_in_digits(tmp_path):
    metrics, _ = run(tmp_path, problem="digits", loss="zlpr", train_rows=2000, epochs=3, lr=0.01)
    assert metrics["labels"] == 10
    assert metrics["map"] > 0.4  # by chance .18


def test_a_canvas_holds_what_it_says():
    images, labels = np.zeros((10, 28, 28), np.uint8), np.arange(10)
    images[:, 5, 5] = 10 * (1 + labels)  # the brightest pixel tells the digit
    canvases, holds = compose(images, labels, 500, 3, np.random.default_rng(0))
    assert canvases.shape == (500, 32, 32)
    bright = np.round(canvases.max(axis=(1, 2)) * 255 * 4 / 10 - 1).astype(int)  # a pixel is the mean of four
    for row, digit in enumerate(bright):
        assert digit == (np.flatnonzero(holds[row]).max() if holds[row].any() else -1)
    assert set(holds.sum(axis=1)) == {0, 1, 2, 3}


@pytest.mark.parametrize("damage", ["missing", "cut", "not idx", "file"])
def test_what_is_no_mnist(tmp_path, digits, damage):
    file = digits / "t10k-images-idx3-ubyte"
    data, told = digits, str(file)
    if damage == "missing":
        file.unlink()
        told = "holds neither t10k-images-idx3-ubyte nor"
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "not idx":
        file.write_bytes(b"PK\x03\x04 and so on")
    else:
        data, told = file, "is no folder"
    params = {"problem": "digits", "train_rows": 50, "held_rows": 50}
    with pytest.raises(InputError, match=told):
        checked(tmp_path, data, **params)


def test_terms_are_masked_whatever_their_length():
    finder = Finder(["电力", "电力系统", "系统", "变压器"])
    assert finder.mask("本文研究电力系统的变压器") == ("本文研究□的□", {0, 1, 2, 3})
    assert finder.mask("电力变压器") == ("□□", {0, 3})
    assert finder.mask("什么都没有") == ("什么都没有", set())


def test_terms_from_a_table_and_from_a_list(tmp_path):
    (tmp_path / "terms.tsv").write_text("rank\tterm\tscore\n1\t电力\t0.9\n2\t系统\t0.8\n3\t电\t0.1\n", "utf-8")
    (tmp_path / "gold.txt").write_text("电力\n系统\n\n电力\n", "utf-8")
    assert read_terms(tmp_path / "terms.tsv") == read_terms(tmp_path / "gold.txt") == ["电力", "系统"]


def test_sentences_tell_of_their_terms(tmp_path):
    """Each of two terms has company of its own: it is learnt. No document is in two parts."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(300):
        term, company = (("变压器", "高低温热冷"), ("法律", "红蓝绿白黑"))[number % 2]
        around = ["".join(rng.choice(list(company), 6)) for _ in range(2)]
        lines.append(f"{around[0]}{term}{around[1]}{number}。")
    (tmp_path / "corpus.txt").write_text("\n".join(lines), "utf-8")
    (tmp_path / "terms.txt").write_text("变压器\n法律\n不在\n", "utf-8")
    params = {"problem": "terms", "terms": str(tmp_path / "terms.txt"), "train_rows": 150, "held_rows": 70,
              "epochs": 15, "lr": 0.01, "hidden": 16}  # fmt: skip
    TASK.check(TASK.params(**params), tmp_path / "corpus.txt")
    metrics, _ = run(tmp_path, data=tmp_path / "corpus.txt", **params)
    assert metrics["labels"] == 2
    assert metrics["f1_micro"] > 0.95


def test_the_built_in_field_of_terms(tmp_path, session_cache):
    metrics, _ = run(tmp_path, problem="terms", cache=session_cache, epochs=1, labels=20)
    assert metrics["labels"] == 20
    assert metrics["labels/positive"] >= 1


@pytest.mark.parametrize(
    ("lines", "terms", "told"),
    [
        (["没有什么词在这里面呀"] * 5, ["电力", "系统"], "0 of the terms are in the corpus"),
        (["这里有电力和系统两个词。那里有电力和系统两个词。"], ["电力", "系统"], "one or two documents"),
        (["这里有电力和系统两个词"], [], "holds no term"),
        (["这里有电力和系统两个词"], None, "needs params.terms=LIST"),
        (None, ["电力", "系统"], "needs the corpus"),
    ],
)
def test_what_is_no_corpus_of_terms(tmp_path, lines, terms, told):
    corpus, listed = tmp_path / "corpus.txt", tmp_path / "terms.txt"
    if lines is not None:
        corpus.write_text("\n".join(lines), "utf-8")
    if terms is not None:
        listed.write_text("\n".join(terms), "utf-8")
    params = {"problem": "terms", "terms": str(listed) if terms is not None else ""}
    data = corpus if lines is not None else None
    with pytest.raises(InputError, match=told):
        checked(tmp_path, data, **params)


def test_the_generated_problem_takes_no_data(tmp_path):
    with pytest.raises(InputError, match="makes its own data"):
        TASK.check(TASK.params(), tmp_path)


@pytest.mark.realdata
def test_real_digits(tmp_path, real_data):
    metrics, _ = run(
        tmp_path, data=real_data / "mnist", problem="digits", loss="zlpr", train_rows=3000, epochs=4, held_rows=1000
    )
    assert read_idx(real_data / "mnist" / "t10k-images-idx3-ubyte.gz").shape == (10_000, 28, 28)
    assert metrics["map"] > 0.6


@pytest.mark.realdata
def test_real_terms(tmp_path, real_data):
    folder = real_data / "terms"
    params = {"problem": "terms", "terms": str(folder / "gold_power.txt"), "labels": 50, "train_rows": 3000}
    metrics, _ = run(tmp_path, data=folder / "domain_power.txt", loss="zlpr", lr=0.01, epochs=5, **params)
    assert metrics["labels"] == 50
    assert metrics["map"] > 2 * metrics["labels/positive"] / 50
