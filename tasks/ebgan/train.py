"""A trial: training with reports along the way, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tasks.api import Context
from tasks.ebgan.analysis import Analysis
from tasks.ebgan.evaluate import Evaluator
from tasks.ebgan.figures import Frame, animate, curves, picture_of
from tasks.ebgan.problem import Problem, load
from tasks.ebgan.sources import check_data
from tasks.ebgan.update import Networks, Sampling, Updater

if TYPE_CHECKING:
    from tasks.ebgan.params import EbganParams

_SHOWN = 500
"""Points in a frame; of pictures, an eighth."""
_GRID = 90
"""Cells of a frame's energy map, along each axis."""


def train(params: EbganParams, context: Context) -> Mapping[str, float]:
    """Train to the end or until it diverges; reports, and keeps a checkpoint, every ``report_every`` steps."""
    check_data(params, context.data)
    problem = load(params, context.data, context.device, context.seed)
    trainer = _Trainer(params, context, problem)
    evaluator = Evaluator(params, problem, context.seed, context.device, context.cache)
    found: dict[str, float] = {}
    for step in range(trainer.step + 1, params.steps + 1):
        trainer.advance(step)
        if step % params.report_every and step < params.steps:
            continue
        if not trainer.is_finite():
            return _diverged(context, step)
        n = params.final if step == params.steps else params.evaluated
        found, samples = evaluator.measure(trainer.networks, step, n)
        if not all(map(math.isfinite, found.values())):
            return _diverged(context, step)
        trainer.remember(step, found, samples)
        context.report(step, **_without_step(trainer.history[-1]))
        context.save(step, trainer.state())
        if trainer.shows(step):
            context.figure(f"samples-{step:08d}", picture_of(trainer.frames[-1], problem))
    return _leave(context, trainer, problem)


def _diverged(context: Context, step: int) -> dict[str, float]:
    """Say so, and hand over a metric that is no number, by which the trial ends as diverged."""
    print(
        f"diverged before step {step}: energies or weights left what numbers can hold; the checkpoint is of the last "
        f"report at which all were finite. A larger penalty, or smaller learning rates, may help.",
        flush=True,
    )
    gone = dict.fromkeys(("kl", "auprc", "f1", "fid", "loss/energy"), math.nan)
    context.report(step, **gone)
    return gone


def _leave(context: Context, trainer: _Trainer, problem: Problem) -> dict[str, float]:
    """Artifacts, and the final metrics."""
    networks, last = trainer.networks, trainer.frames[-1]
    kept = {name: value.cpu().contiguous() for name, value in networks.state_dict().items()}
    safetensors.torch.save_file(kept, context.artifact("networks.safetensors"))
    np.save(context.artifact("samples.npy"), last.samples.numpy())
    context.figure("curves", curves(trainer.history))
    if problem.toy is not None and len(trainer.frames) > 1:
        animate(trainer.frames, problem, context.artifact("training.gif"))
    return _without_step(trainer.history[-1])


def _without_step(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}


class _Trainer:
    """Networks, optimizers, the generator of random numbers and what was seen: all that a checkpoint must hold."""

    def __init__(self, params: EbganParams, context: Context, problem: Problem) -> None:
        self._params, self._problem, self._device = params, problem, context.device
        torch.manual_seed(context.seed)
        self.networks = Networks(params, problem.shape).to(context.device)
        self._updater = Updater(params, self.networks)
        self._random = torch.Generator(context.device).manual_seed(context.seed)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.frames: list[Frame] = []
        self._seen: tuple[Analysis, Sampling] | None = None
        if (kept := context.restore()) is not None:
            self._load(*kept)

    def advance(self, step: int) -> None:
        """Some energy steps, then a generator step."""
        params, n = self._params, self._params.batch_size
        self.networks.train()
        self._updater.anneal(self._share(step))
        with torch.no_grad():  # G does not change between them: one pass makes the samples of all
            fake = self.networks.generator(self._noise(n * params.energy_steps))
        for block in fake.split(n):
            analysis = self._updater.analyse(self._problem.draw(n, self._random), block)
        self._seen = analysis, self._updater.sample(self._noise(n), self._noise(n))
        self.step = step

    def is_finite(self) -> bool:
        assert self._seen is not None
        analysis, sampling = self._seen
        return bool((analysis.loss + sampling.loss).isfinite()) and self.networks.is_finite()

    def remember(self, step: int, found: Mapping[str, float], samples: Tensor) -> None:
        assert self._seen is not None
        analysis, sampling = self._seen
        self.history.append(
            {
                "step": step,
                "loss/energy": float(analysis.loss),
                "loss/generator": float(sampling.loss),
                "energy/gap": float(analysis.real - analysis.fake),
                "energy/penalty": float(analysis.penalty),
                "gradient/energy": _gradient_norm(self.networks.energy),
                "gradient/generator": _gradient_norm(self.networks.generator),
                "entropy/information": float(sampling.information),
                **found,
            }
        )
        self.frames.append(Frame(step, *self._frame(samples)))

    def shows(self, step: int) -> bool:
        """Whether a figure is due: at the end, and at `EbganParams.sheets` − 1 reports before it, evenly spread."""
        done, before = (int(self._params.sheets * at / self._params.steps) for at in (step, step - self._every(step)))
        return done > before

    def state(self) -> dict[str, Any]:
        return {
            **self._updater.state(), "random": self._random.get_state(), "history": self.history,
            "frames": [frame.to_plain() for frame in self.frames],
        }  # fmt: skip

    def _load(self, step: int, state: Mapping[str, Any]) -> None:
        self._updater.load(state)
        self._random.set_state(state["random"].cpu())
        self.step, self.history = step, [dict(row) for row in state["history"]]
        self.frames = [Frame.from_plain(plain) for plain in state["frames"]]

    def _every(self, step: int) -> int:
        """Steps since the report before this one."""
        return step % self._params.report_every or self._params.report_every

    def _share(self, step: int) -> float:
        """What is left of the learning rates."""
        begins = self._params.decay_from * self._params.steps
        if step <= begins or begins >= self._params.steps:
            return 1.0
        return max(0.01, (self._params.steps - step) / (self._params.steps - begins))

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self._params.latent, generator=self._random, device=self._device)

    @torch.no_grad()
    def _frame(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is kept of a report to be drawn: samples, and in the plane the energy on a grid."""
        toy = self._problem.toy
        if toy is None:
            return samples[: _SHOWN // 8].cpu(), None
        axis = torch.linspace(-toy.extent, toy.extent, _GRID, device=self._device)
        values = self.networks.energy(torch.cartesian_prod(axis, axis)) / self._params.temperature
        return samples[:_SHOWN].cpu(), values.view(_GRID, _GRID).cpu()


def _gradient_norm(network: nn.Module) -> float:
    """‖·‖₂ of the gradient of the last step."""
    found = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return float(torch.stack([gradient.square().sum() for gradient in found]).sum().sqrt()) if found else 0.0
