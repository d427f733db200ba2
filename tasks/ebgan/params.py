"""The parameters of an energy-based GAN's trial."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from tasks.api import Field, Params, UserPath

TOYS = ("gaussians", "swissroll", "moons")
BUILT_IN = (*TOYS, "digits")
ANOMALY = ("mnist-anomaly", "kdd99")


class EbganParams(Params):
    # ---------------------------------------------------------------------------------------------------- the problem
    problem: Literal[
        "gaussians", "swissroll", "moons", "digits", "mnist", "stacked-mnist", "cifar10", "mnist-anomaly", "kdd99"
    ] = "gaussians"  # fmt: skip
    """``gaussians``, ``swissroll``, ``moons`` and ``digits`` are built in; the others need ``data``."""
    held_out: int = Field(1, ge=0, le=9)
    """mnist-anomaly: the digit that is the anomaly; it is not trained on."""
    samples: int = Field(0, ge=0, le=10_000_000)
    """Train on that many of the samples, the first in a fixed order. 0: all; laws in the plane are endless."""
    # ------------------------------------------------------------------------------------------------------- networks
    width: int = Field(128, ge=2, le=4096)
    """Units of the energy net's layers, for points and table rows; 512 in the paper."""
    generator_width: int = Field(128, ge=2, le=4096)
    """The same of generator, statistics network and encoder."""
    depth: int = Field(2, ge=1, le=10)
    """Hidden layers of the perceptrons."""
    channels: int = Field(16, ge=2, le=512)
    """Pictures: channels of the first convolution, doubled at each further one."""
    latent: int = Field(2, ge=1, le=1024)
    """Numbers in z ~ N(0, I)."""
    input_scale: float = Field(4.0, gt=0, le=100)
    """The plane: what coordinates are multiplied by before the energy net's first layer."""
    confinement: float = Field(1.0, ge=0, le=100)
    """Points and table rows: κ of the term ½κ‖x‖² that is part of the energy, so that e^{−U} can be normalised."""
    spectral_norm: bool = False
    """Divide each layer of U and T by its largest singular value (power iteration)."""
    # ------------------------------------------------------------------------------------------------------- training
    steps: int = Field(300, ge=1, le=10_000_000)
    """Generator steps."""
    energy_steps: int = Field(2, ge=1, le=100)
    """Energy steps a generator step; 5 in the paper, 1 for kdd99."""
    batch_size: int = Field(128, ge=2, le=65536)
    """Samples a step."""
    lr: float = Field(1e-3, gt=0, le=1)
    """Adam's learning rate of the energy net; 1e-4 in the paper."""
    generator_lr: float = Field(1e-3, gt=0, le=1)
    """The same of the generator and the network behind the entropy."""
    beta1: float = Field(0.5, ge=0, lt=1)
    """Adam's first decay."""
    beta2: float = Field(0.9, ge=0, lt=1)
    """Adam's second decay."""
    decay_from: float = Field(0.5, ge=0, le=1)
    """After this share of the steps both learning rates fall on a line towards 1 % of what they were. 1: never."""
    penalty: float = Field(0.1, ge=0, le=1e6)
    """λ of the penalty λ·E‖∇ₓU‖² on data."""
    penalty_norm: Literal["image", "pixel"] = "image"
    """``pixel`` takes ‖∇ₓU‖² for each pixel, and the mean, as the paper's code does: λ over the number of pixels."""
    entropy: Literal["js", "infogan", "none"] = "js"
    """What estimates the generator's entropy: a statistics network, an encoder, or nothing."""
    entropy_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the entropy in the generator's loss."""
    information_weight: float = Field(1.0, ge=0, le=1e6)
    """λ₂ of the encoder's bound −λ₂‖z − E(G(z))‖²."""
    ema: float = Field(0.99, ge=0, lt=1)
    """Decay a step of the moving average of the generator's weights, which is what is sampled from. 0: none."""
    # ------------------------------------------------------------------------------------------------------- sampling
    chain_space: Literal["data", "latent", "none"] = "data"
    """Where the full sampler runs its chains, from the generator's samples on."""
    chain: Literal["mala", "langevin"] = "mala"
    """With or without correction."""
    chain_steps: int = Field(200, ge=1, le=100_000)
    """Steps of a chain; with mala the first half adapts ε."""
    chain_step: float = Field(1e-4, gt=0, le=100)
    """ε at the start of a chain."""
    chain_prior: bool = True
    """Latent chains: ½‖z‖² is part of the energy."""
    temperature: float = Field(1.0, gt=0, le=1e6)
    """Chains and densities are of e^{−U/T}."""
    # ------------------------------------------------------------------------------------------------------ measuring
    score: Literal["gradient", "energy"] = "gradient"
    """Anomaly score: ‖∇ₓU‖², or U."""
    threshold: float = Field(80.0, gt=0, lt=100)
    """kdd99: percentile of the test scores above which a row is called an anomaly."""
    validation: bool = False
    """kdd99: score a part of the training half, cut by the same protocol, instead of the test half: to choose by."""
    report_every: int = Field(100, ge=1, le=10_000_000)
    """Steps between two reports; each is also a checkpoint."""
    evaluated: int = Field(1000, ge=10, le=1_000_000)
    """Samples that a report is measured on."""
    final: int = Field(3000, ge=10, le=10_000_000)
    """Samples that the final metrics are measured on."""
    sheets: int = Field(4, ge=1, le=1000)
    """Figures of samples in the course of the training, the last at its end."""
    inception: UserPath = ""
    """cifar10: file with the weights of FID's Inception (``pt_inception-2015-12-05-6726825d.pth``); empty: no FID."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.penalty_norm == "pixel" and self.problem in (*TOYS, "kdd99"):
            raise ValueError(f"problem {self.problem} has no pixels: set penalty_norm to image")
        return self
