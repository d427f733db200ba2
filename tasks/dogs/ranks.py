"""The processes of one trial: each computes its share of a batch, and they add up their gradients.

Gradients of the loss summed over photos are added in one ``all_reduce``, not by DistributedDataParallel's hooks: stages
change which parameters have gradients, and the last batch of an epoch may leave a process without photos. The sum of
shares is the gradient of the whole batch, whatever the shares are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from tasks.api import Context


class Ranks:
    """This process among those of its trial. With one process everything here does nothing."""

    def __init__(self, context: Context) -> None:
        self.rank, self.count, self._device = context.rank, context.processes, context.device

    @property
    def first(self) -> bool:
        """Whether this process reports, saves and validates."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the processes, which find each other by what the environment says."""
        if self.count > 1:
            distributed.init_process_group("nccl" if self._device == "cuda" else "gloo", init_method="env://")
        try:
            yield
        finally:
            if self.count > 1:
                distributed.destroy_process_group()

    def add_up(self, parameters: Iterable[torch.nn.Parameter], loss: Tensor) -> Tensor:
        """Make each gradient the sum over processes. Returns the sum of their losses."""
        if self.count == 1:
            return loss
        trained = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([loss.detach().float().view(1), *(g.float().flatten() for g in gradients)])
        distributed.all_reduce(flat)
        parts = flat[1:].split([g.numel() for g in gradients])
        for parameter, gradient, part in zip(trained, gradients, parts, strict=True):
            parameter.grad = part.view_as(gradient).to(gradient.dtype)
        return flat[0]

    def agreed(self, value: Any) -> Any:
        """What the first process has, in all of them."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, device=torch.device(self._device))
        return held[0]
