"""Several right labels at once: which loss finds them best, at an equal budget of trials?

Source: Su Jianlin, kexue.fm/archives/7359, and Su et al. 2022, arXiv 2208.02955 (ZLPR: softmax cross entropy for sets
of labels, in `tasks.multilabel.zlpr`, which can be used alone).
Idea: binary cross entropy asks of each label alone whether it holds; ZLPR asks that those that hold score above a
threshold, and the others below it, and compares all labels of a row with each other. The losses train the same small
model for as many epochs over the same grid of learning rates and weight decays, each point on the same seeds.

>>> TASK.params(loss="zlpr").problem
'generated'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.api import (
    Choice,
    Context,
    Field,
    Goal,
    InputError,
    LogUniform,
    Params,
    Resources,
    Row,
    Task,
    UserPath,
    Verdict,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = ("bce", "bce_tuned", "focal", "asl", "zlpr", "zlpr_sparse", "zlpr_soft")


class MultilabelParams(Params):
    problem: Literal["generated", "digits", "terms"] = "generated"
    """``generated``: a law whose best decisions are known. ``digits``: which digits are on a canvas of several,
    MNIST's with ``data``. ``terms``: which terms were masked in a sentence."""
    loss: Literal["bce", "bce_tuned", "focal", "asl", "zlpr", "zlpr_sparse", "zlpr_soft"] = "zlpr"
    """``bce_tuned``: BCE, its threshold tuned on the validation rows. ``zlpr_sparse``: ZLPR from indices of positives.
    ``zlpr_soft``: ZLPR of smoothed targets. All others decide at the score 0."""
    epochs: int = Field(10, ge=1, le=1000)
    """Passes over the training rows."""
    batch_size: int = Field(64, ge=1, le=8192)
    """Rows a step."""
    lr: float = Field(3e-3, gt=0, le=1)
    """Peak learning rate (AdamW, one cycle)."""
    weight_decay: float = Field(0.01, ge=0, le=100)
    """AdamW's decoupled weight decay."""
    hidden: int = Field(128, ge=4, le=4096)
    """Width of the model's hidden layer."""
    train_rows: int = Field(2000, ge=20, le=1_000_000)
    """Rows to train on; fewer where the data has no more."""
    held_rows: int = Field(2000, ge=20, le=1_000_000)
    """Rows to choose by, and as many others to report on; fewer where the data has no more."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """``zlpr_soft``: targets are moved this far towards ½."""
    focal_gamma: float = Field(2.0, ge=0, le=10)
    """Focusing of the focal loss (Lin et al. 2017: 2)."""
    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of positives in the focal loss, of negatives 1 − it (Lin et al. 2017: 0.25)."""
    asl_gamma_negative: float = Field(4.0, ge=0, le=10)
    """Focusing of ASL on negatives (Ridnik et al. 2021: 4)."""
    asl_gamma_positive: float = Field(1.0, ge=0, le=10)
    """Focusing of ASL on positives (Ridnik et al. 2021: 1)."""
    asl_clip: float = Field(0.05, ge=0, lt=1)
    """Probability below which ASL forgets a negative (Ridnik et al. 2021: 0.05)."""
    labels: int = Field(24, ge=1, le=10_000)
    """generated: how many labels. terms: the most frequent so many."""
    group: int = Field(4, ge=1, le=100)
    """generated: labels that hang on one hidden state. 1 makes labels independent given the input."""
    imbalance: float = Field(1.0, ge=0, le=4)
    """generated: the g-th group is active as often as 1/g to this power."""
    noise: float = Field(1.0, gt=0, le=100)
    """generated: standard deviation around a state's centre, whose coordinates have variance 1."""
    problem_seed: int = Field(0, ge=0)
    """generated: which law; the same for all trials of a study."""
    most_digits: int = Field(4, ge=1, le=8)
    """digits: a canvas holds none up to so many, each number as often."""
    terms: UserPath = ""
    """terms: the list of them, one a line or the ``terms.tsv`` of the terms task. None: those of the built-in field."""


def run(params: MultilabelParams, context: Context) -> Mapping[str, float]:
    """Train on fresh rows and measure on others; returns what is measured after the last epoch."""
    from tasks.multilabel.train import train  # torch takes a second to import, listing tasks need not

    return train(params, context)


def check(params: MultilabelParams, data: Path | None) -> None:
    """Report data that is missing or of another problem before anything starts."""
    if params.problem == "generated":
        if data is not None:
            raise InputError(f"params.problem=generated makes its own data: leave out data={data}, or name a problem")
    elif params.problem == "digits":
        if data is not None:
            from tasks.multilabel.digits import check_folder

            check_folder(data)
    else:
        from tasks.multilabel.sentences import check_files

        check_files(data, params.terms)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Is one loss best? Only if its lead over each other one, paired by seeds, has an interval without 0."""
    from tasks.multilabel.verdict import conclude

    return conclude(rows)


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """F1 by loss with intervals, calibration by loss and, where the best rule is known, how far from it they are."""
    from tasks.multilabel.figures import study_figures

    return study_figures(rows)


TASK = Task(
    name="multilabel",
    question="Which loss finds the several right labels of an input best, at an equal budget?",
    params=MultilabelParams,
    metric="val/f1_micro",
    goal=Goal.MAX,
    reports={
        "val/f1_micro": "micro-F1 on the rows to choose by",
        "val/threshold": "the score above which micro-F1 is greatest there",
        "train/loss": "mean loss of the epoch",
        "f1_micro": "micro-F1 on the rows to report on, decided as the loss asks for",
        "f1_micro_tuned": "the same, decided at the threshold tuned on the rows to choose by",
        "f1_macro": "mean F1 of the labels that occur, decided as the loss asks for",
        "map": "mean average precision of the labels that occur",
        "hamming": "share of wrong decisions",
        "ranking_loss": "share of pairs of a positive and a negative in the wrong order, mean over rows",
        "coverage": "how many labels, from the highest score down, hold all positives, mean over rows",
        "ece/sigmoid": "expected calibration error of σ(s)",
        "ece/sigmoid_of_double": "expected calibration error of σ(2s)",
        "labels": "how many labels there are",
        "labels/positive": "mean number of labels that hold",
        "bayes/f1_micro": "micro-F1 of the best rule, on the same rows",
        "bayes/hamming": "share of wrong decisions of the best rule for it, on the same rows",
        "bayes/map": "mean average precision of the true probabilities, on the same rows",
        "gap/f1_micro": "what is missing to the best rule's micro-F1",
        "gap/hamming": "wrong decisions beyond those of the best rule",
        "gap/map": "what is missing to the true probabilities' mean average precision",
    },
    space={"loss": Choice(*LOSSES), "lr": LogUniform(3e-4, 3e-2), "weight_decay": LogUniform(1e-3, 1)},
    resources=Resources(cpus=1),
    run=run,
    check=check,
    conclude=conclude,
    figures=figures,
)
