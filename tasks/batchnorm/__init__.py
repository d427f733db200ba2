"""BatchNorm: does it smooth the loss landscape, and is it centring or scaling that does it?

Sources: Su Jianlin, kexue.fm/archives/6992 (centring lowers the bound on the gradient's Lipschitz constant, scaling
mainly equalises); Santurkar et al. 2018, arXiv 1805.11604 (BN smooths, and still helps where noise undoes its shift).
Idea: networks that differ in nothing but the norm are trained side by side from equal weights on equal batches, and at
each of a number of steps it is looked how loss and gradient change along the gradient.

>>> TASK.params(network="linear").layers
25
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.api import Choice, Context, Field, Goal, InputError, LogUniform, Params, Resources, Row, Task, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARMS = ("none", "batch", "centre", "scale", "noisy", "layer", "group")
BATCH_NORMS = ("batch", "centre", "scale", "noisy")
"""The arms that take their statistics over the batch."""
STAGES = 5
"""Parts of a training that the study's figures show, each the mean of its probes."""


class BatchNormParams(Params):
    norm: Literal["none", "batch", "centre", "scale", "noisy", "layer", "group"] = "batch"
    """``centre`` and ``scale``: half of BN. ``noisy``: BN whose output is upset by noise anew at each step. ``layer``
    and ``group``: the same formula over a sample's own channels."""
    network: Literal["mlp", "vgg", "linear"] = "mlp"
    """Multilayer perceptron, VGG (six convolutions, three poolings), or a deep network without nonlinearity."""
    placement: Literal["after", "before"] = "after"
    """Whether a norm stands behind its layer, as in the paper, or before it, as the post derives it."""
    dataset: Literal["digits", "gaussian"] = "digits"
    """What is learnt without ``data``: scikit-learn's digits, or a regression on Gaussian inputs."""
    width: int = Field(64, ge=2, le=4096)
    """Units of a layer; of a VGG the channels of its first two layers: then twice and four times as many."""
    depth: int = Field(0, ge=0, le=200)
    """Layers with weights of mlp and linear. 0: 6 and 25."""
    batch_size: int = Field(64, ge=1, le=4096)
    """Samples a step."""
    lr: float = Field(0.1, gt=0, le=1000)
    """Learning rate of plain SGD, constant, as theory and paper have it."""
    steps: int = Field(800, ge=10, le=1_000_000)
    """Steps of training."""
    probes: int = Field(15, ge=STAGES, le=10_000)
    """At how many steps, spread evenly, it is looked along the gradient: seven gradients each."""
    deep_probes: int = Field(2, ge=0, le=1000)
    """At how many of these the top eigenvalue of the Hessian and the covariate shift are measured besides."""
    stability_steps: int = Field(15, ge=0, le=100_000)
    """Length of the runs from the start by which the largest stable learning rate is sought. 0: it is not."""

    @property
    def layers(self) -> int:
        """`depth`, the default resolved."""
        return self.depth or (25 if self.network == "linear" else 6)


def run(params: BatchNormParams, context: Context) -> Mapping[str, float]:
    """Train with probes along the way; returns what they saw, and the scores."""
    from tasks.batchnorm.train import train  # torch takes seconds to import, listing tasks need not

    return train(params, context)


def check(params: BatchNormParams, data: Path | None) -> None:
    """Report wrong data, and a batch or a network that does not fit, before anything starts."""
    if data is not None:
        from tasks.dogs.folders import find_photos

        find_photos(data)
    if params.batch_size < 2 and params.norm in BATCH_NORMS:
        raise InputError(
            f"params.batch_size={params.batch_size}: norm '{params.norm}' takes its statistics over the batch and "
            f"needs two samples or more (or set params.norm to none, layer or group)"
        )
    if params.deep_probes > params.probes:
        raise InputError(
            f"params.deep_probes={params.deep_probes}: these are some of the probes, of which there are {params.probes}"
        )
    if params.probes > params.steps:
        raise InputError(f"params.probes={params.probes}: there are but {params.steps} steps (params.steps)")
    if data is None and params.dataset == "gaussian" and params.network == "vgg":
        raise InputError("params.network=vgg needs pictures, dataset 'gaussian' has none: set params.network=mlp")


def conclude(rows: Sequence[Row]) -> Verdict:
    """Each claim of paper and post with its interval; the verdict is on whether BN smooths."""
    from tasks.batchnorm.verdict import conclude

    return conclude(rows)


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """The claims with their intervals, bands along training by arm, scores and stable learning rates."""
    from tasks.batchnorm.figures import study_figures

    return study_figures(rows)


BANDS = {
    "loss_low": "least loss seen along the gradient",
    "loss_high": "greatest",
    "change_low": "least change of the gradient",
    "change_high": "greatest",
    "beta": "effective β",
}


def _stage_reports() -> dict[str, str]:
    return {
        f"bands/{name}/{stage}": f"{meaning}, mean of part {stage} of {STAGES} of the training"
        for name, meaning in BANDS.items()
        for stage in range(1, STAGES + 1)
    }


TASK = Task(
    name="batchnorm",
    question="Does batch normalisation smooth the loss landscape, and is it centring or scaling that does it?",
    params=BatchNormParams,
    metric="val/score",
    goal=Goal.MAX,
    reports={
        "val/score": "accuracy on held-out training samples (regression: R², at least 0); 0 once training diverged",
        "test/score": "the same on the test samples, after training",
        "train/loss": "mean loss of the batches since the last report, nats (regression: mean square)",
        "diverged": "1 if the loss left what numbers can hold (or 10⁶), else 0",
        "diverged/step": "the step at which it did; 0 if it did not",
        "landscape/loss_range": "greatest less least loss at ½ to 4 learning rates along −∇; of a trial, the mean",
        "landscape/gradient_change": "greatest ‖∇L there − ∇L here‖₂; of a trial, the mean over its probes",
        "landscape/beta": "effective β: greatest such change over the distance; of a trial, the mean",
        "gradient/spread": "standard deviation over layers of ln(‖∇_W L‖/‖W‖); of a trial, the mean",
        "hessian/top": "largest eigenvalue of the Hessian on the batch, Lanczos; of a trial, the mean",
        "shift/distance": "internal covariate shift (the paper's definition 2.1), ‖G − G′‖₂; of a trial, the mean",
        "shift/cosine": "the cosine of G and G′; of a trial, the mean",
        "stable/lr": "largest learning rate at which a short run from the start lowers the loss",
        "input/lambda": "λmax(E[xxᵀ]) of training inputs with pixels' own zero: the L of linear regression on them",
        "input/lambda_centred": "λmax(Σ): the same once each feature is centred",
        "input/lambda_scaled": "the same once each feature is divided by its deviation, but not centred",
        "input/lambda_standardised": "the same once both is done",
        "probe/share": "share of the run's processor time that all probes took, the stable rate's search too",
        "data/unreadable": "pictures left out because they could not be read; the trial's log names them",
        **_stage_reports(),
    },
    space={"norm": Choice(*ARMS), "lr": LogUniform(0.01, 1.0)},
    resources=Resources(cpus=1),
    run=run,
    check=check,
    conclude=conclude,
    figures=figures,
)
