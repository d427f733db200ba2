"""What a report and the end of a trial measure, by problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tasks.ebgan import classifier, inception, metrics
from tasks.ebgan.problem import Problem
from tasks.ebgan.sampler import data_energy, generate, sample
from tasks.ebgan.update import Networks

if TYPE_CHECKING:
    from tasks.ebgan.params import EbganParams

_BLOCK = 4096


class Evaluator:
    """Measures networks; its draws depend on seed and step alone, not on what the training has drawn."""

    def __init__(self, params: EbganParams, problem: Problem, seed: int, device: str, cache: Path) -> None:
        self._params, self._problem, self._seed, self._device = params, problem, seed, device
        self._classifier = classifier.obtain(problem.labelled, cache) if problem.labelled else None
        self._inception = inception.load(params.inception, device) if params.inception else None

    def measure(self, networks: Networks, step: int, n: int) -> tuple[dict[str, float], Tensor]:
        """Metrics on n samples, and the samples: the generator's alone where there are anomalies to be found.

        Leaves ``networks`` in the mode of evaluation, in which looking at them changes nothing.
        """
        networks.eval()
        random = torch.Generator(self._device).manual_seed((self._seed * 1_000_003 + step) % (1 << 63))
        z = torch.randn(n, self._params.latent, generator=random, device=self._device)
        own = generate(networks.average, z)
        if self._problem.test is not None:
            return self._anomaly(networks), own
        found = metrics.prefixed("generator", self._quality(own, random))
        if self._params.chain_space == "none":
            full = own
            found |= self._quality(own, random)
        else:
            full, chains = sample(self._params, networks, z, random)
            found |= self._quality(full, random)
            found |= {"mcmc/acceptance": chains.acceptance, "mcmc/step": chains.step}
        if self._classifier is not None:
            found["classifier/accuracy"] = self._classifier.accuracy
        if self._problem.toy is not None:
            found["density/kl"] = metrics.density_kl(
                lambda x: networks.energy(x) / self._params.temperature, self._problem.toy, self._device
            )
            if not self._problem.toy.is_modal:
                found["kl"] = found["density/kl"]
        return found, full

    def _quality(self, x: Tensor, random: torch.Generator) -> dict[str, float]:
        toy = self._problem.toy
        if toy is not None:
            return metrics.modes(x, toy) if toy.is_modal else {}
        if self._classifier is not None:
            return self._classified(x.cpu(), random)
        if self._inception is None:
            return {}
        features, probabilities = inception.see(self._inception, x)
        real, _ = inception.see(self._inception, self._problem.draw(len(x), random))
        return {"fid": metrics.frechet(features, real), "is": metrics.inception_score(probabilities)}

    def _classified(self, x: Tensor, random: torch.Generator) -> dict[str, float]:
        assert self._classifier is not None
        labels = self._classifier.classes(x)
        counts = torch.bincount(labels, minlength=10 ** x.shape[1])
        kl = metrics.kl_to_uniform(counts)
        real = self._problem.draw(len(x), random).cpu()
        ours, theirs = (self._classifier.features(each.flatten(0, 1)[:, None]).numpy() for each in (x, real))
        return {
            "modes": float((counts > 0).sum()), "kl_uniform": kl, "kl": kl,
            "fid/classifier": metrics.frechet(ours, theirs),
        }  # fmt: skip

    def _anomaly(self, networks: Networks) -> dict[str, float]:
        assert self._problem.test is not None
        assert self._problem.anomalous is not None
        score = self._steepness(networks) if self._params.score == "gradient" else networks.energy
        with torch.no_grad():
            scores = [score(block.to(self._device)).cpu() for block in self._problem.test.split(_BLOCK)]
        return metrics.anomaly(torch.cat(scores), self._problem.anomalous, self._params.threshold)

    @staticmethod
    def _steepness(networks: Networks) -> Callable[[Tensor], Tensor]:
        """x → ‖∇ₓU(x)‖²."""
        energy = data_energy(networks.energy, 1.0)
        return lambda x: energy(x)[1].flatten(1).square().sum(1)
