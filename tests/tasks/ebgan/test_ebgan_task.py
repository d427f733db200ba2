"""The task: resumed to the last bit, what diverges says so, each problem runs, bad input is told, verdicts."""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import pytest
import torch
from fakes import FakeContext
from PIL import Image

from orchestrator.history import checkpoint
from orchestrator.studies import studyfile
from tasks.api import InputError, Row, Support
from tasks.ebgan import TASK, EbganParams
from tasks.ebgan.kdd import load_table
from tasks.ebgan.params import TOYS
from tasks.ebgan.verdict import conclude

SMALL = {
    "steps": 8, "report_every": 3, "width": 12, "generator_width": 12, "batch_size": 16, "evaluated": 40, "final": 60,
    "chain_steps": 6, "channels": 4, "sheets": 1,
}  # fmt: skip


def run(folder, data=None, start=None, cache=None, seed=1, **params):
    context = FakeContext(folder, data=data, cache=cache, seed=seed)
    context.start = start
    TASK.check(EbganParams(**{**SMALL, **params}), data)
    return dict(TASK.run(EbganParams(**{**SMALL, **params}), context)), context


def idx(path, values):
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """Digits of a few pixels each, in MNIST's files."""
    folder = tmp_path_factory.mktemp("mnist")
    random = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 60)):
        labels = np.arange(count) % 10
        images = random.integers(0, 40, (count, 28, 28))
        for row, label in enumerate(labels):
            images[row, 2 * label : 2 * label + 6, 6:22] = 250
        idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="module")
def kdd(tmp_path_factory):
    """Rows of 41 features: attacks alike, normal ones spread out."""
    random = np.random.default_rng(0)
    lines = []
    for row in range(300):
        normal = row % 5 == 0
        numbers = random.integers(0, 500 if normal else 20, 41)
        words = [str(number) for number in numbers]
        words[1:4] = ["udp" if normal else "tcp", "http", "SF"]
        for column in (6, 11, 20, 21):
            words[column] = str(int(normal and row % 2))
        lines.append(",".join([*words, "normal." if normal else "smurf."]))
    path = tmp_path_factory.mktemp("kdd") / "kddcup.data_10_percent"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def pictures(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for at in range(9):
                pixels = np.random.default_rng(at).integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{at}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"entropy": "infogan", "chain_space": "latent"},
        {"problem": "digits", "spectral_norm": True, "chain": "langevin"},
    ],
    ids=["plain", "latent", "pictures"],
)
def test_a_killed_and_resumed_run_has_the_same_samples(tmp_path, session_cache, params):
    result, whole = run(tmp_path / "whole", cache=session_cache, **params)
    assert [step for step, _ in whole.reports] == [3, 6, 8]
    torch.manual_seed(123)  # what a new process has is not what the first one had
    checkpoint.save(tmp_path / "kept", *whole.saved[0])  # through the file, as in life
    kept = checkpoint.load_last(tmp_path / "kept")[:2]
    again, context = run(tmp_path / "again", cache=session_cache, start=kept, **params)
    assert again == result
    assert context.reports == whole.reports[1:]
    for name in ("samples.npy", "networks.safetensors"):
        assert context.artifact(name).read_bytes() == whole.artifact(name).read_bytes()


@pytest.mark.parametrize("problem", TOYS)
def test_toys_leave_maps_and_an_animation(tmp_path, problem):
    result, context = run(tmp_path, problem=problem, sheets=2)
    assert set(result) <= set(TASK.reports)
    assert ("quality" in result) == (problem == "gaussians")
    if problem != "gaussians":
        assert result["kl"] == result["density/kl"]
    sheets = sorted(path.name for path in (tmp_path / "artifacts").glob("samples-*.png"))
    assert sheets == ["samples-00000006.png", "samples-00000008.png"]
    with Image.open(context.artifact("training.gif")) as film:
        assert film.n_frames == 3


def test_the_energy_becomes_the_datas(tmp_path):
    """After 300 steps e^{−U/T}/Z is nearer to two moons than the flat law is, which is 1.3 nats off."""
    result, _ = run(
        tmp_path, problem="moons", steps=300, report_every=300, width=48, generator_width=48, batch_size=64,
        energy_steps=3, temperature=0.1,
    )  # fmt: skip
    assert result["density/kl"] < 1
    assert 0.2 < result["mcmc/acceptance"] <= 1


def test_each_problem_on_data_runs(tmp_path, session_cache, mnist, kdd, pictures):
    for problem in ("mnist", "stacked-mnist", "mnist-anomaly"):
        params = {"steps": 2, "problem": problem, "latent": 4, "penalty_norm": "pixel"}
        metrics, context = run(tmp_path / problem, mnist, cache=session_cache, **params)
        assert set(metrics) <= set(TASK.reports)
        assert context.artifact("samples-00000002.png").stat().st_size > 1000
    assert 0 < metrics["auprc"] <= 1
    metrics, _ = run(tmp_path / "kdd", kdd, steps=2, problem="kdd99", latent=4)
    assert {"auprc", "precision", "recall", "f1"} <= set(metrics)
    metrics, _ = run(tmp_path / "cifar", pictures, steps=2, problem="cifar10", latent=4, chain_space="none")
    assert "fid" not in metrics  # no weights were given


def test_stacked_digits_are_read_as_numbers(tmp_path, mnist, session_cache):
    params = {"steps": 1, "problem": "stacked-mnist", "chain_space": "none", "final": 50}
    metrics, _ = run(tmp_path, mnist, cache=session_cache, **params)
    assert metrics["classifier/accuracy"] == 1  # these digits are easy
    assert 1 <= metrics["modes"] <= 50
    from tasks.ebgan import classifier, pictures, problem

    x, y, test, labels = pictures.mnist(mnist)
    found = classifier.obtain(problem.Labelled(x, y, test, labels), session_cache)
    rows = torch.tensor([[1, 2, 3], [9, 0, 4]])
    assert found.classes(problem.stack(x, rows)).tolist() == [123, 904]


def test_kdd_rows_enter_by_the_papers_protocol(kdd):
    table = load_table(kdd, seed=0)
    assert len(table.train) + len(table.test) < 300  # normal rows of the training half are left out
    assert len(table.test) == 150
    assert table.train.min() >= 0
    assert table.train.max() <= 1
    assert not np.array_equal(table.anomalous, load_table(kdd, seed=1).anomalous)
    part = load_table(kdd, seed=0, validate=True)  # of the training half alone, cut by the same rule
    assert len(part.test) == 75
    normal = 60 - int(table.anomalous.sum())  # of 300 rows 60 are normal; these are in the training half
    assert len(part.train) == 75 - (normal - int(part.anomalous.sum()))


def test_what_diverges_says_so_and_keeps_the_last_finite_state(tmp_path):
    wild = {"lr": 1.0, "depth": 10, "penalty": 0.0, "steps": 400, "report_every": 1, "evaluated": 10, "chain_steps": 1}
    metrics, context = run(tmp_path, problem="moons", **wild)
    assert math.isnan(metrics["kl"])
    step, last = context.reports[-1]
    assert math.isnan(last["kl"])
    kept, state = context.saved[-1]
    assert kept == step - 1
    assert all(value.isfinite().all() for value in state["networks"].values())


@pytest.mark.parametrize(
    "wrong", [{"penalty": -1.0}, {"steps": 0}, {"problem": "mnst"}, {"penalty_norm": "pixel"}, {"energy_steps": 0}]
)
def test_parameters_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EbganParams(**wrong)


def test_bad_data_is_told(tmp_path, pictures, mnist, kdd):
    with pytest.raises(InputError, match=r"batch_size=4096: there are but \d+ samples"):
        run(tmp_path, problem="digits", batch_size=4096)
    with pytest.raises(InputError, match="needs its data: give data=FOLDER"):
        run(tmp_path, problem="mnist")
    with pytest.raises(InputError, match="built in: leave out data="):
        run(tmp_path, mnist)
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path, tmp_path / "nothing", problem="kdd99")
    with pytest.raises(InputError, match="holds neither kddcup"):
        run(tmp_path, mnist, problem="kdd99")
    with pytest.raises(InputError, match=r"params\.inception=.* there is no such file"):
        run(tmp_path, pictures, problem="cifar10", inception="weights.pth")
    with pytest.raises(InputError, match="is for problem cifar10"):
        run(tmp_path, inception="weights.pth")
    (tmp_path / "torn.csv").write_text("1,2,3\n")
    with pytest.raises(InputError, match="line 1 has 3 columns"):
        run(tmp_path, tmp_path / "torn.csv", problem="kdd99")
    Image.new("RGB", (20, 32)).save(pictures / "train" / "dog" / "9.png")
    with pytest.raises(InputError, match=r"9\.png is 20 × 32 px, .* is 32 × 32"):
        run(tmp_path, pictures, problem="cifar10")
    (pictures / "train" / "dog" / "9.png").unlink()
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="does not hold the weights"):
        run(tmp_path, pictures, problem="cifar10", inception=str(tmp_path / "text.pth"))


def row(seed=0, entropy="js", metrics=None, **params):
    return Row(f"t{seed}{entropy}", EbganParams(entropy=entropy, **params).model_dump(), metrics or {}, seed)


def test_the_verdict_is_on_pairs_of_seeds():
    rows = [row(s, "js", {"kl": 0.2 + 0.01 * s, "modes": 25.0}) for s in range(5)]
    assert conclude(rows).support is Support.UNDECIDED
    rows += [row(s, "none", {"kl": 1.2 - 0.02 * s, "modes": 11.0}) for s in range(5)]
    verdict = conclude(rows)
    assert verdict.support is Support.SUPPORTED
    assert "+0.940 nats" in verdict.sentence
    assert "Modes found: 25.0 with, 11.0 without (95 % of the change -14.0 … -14.0)." in verdict.sentence
    assert "Within 4σ" not in verdict.sentence  # no trial has it
    swapped = [row(r.seed, {"js": "none", "none": "js"}[r.params["entropy"]], r.metrics) for r in rows]
    assert conclude(swapped).support is Support.NOT_SUPPORTED
    few = [r for r in rows if r.seed < 2]
    assert conclude(few).support is Support.UNDECIDED


def test_the_verdict_on_anomalies_is_against_the_paper():
    def f1(values):
        return conclude([row(s, metrics={"f1": v}, problem="kdd99") for s, v in enumerate(values)])

    assert f1([0.95, 0.951, 0.949]).support is Support.SUPPORTED
    assert f1([0.95, 0.93, 0.949]).support is Support.UNDECIDED
    assert f1([0.85, 0.851, 0.849]).support is Support.NOT_SUPPORTED
    assert "0.9389" in f1([0.95]).sentence
    digits = [
        row(s, metrics={"auprc": v + 0.01 * s}, problem="mnist-anomaly", held_out=d)
        for d, v in ((1, 0.1), (4, 0.6), (5, 0.6), (7, 0.6), (9, 0.1))
        for s in range(3)
    ]
    assert conclude(digits).support is Support.SUPPORTED
    assert conclude(digits[:6]).support is Support.UNDECIDED  # one of two, and three digits not tried


def test_study_figures_put_scores_beside_the_published_ones():
    digits = [
        row(s, metrics={"auprc": 0.3 + 0.1 * s}, problem="mnist-anomaly", held_out=d) for d in (4, 8) for s in (0, 1)
    ]
    axes = TASK.figures(digits)["published"].axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["digit 4", "digit 8"]
    dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [0.401]  # there is none for digit 8
    assert set(TASK.figures([row(metrics={"f1": 0.9}, problem="kdd99")])) == {"published"}
    assert set(TASK.figures([row(metrics={"kl": 1.0}), row(entropy="none", metrics={"kl": 2.0})])) == {"entropies"}
    assert TASK.figures([row(metrics={"loss/energy": 0.1}, problem="cifar10")]) == {}


@pytest.mark.parametrize("name", ["modes", "entropy", "kdd99", "mnist-anomaly", "stacked-mnist", "cifar10"])
def test_studies_are_whole(name, mnist, kdd, pictures):
    data = {"kdd99": kdd, "mnist-anomaly": mnist, "stacked-mnist": mnist, "cifar10": pictures}.get(name)
    study = studyfile.load_study(f"ebgan-{name}", [] if data is None else [f"data={data}"])
    assert study.task == "ebgan"
