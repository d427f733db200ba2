"""Steps of training beside a straightforward implementation of the same update, on one core.

    python tests/benchmarks/ebgan.py [--quick]

The peer below is written for this benchmark the way such a loop is usually written: eager, a forward pass for data and
one for samples, a sample made anew for each energy step, the penalty by a backward pass through a backward pass,
gradients of everything in every backward pass, PyTorch's optimizers as they come, the moving average weight by weight.
Networks, batches and noise are the same. Time is the processor time of this one thread, the median over rounds in which
both run one after the other. The losses are compared in float64 over 20 steps from the same weights (in float32 both
round in another order, and a GAN's training multiplies such differences; that gap is told too).

At the paper's size products of 256 × 512 by 512 × 512 take nearly all of the time: a step has 96 of them here and 118
in the peer, so that at one precision a ratio of about 1.23 is what there is to gain.
"""

from __future__ import annotations

import os

# One core, said before PyTorch asks how many there are.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bars import Bar, state
from torch import Tensor
from torch.nn.functional import softplus

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.ebgan.params import EbganParams
from tasks.ebgan.toys import make_toy
from tasks.ebgan.update import Networks, Updater

QUICK = "--quick" in sys.argv
ROUNDS, STEPS = (7, 20) if QUICK else (21, 40)
PARAMS = {
    "as the task has it, 2 × 128": EbganParams(),
    "as the paper has it, 3 × 512": EbganParams(
        width=512, generator_width=512, depth=3, batch_size=256, energy_steps=5, input_scale=1.0, confinement=0.0,
    ),
}  # fmt: skip


class Plain:
    """The same update, straightforward."""

    def __init__(self, params: EbganParams, networks: Networks) -> None:
        self.params, self.nets = params, networks
        betas = (params.beta1, params.beta2)
        self.u_optimizer = torch.optim.Adam(networks.energy.parameters(), params.lr, betas)
        self.g_optimizer = torch.optim.Adam(networks.generator.parameters(), params.generator_lr, betas)
        self.t_optimizer = torch.optim.Adam(networks.entropy.parameters(), params.generator_lr, betas)

    def step(self, real: list[Tensor], noise: list[Tensor], z: Tensor, apart: Tensor) -> tuple[float, float]:
        nets, params = self.nets, self.params
        for x, of_fake in zip(real, noise, strict=True):
            fake = nets.generator(of_fake).detach()
            x = x.clone().requires_grad_()
            energy_real, energy_fake = nets.energy(x), nets.energy(fake)
            (gradient,) = torch.autograd.grad(energy_real.sum(), x, create_graph=True)
            penalty = gradient.pow(2).sum(1).mean()
            u_loss = energy_real.mean() - energy_fake.mean() + params.penalty * penalty
            self.u_optimizer.zero_grad()
            u_loss.backward()
            self.u_optimizer.step()
        x = nets.generator(z)
        information = -softplus(-nets.entropy(x, z)).mean() - softplus(nets.entropy(x, apart)).mean()
        g_loss = nets.energy(x).mean() - params.entropy_weight * information
        self.g_optimizer.zero_grad()
        self.t_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        self.t_optimizer.step()
        with torch.no_grad():
            for kept, now in zip(nets.average.parameters(), nets.generator.parameters(), strict=True):
                kept.mul_(params.ema).add_(now, alpha=1 - params.ema)
        return u_loss.item(), g_loss.item()


class Ours:
    """The task's own loop over `Updater`."""

    def __init__(self, params: EbganParams, networks: Networks) -> None:
        self._updater = Updater(params, networks)

    def step(self, real: list[Tensor], noise: list[Tensor], z: Tensor, apart: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            fake = self._updater.networks.generator(torch.cat(noise))
        for x, made in zip(real, fake.split(len(z)), strict=True):
            analysis = self._updater.analyse(x, made)
        sampling = self._updater.sample(z, apart)
        return analysis.loss.item(), sampling.loss.item()


def inputs(
    params: EbganParams, steps: int, dtype: torch.dtype
) -> list[tuple[list[Tensor], list[Tensor], Tensor, Tensor]]:
    """Batches and noise of some steps."""
    random, toy, n = torch.Generator().manual_seed(0), make_toy("gaussians"), params.batch_size

    def noise() -> Tensor:
        return torch.randn(n, params.latent, generator=random).to(dtype)

    return [
        (
            [toy.draw(n, random).to(dtype) for _ in range(params.energy_steps)],
            [noise() for _ in range(params.energy_steps)], noise(), noise(),
        )
        for _ in range(steps)
    ]  # fmt: skip


def contestants(params: EbganParams, dtype: torch.dtype) -> dict[str, Plain | Ours]:
    torch.manual_seed(0)
    networks = Networks(params, (2,)).to(dtype)
    return {"plain": Plain(params, copy.deepcopy(networks)), "ours": Ours(params, networks)}


def greatest_gap(params: EbganParams, dtype: torch.dtype) -> float:
    """Of the two losses over 20 steps, relative to 1 or to the loss if that is greater."""
    both, gap = contestants(params, dtype), 0.0
    for given in inputs(params, 20, dtype):
        plain, ours = (each.step(*given) for each in both.values())
        gap = max(gap, *(abs(a - b) / max(1.0, abs(a)) for a, b in zip(plain, ours, strict=True)))
    return gap


def speeds(params: EbganParams, steps: int) -> dict[str, float]:
    """Seconds of processor time a step, medians; prints steps a second with quartiles."""
    both, given = contestants(params, torch.float32), inputs(params, steps, torch.float32)
    took: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(ROUNDS + 1):
        for name, each in both.items():
            seconds = timed(each.step, given)
            if turn > 0:  # the first round warms up
                took[name].append(seconds / steps)
    for name, each in took.items():
        low, middle, high = statistics.quantiles(each, n=4)
        print(f"  {name}: {1 / middle:.1f} steps/s ({1 / high:.1f} … {1 / low:.1f})", flush=True)
    return {name: statistics.median(each) for name, each in took.items()}


def timed(step: Callable[..., object], given: list[tuple[list[Tensor], list[Tensor], Tensor, Tensor]]) -> float:
    began = time.process_time()
    for each in given:
        step(*each)
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    bars = []
    for name, params in list(PARAMS.items())[: 1 if QUICK else None]:
        paper = "paper" in name
        print(f"{name}, batch {params.batch_size}, {params.energy_steps} energy steps a step")
        gap = greatest_gap(params, torch.float64)
        single = greatest_gap(params, torch.float32)
        print(f"  greatest gap of the losses over 20 steps: float64 {gap:.2g}, float32 {single:.2g}", flush=True)
        took = speeds(params, max(2, STEPS // 20) if paper else STEPS)
        bars.append(Bar(f"greatest gap of the losses over 20 steps, float64: {name}", gap, "", 1e-5))
        bars.append(Bar(f"steps a second against plain: {name}", took["plain"] / took["ours"], "×", 1.5, at_most=False))
    state("ebgan", bars)


if __name__ == "__main__":
    main()
