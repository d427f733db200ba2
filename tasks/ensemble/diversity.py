"""Training members to differ: a penalty on erring together.

Source: Liu & Yao, Ensemble learning via negative correlation (Neural Networks 12, 1999). Idea: members that are pushed
away from the mean prediction of the others gain as an ensemble what they lose alone. With f̄ the mean of all, the
penalty of one is −(fᵢ − f̄)² summed over classes; with λ = 1 the members' losses plus penalties are, for squared error,
the loss of the ensemble itself.

>>> same = torch.tensor([[2.0, 0.0]])
>>> float(negative_correlation(same, same.softmax(1), members=2))
-0.0
"""

from __future__ import annotations

import torch
from torch import Tensor


def negative_correlation(logits: Tensor, others: Tensor, members: int) -> Tensor:
    """To be added, times a strength in [0, 1], to a member's loss: a scalar, at most 0.

    ``logits`` (photos, classes) of the member; ``others`` (photos, classes): the mean probabilities of the other
    ``members`` − 1, through which nothing is learnt.
    """
    if members < 2:
        raise ValueError(f"a member differs from others only where there are some, got members={members}")
    p = logits.softmax(dim=1)
    # f̄ = (p + (K−1)·others)/K, so that p − f̄ = (K−1)/K · (p − others).
    distance = (members - 1) / members * (p - others.detach())
    return -torch.sum(distance**2, dim=1).mean()
