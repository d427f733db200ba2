"""Layer-wise learning rates: does θ = λφ give a layer its own, and what breaks that?

Source: Su Jianlin, kexue.fm/archives/6418.
Idea: train φ = θ/λ in place of a layer's weights θ, and θ moves as if its learning rate were λ² times as large under
SGD and momentum, λ times under Adam, AdamW and RMSprop. Both trainings are run here on the same batches; how far their
trajectories part tells how exact the claim is, and what ε, weight decay and clipping by norm cost it.

Of use alone: `tasks.layerwise.groups` (parameter groups by rules or by depth), `tasks.layerwise.gradients` (a pipeline
on gradients) and `tasks.layerwise.reparametrised` (θ = λφ, and the options that do the same).

>>> TASK.params(optimizer="adam").scale
10.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from tasks.api import Choice, Context, Field, Goal, Params, Resources, Row, Task, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")
"""What the claim is about. Each has a number of its own in the metrics, its place here, as those are numbers alone."""
BREAKERS = ("epsilon", "weight_decay", "clipping")
"""What breaks it: ε (not SGD, which has none), weight decay and clipping by norm, one at a time."""

EXACT = 1e-6
"""Trajectories that part by no more of the way are held as equal."""
FLOOR = 1e-18
"""What an exact 0 counts as in a logarithm."""


class LayerwiseParams(Params):
    optimizer: Literal["sgd", "momentum", "adam", "adamw", "rmsprop"] = "sgd"
    """Which optimiser trains. ``momentum`` is SGD with 0.9."""
    scale: float = Field(10.0, ge=1e-3, le=1e3)
    """λ: the hidden layer's weights are trained as φ = θ/λ. With 1 nothing is told apart."""
    lr: float = Field(0.01, gt=0, le=1)
    """Learning rate of every layer in θ. φ is trained with this divided by λ² or λ, so that all λ train alike."""
    steps: int = Field(200, ge=1, le=100_000)
    """Steps of each training."""
    batch_size: int = Field(32, ge=1, le=256)
    """Samples a step, of 256."""
    epsilon: float = Field(1e-8, gt=0, le=1)
    """ε of Adam, AdamW and RMSprop where it is what breaks the claim; 0 elsewhere."""
    weight_decay: float = Field(0.01, gt=0, le=1)
    """Weight decay where it is what breaks the claim; 0 elsewhere."""
    max_norm: float = Field(1.0, gt=0, le=1e6)
    """Joint norm that all gradients are clipped to where clipping is what breaks the claim."""


def run(params: LayerwiseParams, context: Context) -> Mapping[str, float]:
    """Train in both ways and measure how far the trajectories part, once for the claim and once for each breaker."""
    from tasks.layerwise.trial import run  # torch takes seconds to import, listing tasks need not

    return run(params, context)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Does the claim hold to 1e-6 for every optimiser, and what does each breaker cost?"""
    from tasks.layerwise.verdict import conclude

    return conclude(rows)


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """How far the trajectories part, by λ and optimiser."""
    from tasks.layerwise.figures import study_figures

    return study_figures(rows)


TASK = Task(
    name="layerwise",
    question="Does training φ = θ/λ give a layer λ² (SGD) or λ (Adam) times the learning rate, and what breaks that?",
    params=LayerwiseParams,
    metric="digits",
    goal=Goal.MAX,
    reports={
        "optimizer": "its number, from 0: sgd, momentum, adam, adamw, rmsprop",
        "scale": "λ",
        "digits": "decimal digits to which the trajectories agree: −log₁₀ of deviation/clean, 18 at most",
        "deviation/clean": "greatest distance of the trajectories, of that from the start; no ε, decay nor clipping",
        "deviation/control": "the same with the other power of λ in the learning rate: what a wrong claim would show",
        "deviation/epsilon": "the same as clean, with the same ε in both",
        "deviation/weight_decay": "the same as clean, with the same weight decay in both",
        "deviation/clipping": "the same as clean, with all gradients clipped by their joint norm",
        "corrected/epsilon": "with ε/λ where θ is trained",
        "corrected/weight_decay": "with the decay divided by λ (AdamW) or λ² where θ is trained",
        "corrected/clipping": "with each layer clipped by its own norm, θ's at 1/λ of the bound",
        "clipped": "share of the steps in which clipping acted",
        "loss/first": "mean square error at the start",
        "loss/last": "and at its end",
    },
    space={
        "optimizer": Choice(*OPTIMIZERS),
        "scale": Choice(0.1, 0.3, 3.0, 10.0),
    },
    resources=Resources(cpus=1),
    run=run,
    conclude=conclude,
    figures=figures,
    reads_data=False,
)
