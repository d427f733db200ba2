"""Attribution: which pixels of a photo made the model say so?

Source: Su Jianlin, kexue.fm/archives/7533; Sundararajan, Taly and Yan 2017, arXiv 1703.01365.
Idea: the gradient, integrated along the straight path from a baseline to the photo, adds up to the score's change
exactly. Nodes go where the path is rough until every photo's map adds up; then the map is tested against what the model
does when its squares are shown or hidden.

>>> TASK.params(baseline="zero").tolerance
0.01
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tasks.api import Choice, Context, Field, Goal, InputError, Params, Resources, Row, Task, Uniform, Verdict
from tasks.dogs.folders import find_photos
from tasks.dogs.packaged import PACKAGED


class AttributionParams(Params):
    method: Literal["integrated", "expected"] = "integrated"
    """``integrated``: until each photo's map adds up. ``expected``: over photos as baselines; its gap is stated."""
    baseline: Literal["zero", "mean", "blurred", "several"] = "blurred"
    """Black, the mean training photo, the photo out of focus, or the mean over these three. Of ``integrated``."""
    rule: Literal["adaptive", "gausslegendre", "midpoint", "trapezoid", "right"] = "adaptive"
    """``adaptive``: Simpson's rule where the path is rough. The others double their nodes from 8 on."""
    tolerance: float = Field(0.01, gt=0, le=1)
    """Completeness gap to reach on every photo, a share of the score's change."""
    max_nodes: int = Field(1024, ge=16, le=100_000)
    """Gradients that one path may take."""
    score: Literal["logit", "log_probability", "probability"] = "logit"
    """What is explained of the class that the model predicts."""
    noise: float = Field(0.0, ge=0, le=1)
    """Standard deviation of the noise on a photo whose range is 1; the maps of noisy copies are averaged."""
    copies: int = Field(4, ge=1, le=1000)
    """Noisy copies, where there is noise."""
    samples: int = Field(64, ge=2, le=100_000)
    """Gradients a photo, of ``expected``."""
    photos: int = Field(4, ge=1, le=100_000)
    """Validation photos to explain, spread over the classes."""
    references: int = Field(16, ge=1, le=10_000)
    """Training photos that the mean is of, and that ``expected`` draws from."""
    randomised: int = Field(1, ge=0, le=1000)
    """Photos whose maps are drawn again while the weights are randomised part by part; 0 leaves that out."""
    patch: int = Field(8, ge=1, le=256)
    """Side of the squares that insertion and deletion rank, px."""
    resolution: int = Field(96, ge=32, le=1024)
    """Side of the photos, px. A chained study takes that of its classifier."""
    backbone: str = "tf_efficientnet_lite0"
    """The ImageNet classifier that is explained where no earlier study gives one: any timm model by name."""
    weights: str = "packaged"
    """Its weights: ``packaged``, ``pretrained`` (timm's hub), ``none``, or a file."""
    max_rows: int = Field(8, ge=1, le=4096)
    """Rows that go through the model at once: what bounds the memory. A GPU wants 256."""
    shard: int = Field(4, ge=1, le=10_000)
    """Photos that one worker explains at a time."""


def run(params: AttributionParams, context: Context) -> Mapping[str, float]:
    """Explain the photos all over the cluster; returns gaps, costs and what the tests of the maps say."""
    from tasks.attribution.trial import run  # torch and timm take seconds to import, listing tasks need not

    return run(params, context)


def check(params: AttributionParams, data: Path | None) -> None:
    """Report wrong data, an unknown backbone and missing weights before anything starts."""
    if data is not None:
        find_photos(data)
    if params.weights not in ("packaged", "pretrained", "none") and not Path(params.weights).expanduser().is_file():
        raise InputError(
            f"params.weights={params.weights}: there is no such file (or give packaged, pretrained or none)"
        )
    if params.backbone not in PACKAGED:
        from tasks.dogs.backbone import check_backbone

        check_backbone(params.backbone, params.weights)


def conclude(rows: Sequence[Row]) -> Verdict:
    """Do maps of integrated gradients add up, and explain better than plain gradients and than random ones?"""
    from tasks.attribution.verdict import conclude

    return conclude(rows)


def _interval(name: str, said: str) -> dict[str, str]:
    return {name: said, f"{name}_low": "lower end of its 95 % interval, photos drawn anew", f"{name}_high": "upper end"}


TASK = Task(
    name="attribution",
    question="Which pixels made the model say so, and does integrated gradients tell better than the plain gradient?",
    params=AttributionParams,
    # A gap can be bought with nodes, and the adaptive rule reaches it: what is left to search for is a map that shows
    # what the model goes by.
    metric="faithfulness",
    goal=Goal.MAX,
    reports={
        **_interval("faithfulness", "insertion less deletion area, mean over photos"),
        "insertion": "area under the class's probability while the map's best squares are put into a blurred photo",
        "deletion": "the same while they are painted grey: less is better",
        **_interval("advantage/gradient", "faithfulness less that of the plain gradient, in pairs"),
        **_interval("advantage/random", "faithfulness less that of a random order, in pairs"),
        "gap/worst": "largest completeness gap of a photo, a share of the score's change",
        "gap/median": "median of it",
        "gap/reached": "share of photos within the tolerance",
        "gap/tiny": "photos whose score changes so little that an absolute tolerance of 10⁻⁴ decided",
        "nodes/mean": "gradients that a photo took, mean",
        "nodes/most": "gradients that the dearest photo took",
        "randomised/head": "rank correlation of maps with those of a model whose top is random, mean",
        "randomised/all": "the same where all of it is random",
        "photos": "photos explained",
        "data/unreadable": "photos left out because they could not be read; the trial's log names them",
    },
    space={"baseline": Choice("zero", "mean", "blurred", "several"), "noise": Uniform(0, 0.2)},
    resources=Resources(cpus=1),
    run=run,
    check=check,
    conclude=conclude,
    maps=True,
    reads_inputs=True,
)
