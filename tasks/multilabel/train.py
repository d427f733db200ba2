"""A trial: one loss trains the problem's model, and what the scores are worth is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit

from tasks.api import Context
from tasks.multilabel import metrics
from tasks.multilabel.losses import make_loss
from tasks.multilabel.problem import Part, Problem, make_problem

if TYPE_CHECKING:
    from tasks.multilabel import MultilabelParams


def train(params: MultilabelParams, context: Context) -> Mapping[str, float]:
    """Train with AdamW and a one-cycle schedule, validating and checkpointing each epoch; test once, at the end."""
    torch.manual_seed(context.seed)
    problem = make_problem(params, context)
    trainer = _Trainer(params, problem, context)
    for epoch in range(trainer.epoch + 1, params.epochs + 1):
        loss = trainer.train_epoch(epoch)
        val = _validated(params, problem, trainer.scores(problem.val))
        context.report(epoch, **val, **{"train/loss": loss})
        context.save(epoch, trainer.state())
    val_scores, scores = trainer.scores(problem.val), trainer.scores(problem.test)
    if not (np.isfinite(val_scores).all() and np.isfinite(scores).all()):
        return {"val/f1_micro": math.nan}
    val = _validated(params, problem, val_scores)
    threshold = _threshold(params, val)
    _leave_behind(context, problem, scores)
    return {**val, **measured(problem, scores, threshold, val["val/threshold"])}


def measured(problem: Problem, scores: np.ndarray, threshold: float, tuned: float) -> dict[str, float]:
    """All that is reported of the test rows' scores; ``tuned`` is the threshold found on other rows."""
    holds = problem.test.targets.numpy()
    decided = scores > threshold
    found = {
        "f1_micro": metrics.f1_micro(decided, holds),
        "f1_micro_tuned": metrics.f1_micro(scores > tuned, holds),
        "f1_macro": metrics.f1_macro(decided, holds),
        "map": metrics.mean_average_precision(scores, holds),
        "hamming": float((decided != holds).mean()),
        "ranking_loss": metrics.ranking_loss(scores, holds),
        "coverage": metrics.coverage(scores, holds),
        "ece/sigmoid": metrics.calibration_error(expit(scores), holds),
        "ece/sigmoid_of_double": metrics.calibration_error(expit(2 * scores), holds),
        "labels": float(holds.shape[1]),
        "labels/positive": float(holds.sum(axis=1).mean()),
    }
    if (p := problem.probabilities) is None:
        return found
    bayes = {
        "f1_micro": metrics.f1_micro(p > problem.threshold, holds),
        "hamming": float(((p > 0.5) != holds).mean()),
        "map": metrics.mean_average_precision(p, holds),
    }
    gaps = {f"gap/{name}": (found[name] - best) * (1 if name == "hamming" else -1) for name, best in bayes.items()}
    return {**found, **{f"bayes/{name}": best for name, best in bayes.items()}, **gaps}


def _validated(params: MultilabelParams, problem: Problem, scores: np.ndarray) -> dict[str, float]:
    if not np.isfinite(scores).all():
        return {"val/f1_micro": math.nan, "val/threshold": math.nan}
    holds = problem.val.targets.numpy()
    tuned, _ = metrics.best_threshold(scores, holds)
    val = {"val/threshold": tuned}
    return {**val, "val/f1_micro": metrics.f1_micro(scores > _threshold(params, val), holds)}


def _threshold(params: MultilabelParams, val: Mapping[str, float]) -> float:
    return val["val/threshold"] if params.loss == "bce_tuned" else 0.0


def _leave_behind(context: Context, problem: Problem, scores: np.ndarray) -> None:
    from tasks.multilabel.figures import reliability_figure

    holds = problem.test.targets.numpy()
    read = {"σ(s)": expit(scores), "σ(2s)": expit(2 * scores)}
    context.figure("reliability", reliability_figure({name: metrics.calibration(p, holds) for name, p in read.items()}))


class _Trainer:
    """Model, optimiser, schedule and order of rows; everything that a checkpoint must hold."""

    def __init__(self, params: MultilabelParams, problem: Problem, context: Context) -> None:
        self._device = context.device
        self._part, self._model = problem.train, problem.model.to(self._device)
        self._loss, self._batch = make_loss(params), params.batch_size
        self._optimizer = torch.optim.AdamW(self._model.parameters(), params.lr, weight_decay=params.weight_decay)
        steps = params.epochs * math.ceil(len(self._part) / params.batch_size)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, params.lr, total_steps=steps + 1, pct_start=0.1
        )
        self._order = torch.Generator().manual_seed(context.seed)
        self.epoch = 0
        if (kept := context.restore()) is not None:
            self._load(*kept)

    def train_epoch(self, epoch: int) -> float:
        """One pass; the mean loss."""
        self._model.train()
        total, rows = 0.0, torch.randperm(len(self._part), generator=self._order)
        for some in rows.split(self._batch):
            scores = self._model(self._part.inputs[some].to(self._device))
            loss = self._loss(scores, self._part.targets[some].to(self._device))
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            total += loss.item() * len(some)
        self.epoch = epoch
        return total / len(self._part)

    @torch.inference_mode()
    def scores(self, part: Part) -> np.ndarray:
        """(rows, labels), float64."""
        self._model.eval()
        found = [self._model(some.to(self._device)).cpu() for some in part.inputs.split(1024)]
        return torch.cat(found).double().numpy()

    def state(self) -> dict[str, Any]:
        plain = {k: v for k, v in self._schedule.state_dict().items() if isinstance(v, bool | int | float | list)}
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": plain,
            "order": self._order.get_state(),
            "rng": torch.get_rng_state(),
        }

    def _load(self, epoch: int, state: Mapping[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._order.set_state(state["order"])
        torch.set_rng_state(state["rng"])
        self.epoch = epoch
