"""The losses that are compared. All are sums over labels, averaged over rows, of the same scores.

Focal loss is torchvision's (Lin et al. 2017, arXiv 1708.02002), ASL is timm's (Ridnik et al. 2021, arXiv 2009.14119).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tasks.multilabel.zlpr import zlpr_loss, zlpr_loss_sparse

if TYPE_CHECKING:
    from tasks.multilabel import MultilabelParams

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(params: MultilabelParams) -> Loss:
    """``(scores (n, labels), holds (n, labels) bool) → scalar``."""
    if params.loss in ("bce", "bce_tuned"):
        return lambda scores, holds: _mean(binary_cross_entropy_with_logits(scores, holds.float(), reduction="none"))
    if params.loss == "focal":
        from torchvision.ops import sigmoid_focal_loss

        alpha, gamma = params.focal_alpha, params.focal_gamma
        return lambda scores, holds: _mean(sigmoid_focal_loss(scores, holds.float(), alpha, gamma))
    if params.loss == "asl":
        from timm.loss import AsymmetricLossMultiLabel

        asl = AsymmetricLossMultiLabel(params.asl_gamma_negative, params.asl_gamma_positive, params.asl_clip)
        return lambda scores, holds: asl(scores, holds.float())
    if params.loss == "zlpr_sparse":
        return lambda scores, holds: zlpr_loss_sparse(scores, indices(holds))
    if params.loss == "zlpr_soft":
        smoothing = params.smoothing
        return lambda scores, holds: zlpr_loss(scores, holds.float() * (1 - smoothing) + smoothing / 2)
    return zlpr_loss


def indices(holds: Tensor) -> Tensor:
    """The labels that hold (n, as many as one row has at most), then −1."""
    most = int(holds.sum(-1).max()) if holds.numel() else 0
    order = torch.sort(holds, dim=-1, descending=True, stable=True)
    return torch.where(order.values, order.indices, -1)[..., :most]


def _mean(each: Tensor) -> Tensor:
    return each.sum(-1).mean()
