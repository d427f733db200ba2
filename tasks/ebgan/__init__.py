"""Energy-based GAN: an energy that tells data from samples, and a generator that samples from it.

Sources: Su Jianlin, kexue.fm/archives/6331 (GAN = analysis + sampling); Kumar et al. 2019, arXiv 1901.08508 (Maximum
Entropy Generators for Energy-Based Models). Idea: U learns to be low at data and high at samples, flat at data by a
zero-centred penalty; G lowers U of its samples while it keeps their entropy high. Then q(x) = e^{−U(x)}/Z is a density,
and Markov chains on U mend what G does not reach.

>>> TASK.params(entropy="none").problem
'gaussians'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.api import Choice, Context, Goal, InputError, LogUniform, Resources, Row, Task, Verdict
from tasks.ebgan.params import EbganParams
from tasks.ebgan.sources import check_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(params: EbganParams, context: Context) -> Mapping[str, float]:
    """Train, sample and measure; returns the metrics at the end."""
    from tasks.ebgan.train import train  # torch takes seconds to import, listing tasks need not

    return train(params, context)


def check(params: EbganParams, data: Path | None) -> None:
    """Report wrong or missing data, and weights that are not there, before anything starts."""
    check_data(params, data)
    if params.inception:
        from tasks.ebgan.inception import check_weights

        if params.problem != "cifar10":
            raise InputError(f"params.inception is for problem cifar10, this is {params.problem}: leave it empty")
        check_weights(params.inception)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Does the entropy term help, or, of anomaly detection, is the published score reached?"""
    from tasks.ebgan.verdict import conclude

    return conclude(rows)


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Scores by what estimates the entropy, or of anomaly detection beside the published ones."""
    from tasks.ebgan.figures import study_figures

    return study_figures(rows)


_SAMPLED = {
    "modes": "modes (or classes) with a sample that counts",
    "quality": "share of samples within 4 standard deviations of a mode's centre",
    "kl_uniform": "KL to uniform of the shares of modes or classes among samples that count, nats",
    "kl": "laws with modes: the same with 'no mode' as one more outcome; classes: kl_uniform",
    "fid": "Fréchet distance in FID's own Inception features, as many real samples as made ones",
    "is": "inception score",
    "fid/classifier": "Fréchet distance in features of the task's own classifier: no FID",
}

TASK = Task(
    name="ebgan",
    question="Does the entropy term make the generator of an energy-based GAN cover all modes?",
    params=EbganParams,
    metric="kl",
    goal=Goal.MIN,
    reports={
        **_SAMPLED,
        "kl": _SAMPLED["kl"] + "; laws on a curve: density/kl",
        **{f"generator/{name}": f"{meaning}; of the generator alone" for name, meaning in _SAMPLED.items()},
        "density/kl": "KL of the true density to e^{−U/T}/Z on a grid, nats",
        "classifier/accuracy": "accuracy of the task's classifier on test pictures",
        "auprc": "area under precision and recall of the anomaly score (average precision)",
        "precision": "share of anomalies among what scores above the percentile `threshold`",
        "recall": "share of the anomalies that score above it",
        "f1": "harmonic mean of the two",
        "loss/energy": "loss of the last energy step",
        "loss/generator": "loss of the last generator step",
        "energy/gap": "mean energy of data less that of samples, in the last energy step",
        "energy/penalty": "E‖∇ₓU‖² on data, without λ",
        "gradient/energy": "norm of the gradient in the last energy step",
        "gradient/generator": "norm of the gradient in the last generator step",
        "entropy/information": "estimate of I(G(z), z), up to a constant: −2 ln 2 (js) is none",
        "mcmc/acceptance": "share of proposals the chains accepted after adaptation; 1 without a correction",
        "mcmc/step": "ε of the chains' last step",
    },
    space={
        "entropy": Choice("js", "none"),
        "penalty": LogUniform(1e-4, 1),
        "entropy_weight": LogUniform(0.1, 10),
        "lr": LogUniform(1e-4, 3e-3),
    },
    resources=Resources(cpus=1),
    run=run,
    check=check,
    conclude=conclude,
    figures=figures,
)
