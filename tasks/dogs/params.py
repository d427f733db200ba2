"""The parameters of a dogs trial, and the recipe's ingredients that can be left out of it one at a time."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from tasks.api import Field, Params

# What a trial without an ingredient has in its place.
_WITHOUT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "glu": {"head": "dense"},
    "auxiliary": {"aux_weight": 0.0},
    "centre": {"centre_weight": 0.0},
    "sampler": {"sampler": "shuffled"},
    "flip": {"flip": False},
    "rotation": {"rotation": 0.0},
    "zoom": {"zoom": 0.0},
    "mask": {"mask": 0.0},
    "splice": {"splice": 0.0},
    "colour": {"colour": 0.0},
    "frozen": {"frozen_epochs": 0},
    "clean": {"clean_epochs": 0},
    "layer_decay": {"layer_decay": 1.0},
    "mixup": {"mixup": 0.0, "cutmix": 0.0},
    "ema": {"ema": 0.0},
    "pseudo": {"pseudo_rounds": 0},
}


class DogParams(Params):
    # ---------------------------------------------------------------------------------------------- what is trained
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model by name; the contest's Xception is ``legacy_xception``, at 299 px."""
    weights: str = "packaged"
    """``packaged`` (ImageNet weights installed with this project), ``pretrained`` (timm's hub), ``none``, or a file."""
    regime: Literal["frozen", "finetune"] = "frozen"
    """``frozen``: features are computed once and only the head is trained. ``finetune``: the backbone's end too."""
    resolution: int = Field(128, ge=32, le=1024)
    """Side of the square that the backbone sees, px."""
    crop: float = Field(0.875, gt=0.3, le=1)
    """Finetune regime: share of a photo's side that the square shows, in the middle, when validating; 1 is all."""
    views: int = Field(1, ge=1, le=2)
    """1: a photo is predicted as it is. 2: also mirrored, and the log-probabilities averaged; in the frozen regime the
    head is trained on both."""
    head: Literal["linear", "glu", "dense"] = "linear"
    """``glu`` puts a gated layer between features and scores, ``dense`` the same without its gate."""
    hidden: int = Field(256, ge=8, le=8192)
    """Width of the glu and dense heads; 64 in the contest."""
    aux_weight: float = Field(0.0, ge=0, le=10)
    """Weight of the loss of a second, linear head on the features themselves, whose predictions are blended in;
    0.25 in the contest, 0 is no such head. Only beside a glu or dense head."""
    centre_weight: float = Field(0.0, ge=0, le=10)
    """Weight of the centre loss: squared distance of the glu or dense layer's output to its class's centre; 0.25 in
    the contest."""
    without: Literal[
        "nothing", "glu", "auxiliary", "centre", "sampler", "flip", "rotation", "zoom", "mask", "splice", "colour",
        "frozen", "clean", "layer_decay", "mixup", "ema", "pseudo",
    ] = "nothing"  # fmt: skip
    """One ingredient to leave out of what the other parameters ask for; searched over, this is an ablation. Without
    the pair ``sampler`` there are hardly any splices either."""
    # ----------------------------------------------------------------------------------------------------- optimiser
    epochs: int = Field(12, ge=1, le=1000)
    """Passes over the training photos."""
    batch_size: int = Field(128, ge=2, le=8192)
    """Photos a step, of all processes together."""
    accumulate: int = Field(1, ge=1, le=1024)
    """Parts that a process computes its share of a batch in, one after the other: less memory, the same gradient."""
    lr: float = Field(3e-3, gt=0, le=10)
    """Peak learning rate of the head (AdamW, one cycle)."""
    weight_decay: float = Field(0.3, ge=0, le=100)
    """AdamW's decoupled weight decay; centres do not decay."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on the features."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay a step of an average of the weights, which then is what is validated and kept; 0 is off."""
    diversity: float = Field(0.0, ge=0, le=1)
    """Strength of a term that pushes the head's predictions away from the mean of the trials in the study's inputs;
    these must have left ``train_logits``."""
    train_logits: bool = False
    """Also leave scores of the training photos, for the ``diversity`` of later studies."""
    # -------------------------------------------------------------------------------------- stages of the fine-tuning
    backbone_lr: float = Field(3e-4, gt=0, le=1)
    """Finetune regime: peak learning rate of the last of the backbone's layers."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Finetune regime: each layer learns at this multiple of the rate of the layer after it; 1 is one rate for all."""
    probe_epochs: int = Field(0, ge=0, le=1000)
    """Finetune regime: epochs that the head is first trained on frozen features as in the other regime, so that it has
    converged when the backbone is let go (LP-FT, arXiv 2202.10054). Cheap: the features are computed once."""
    probe_lr: float = Field(1e-3, gt=0, le=10)
    """Finetune regime: the head's peak learning rate in them."""
    frozen_epochs: int = Field(1, ge=0, le=1000)
    """Finetune regime: epochs in which the head alone is trained."""
    unfrozen_stages: int = Field(2, ge=1, le=100)
    """Finetune regime: how many of the backbone's last stages are trained after that."""
    tuned_share: float = Field(1.0, gt=0, le=1)
    """Finetune regime: the backbone that is validated and kept lies this share of the way from its first weights to the
    trained ones, and so does a head that began from ``probe_epochs`` (WiSE-FT, arXiv 2109.01903); 1 is the trained
    ones. In between, less of ImageNet is forgotten."""
    clean_epochs: int = Field(0, ge=0, le=1000)
    """Last epochs, in which photos are only flipped and none are mixed."""
    # --------------------------------------------------------------------------------------------------------- photos
    sampler: Literal["shuffled", "pairs"] = "shuffled"
    """``pairs``: a batch has batch_size / 2 distinct classes, drawn as often as they have photos, 2 photos of each."""
    flip: bool = True
    """Finetune regime: mirror every second photo."""
    rotation: float = Field(10.0, ge=0, le=180)
    """Finetune regime: turn by up to this many degrees."""
    zoom: float = Field(0.2, ge=0, lt=1)
    """Finetune regime: scale by 1 ± this. Where a photo then leaves room, another one shows."""
    shift: float = Field(0.0, ge=0, le=0.5)
    """Finetune regime: move by up to this share of the side, both ways."""
    colour: float = Field(0.2, ge=0, lt=1)
    """Finetune regime: brightness, contrast and saturation times 1 ± this."""
    mask: float = Field(0.5, ge=0, le=1)
    """Finetune regime: probability that a random quarter of the photo is covered."""
    splice: float = Field(0.25, ge=0, le=1)
    """Finetune regime: probability that half the photo (beside, below, or across a diagonal) is taken from the next of
    the batch, if that is of the same class: so with the pair sampler."""
    mixup: float = Field(0.0, ge=0, le=10)
    """α of timm's mixup, over batches; 0 is off. With the pair sampler it always mixes two classes."""
    cutmix: float = Field(0.0, ge=0, le=10)
    """Finetune regime: α of timm's cutmix; 0 is off."""
    # --------------------------------------------------------------------------------------------------------- labels
    pseudo_rounds: int = Field(0, ge=0, le=20)
    """Times that unlabelled photos are labelled by the model so far and join the training, spread over the epochs."""
    pseudo_threshold: float = Field(0.9, gt=0, le=1)
    """Least probability with which a photo is labelled so."""
    pseudo_source: Literal["unlabelled", "train", "validation"] = "unlabelled"
    """Where unlabelled photos are: in the folder unlabelled/ of the data; among the training photos, a share of which
    is then taken for unlabelled; or the validation photos themselves, which makes the result transductive."""
    pseudo_fraction: float = Field(0.5, gt=0, lt=1)
    """Source ``train``: the share of each class's training photos whose labels are hidden."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Share held out of each class when the data has no val/ folder."""
    split_seed: int = Field(0, ge=0)
    """Which photos are held out, and in which half of them a validation photo is; the same for all trials."""
    # -------------------------------------------------------------------------------------------------------- machine
    amp: Literal["auto", "bf16", "off"] = "auto"
    """Mixed precision: bfloat16 on a GPU that has it, off on a CPU, or as said."""
    compile: bool = False
    """Compile the model with torch.compile: minutes first, faster steps then."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        own = self.effective()
        if own.regime == "finetune" and own.clean_epochs and own.frozen_epochs + own.clean_epochs > own.epochs:
            raise ValueError(
                f"frozen_epochs {own.frozen_epochs} and clean_epochs {own.clean_epochs} are more than "
                f"the {own.epochs} epochs"
            )
        if own.batch_size % 2 and (own.sampler == "pairs" or own.mixup or own.cutmix):
            raise ValueError(f"batch_size must be even for pairs, mixup and cutmix, got {own.batch_size}")
        if own.probe_epochs and own.weights == "none":
            raise ValueError(
                "probe_epochs needs a backbone that has learnt something, and whose features all trials share; "
                "weights: none differ from trial to trial"
            )
        if own.diversity and (own.mixup or own.cutmix or own.pseudo_rounds):
            raise ValueError(
                "diversity needs what others say of each photo, and they have not seen mixed ones (mixup, cutmix) or "
                "those that get a label later (pseudo_rounds): leave one of them at 0"
            )
        return self

    def effective(self) -> Self:
        """These parameters with the ingredient that ``without`` names left out.

        >>> DogParams(head="glu", without="glu").effective().head
        'dense'
        """
        return self.model_copy(update=_WITHOUT[self.without])
