"""A trial: one arm trained by SGD, with probes along the way."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasks.api import Context, InputError
from tasks.batchnorm import BANDS, STAGES, check
from tasks.batchnorm.data import Data, batches, load
from tasks.batchnorm.exact import smoothness
from tasks.batchnorm.figures import trial_figure
from tasks.batchnorm.networks import make_network, weights_of
from tasks.batchnorm.stability import largest_stable, trains
from tasks.batchnorm.surface import CAP, Surface, covariate_shift, layer_spread, look_along, top_eigenvalue

if TYPE_CHECKING:
    from tasks.batchnorm import BatchNormParams

SHIFT_LAYERS = 3
"""On how many layers, evenly spread and the last among them, the covariate shift is measured."""
_SEEN = (
    "landscape/loss_range", "landscape/gradient_change", "landscape/beta", "gradient/spread", "hessian/top",
    "shift/distance", "shift/cosine",
)  # fmt: skip


def train(params: BatchNormParams, context: Context) -> Mapping[str, float]:
    """Train to the end or until it diverges; reports, and keeps a checkpoint, at each probe."""
    check(params, context.data)
    data = load(params.dataset, context.data, context.cache)
    if len(data.train) < params.batch_size:
        raise InputError(
            f"params.batch_size={params.batch_size}: there are but {len(data.train)} training samples, "
            f"{len(data.val)} more being held out"
        )
    trainer = _Trainer(params, context, data)
    probed = probe_steps(params.steps, params.probes)
    for step in range(trainer.step + 1, params.steps + 1):
        if trainer.diverged:
            break
        found = trainer.advance(step, probe=step in probed)
        if step in probed or trainer.diverged:
            context.report(step, **trainer.report(found))
            context.save(step, trainer.state())
    _write(context, trainer.history, params.norm, params.lr)
    return trainer.results()


def probe_steps(steps: int, probes: int) -> list[int]:
    """The steps that are probed, from the first to the last, evenly spread and rounded."""
    return sorted({int(step) for step in np.linspace(1, steps, probes).round()})


class _Trainer:
    """Weights, the generator, and what was seen so far: everything that a checkpoint must hold.

    Plain SGD keeps nothing from step to step, and the batches are a function of seed and step.
    """

    def __init__(self, params: BatchNormParams, context: Context, data: Data) -> None:
        self._params, self._seed, self._data, self._began = params, context.seed, data, time.process_time()
        torch.manual_seed(context.seed)
        shape = data.train.x.shape[1:]
        self._network = make_network(
            params.network, params.norm, params.placement, shape, data.outputs, params.width, params.layers
        ).to(context.device)
        self._train, self._val, self._test = (part.to(context.device) for part in (data.train, data.val, data.test))
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=params.lr)
        self._layers = weights_of(self._network)
        probed = probe_steps(params.steps, params.probes)
        middles = (np.arange(params.deep_probes) + 0.5) / max(1, params.deep_probes)  # of as many equal parts
        self._deep = {probed[int(place * len(probed))] for place in middles}
        self.step, self.diverged = 0, False
        self.history: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._spent = {"all": 0.0, "probes": 0.0}
        if (kept := context.restore()) is not None:
            self._load(*kept)
        else:
            self._once = self._measure_once()

    def advance(self, step: int, probe: bool) -> dict[str, float]:
        """One step of SGD. Returns what a probe saw at the weights before it, on its batch; nothing without one."""
        ((x, y),) = batches(self._train, self._params.batch_size, self._seed, range(step, step + 1))
        found = self._probe(x, y, step) if probe else {}
        self._network.train()
        loss = self._data.loss(self._network(x), y)
        value = loss.item()
        self.step, self.diverged = step, not value <= CAP  # NaN is no smaller
        if not self.diverged:
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._losses.append(value)
        return found

    def report(self, found: Mapping[str, float]) -> dict[str, float]:
        """What is reported at this step, and remembered if it was probed."""
        if found:
            self.history.append({"step": self.step, **found})
        shown = {name: value for name, value in found.items() if name in _SEEN}
        if self._losses:
            shown["train/loss"] = float(np.mean(self._losses))
            self._losses = []
        self._spent["all"] += time.process_time() - self._began
        self._began = time.process_time()
        shown |= {"val/score": self._score(self._val), "probe/share": self._spent["probes"] / self._spent["all"]}
        return {**shown, "diverged": float(self.diverged), "diverged/step": float(self.step * self.diverged)}

    def results(self) -> dict[str, float]:
        """The final metrics; all of them finite."""
        metrics = {
            "val/score": self._score(self._val), "test/score": self._score(self._test),
            "diverged": float(self.diverged), "diverged/step": float(self.step * self.diverged),
            "data/unreadable": float(self._data.unreadable), **self._once,
        }  # fmt: skip
        for name in _SEEN:
            if values := [row[name] for row in self.history if name in row]:
                metrics[name] = float(np.mean(values))
        for stage, rows in enumerate(np.array_split(np.arange(len(self.history)), STAGES), 1):
            for name in BANDS if len(rows) else ():
                metrics[f"bands/{name}/{stage}"] = float(np.mean([self.history[row][name] for row in rows]))
        return metrics

    def state(self) -> dict[str, Any]:
        return {
            "network": self._network.state_dict(), "rng": torch.get_rng_state(), "history": self.history,
            "once": self._once, "spent": dict(self._spent), "diverged": self.diverged,
            **({"cuda": torch.cuda.get_rng_state()} if self._train.x.is_cuda else {}),
        }  # fmt: skip

    def _load(self, step: int, state: Mapping[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        torch.set_rng_state(state["rng"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])
        self.step, self.history, self.diverged = step, list(state["history"]), state["diverged"]
        self._once, self._spent = dict(state["once"]), dict(state["spent"])

    def _probe(self, x: Tensor, y: Tensor, step: int) -> dict[str, float]:
        began = time.process_time()
        surface = Surface(self._network, self._data.loss, x, y)
        loss, gradient = surface.gradient(surface.here)
        if not (loss <= CAP and bool(gradient.isfinite().all())):
            return {}  # the step itself will say so
        seen = look_along(surface, gradient, self._params.lr)
        found = {
            "landscape/loss_range": seen.loss_range, "landscape/gradient_change": seen.gradient_change,
            "landscape/beta": seen.beta, "gradient/spread": layer_spread(surface, gradient, self._layers),
            "loss_here": loss, "loss_low": min(seen.losses), "loss_high": max(seen.losses),
            "change_low": min(seen.changes), "change_high": max(seen.changes), "beta": seen.beta,
        }  # fmt: skip
        if step in self._deep:
            top = top_eigenvalue(surface)
            if math.isfinite(top):
                found["hessian/top"] = top
            chosen = np.linspace(0, len(self._layers) - 1, min(len(self._layers), SHIFT_LAYERS + 1)).round()[1:]
            layers = [self._layers[int(i)] for i in chosen]
            found["shift/distance"], found["shift/cosine"] = covariate_shift(surface, gradient, self._params.lr, layers)
        self._spent["probes"] += time.process_time() - began
        return found

    def _measure_once(self) -> dict[str, float]:
        """What does not change along training: the inputs' smoothness, and the largest stable learning rate."""
        inputs = self._data.train.x[:2000]
        if inputs.dim() == 4:
            inputs = inputs - inputs.amin((0, 2, 3), keepdim=True)  # black is 0 again
        once = {
            "input/lambda": smoothness(inputs), "input/lambda_centred": smoothness(inputs, centred=True),
            "input/lambda_scaled": smoothness(inputs, scaled=True),
            "input/lambda_standardised": smoothness(inputs, centred=True, scaled=True),
        }  # fmt: skip
        began, steps = time.process_time(), self._params.stability_steps
        if steps:
            first = list(batches(self._train, self._params.batch_size, self._seed, range(1, steps + 1)))
            once["stable/lr"] = largest_stable(lambda lr: trains(self._network, self._data.loss, first, lr))
        self._spent["probes"] += time.process_time() - began
        return once

    @torch.no_grad()
    def _score(self, part: Any) -> float:
        if self.diverged:
            return 0.0
        self._network.eval()
        outputs = torch.cat([self._network(x) for x in part.x.split(500)])
        return self._data.score(outputs, part.y)


def _write(context: Context, history: Sequence[Mapping[str, float]], arm: str, lr: float) -> None:
    """``bands.csv``, a line a probe, and the bands drawn."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with context.artifact("bands.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)
    if history:
        context.figure("bands", trial_figure(history, arm, lr))
