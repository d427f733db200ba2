"""One epoch of training, and everything that a checkpoint must hold of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import timm.data
import timm.utils
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tasks.api import Context, InputError
from tasks.dogs.apart import Others
from tasks.dogs.blend import Scores
from tasks.dogs.chance import seed_globals
from tasks.dogs.heads import objective
from tasks.dogs.learners import Batch, Learner, Pool
from tasks.dogs.ranks import Ranks
from tasks.dogs.stages import Stage, stage_of

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams

_OWN = ("initial_lr", "max_lr", "min_lr", "weight_decay")


class NotFinite(ArithmeticError):
    """The loss is no number any more; says at which step."""


class Trainer:
    """AdamW on a one-cycle schedule. What is random in an epoch depends on the seed and the epoch alone."""

    def __init__(
        self, params: DogParams, learner: Learner, context: Context, ranks: Ranks, classes: int, count: int,
        others: Others | None = None,
    ) -> None:  # fmt: skip
        """``count`` photos are shown in an epoch; with ``diversity``, ``others`` are those to keep apart from."""
        self._params, self._learner, self._context, self._ranks = params, learner, context, ranks
        self._others = others
        self.epoch, self.loss, self.speed = 0, math.nan, math.nan
        steps = params.epochs * math.ceil(count / params.batch_size)
        groups = learner.groups()
        self._optimizer = torch.optim.AdamW(groups, weight_decay=params.weight_decay)
        peaks = [group["lr"] for group in groups]
        rise = max(0.1, 2 / (steps + 1))  # one step at least: torch divides by their number
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, peaks, total_steps=steps + 1, pct_start=rise
        )
        self._call: Any = torch.compile(learner.model) if params.compile else learner.model
        # An average over many steps would remember the start in short trials: timm's warm-up forgets it.
        self._ema = timm.utils.ModelEmaV3(learner.model, params.ema, use_warmup=True) if params.ema else None
        cutmix = 0.0 if learner.frozen else params.cutmix
        self._mixup = (
            timm.data.Mixup(params.mixup, cutmix, label_smoothing=0.0, num_classes=classes)
            if params.mixup or cutmix
            else None
        )

    @property
    def model(self) -> nn.Module:
        """What is validated and kept: the average of the weights, or part of the way to it, where asked for."""
        return self._learner.kept(self._ema.module if self._ema else self._learner.model)

    def precision(self) -> AbstractContextManager[Any]:
        """bfloat16 where it is asked for, or pays: weights, loss and gradients stay float32."""
        device, amp = self._context.device, self._params.amp
        on = amp == "bf16" or (amp == "auto" and device == "cuda" and torch.cuda.is_bf16_supported())
        return torch.autocast(device, torch.bfloat16, enabled=on)

    def predict(self, rows: Tensor) -> Scores:
        return self._learner.predict(self.model, rows, self.precision())

    def train_epoch(self, epoch: int, pool: Pool) -> None:
        """Raises `NotFinite` at the first loss that is no number."""
        seed_globals(self._context.seed, epoch, self._ranks.rank)
        self._learner.begin_epoch(epoch)
        mixes = self._mixup is not None and stage_of(self._params, epoch) is not Stage.CLEAN
        began, seen, total = time.monotonic(), 0, 0.0
        before: tuple[int, Tensor, int] | None = None
        for batch in self._learner.batches(pool, epoch):
            loss = self._step(batch, mixes)
            # A GPU is asked for a loss when the next step is on its way, so that it never waits.
            if before is not None:
                total += self._checked(epoch, *before)
            before, seen = (self._schedule.last_epoch, loss, batch.size), seen + batch.size
        if before is not None:
            total += self._checked(epoch, *before)
        self.epoch, self.loss, self.speed = epoch, total / seen, seen / (time.monotonic() - began)

    def _step(self, batch: Batch, mixes: bool) -> Tensor:
        """One step of the optimiser. Returns the batch's mean loss, of all processes."""
        x, target = self._mixed(batch.x, batch.y) if mixes else (batch.x, batch.y)
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=x.device)
        part = max(1, math.ceil(len(x) / self._params.accumulate))
        for start in range(0, len(x), part):
            rows = slice(start, start + part)
            with self.precision():
                outputs = self._call(x[rows])
            loss = objective(self._params, self._learner.head, outputs, target[rows])
            if self._others is not None:
                loss = loss + self._params.diversity * self._others.term(outputs.scores, batch.rows[rows])
            loss = loss / batch.size
            loss.backward()
            total += loss.detach()
        total = self._ranks.add_up(self._learner.model.parameters(), total)
        self._optimizer.step()
        self._schedule.step()
        if self._ema:
            self._ema.update(self._learner.model, step=self._schedule.last_epoch)
        return total

    def _mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Photos mixed by timm, and their classes as shares; of an odd number the last stays as it is."""
        assert self._mixup is not None
        even = len(x) // 2 * 2
        target = one_hot(y, self._mixup.num_classes).to(torch.float32)
        if even:
            x[:even], target[:even] = self._mixup(x[:even], y[:even])
        return x, target

    def _checked(self, epoch: int, step: int, loss: Tensor, size: int) -> float:
        value = float(loss)
        if not math.isfinite(value):
            rates = ", ".join(f"{group['lr']:.2g}" for group in self._optimizer.param_groups)
            raise NotFinite(f"the loss is {value} at step {step}, in epoch {epoch}, at learning rates of {rates}")
        return value * size

    def state(self) -> dict[str, Any]:
        return {
            "model": self._learner.model.state_dict(),
            "ema": self._ema.module.state_dict() if self._ema else {},
            "optimizer": self._optimizer.state_dict(),
            "schedule": _plain(self._schedule.state_dict()),
        }

    def load(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Raises `InputError` when it is of another model."""
        try:
            self._learner.model.load_state_dict(state["model"])
            if self._ema:
                self._ema.module.load_state_dict(state["ema"])
            self._load_optimizer(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
            raise InputError(
                f"the checkpoint of epoch {epoch} is of another model ({reason}): backbone, head, its width, losses, "
                "layer_decay and ema are those that the trial began with; start it anew to change them"
            ) from error
        self._schedule.load_state_dict(state["schedule"])
        self.epoch = epoch

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        """The moments are the checkpoint's; rates and decay are this trial's own, which population-based training may
        have changed since the checkpoint was written."""
        own = [{name: group[name] for name in _OWN} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(dict(state))
        for group, values in zip(self._optimizer.param_groups, own, strict=True):
            if group["max_lr"] != values["max_lr"]:
                group["lr"] *= values["max_lr"] / group["max_lr"]
            group.update(values)


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's numbers; its functions are the class's own and come back with it."""
    return {k: v for k, v in state.items() if isinstance(v, bool | int | float | str | list | tuple | type(None))}
