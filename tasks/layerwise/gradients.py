"""Free gradients: clip, scale, zero or add noise by name, between backward and step.

Source: Su Jianlin, kexue.fm/archives/6418 (operations on the gradients as the optimiser sees them).
Idea: what an optimiser is handed need not be the gradient. A pipeline of steps, each for the parameters that a glob
pattern matches, runs as a hook of the optimiser: once a step whatever the number of backward passes, and gone when
removed.

>>> from torch import nn
>>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> pipeline = GradientPipeline([zero("0.bias"), clip("2.*", 1.0), noise("*.weight", 0.01, seed=7)])
>>> handle = pipeline.attach(optimizer, model)
>>> model(torch.ones(4, 2)).sum().backward()
>>> optimizer.step()
>>> bool(model[0].bias.grad.any())
False
>>> handle.remove()

With `torch.amp.GradScaler` nothing changes: ``scaler.step(optimizer)`` unscales before the optimiser's hooks run, and
where it skips a step for infinite gradients the pipeline does not run. An optimiser made with ``fused=True`` unscales
inside its own step: call ``scaler.unscale_(optimizer)`` first (the pipeline says so if it was forgotten).
Under DistributedDataParallel every process adds the same noise, as each has the same seed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tasks.api import InputError
from tasks.layerwise.names import matching, named


class Step(ABC):
    """One operation on the gradients of the parameters that a pattern matches."""

    kind: ClassVar[str]

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __repr__(self) -> str:
        return f"{self.kind}('{self.pattern}')"

    @abstractmethod
    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change ``.grad`` in place. Only parameters that have a gradient are given, in the model's order."""

    def state_dict(self) -> dict[str, Any]:
        """What the step's future depends on: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        assert not state, f"{self!r} has no state"


class clip(Step):  # noqa: N801  (reads as a verb where it is used)
    """Scale all matched gradients together so that their joint 2-norm is ``max_norm`` at most.

    The arithmetic is `torch.nn.utils.clip_grad_norm_` on these parameters: a factor of max_norm/(norm + 1e-6).
    """

    kind = "clip"

    def __init__(self, pattern: str, max_norm: float) -> None:
        super().__init__(pattern)
        self.max_norm = _above_zero("clip", "max_norm", max_norm)

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters, self.max_norm)


class clip_value(Step):  # noqa: N801
    """Bring each entry of the matched gradients into [−limit, limit]."""

    kind = "clip_value"

    def __init__(self, pattern: str, limit: float) -> None:
        super().__init__(pattern)
        self.limit = _above_zero("clip_value", "limit", limit)

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        nn.utils.clip_grad_value_(parameters, self.limit)


class scale(Step):  # noqa: N801
    """Multiply the matched gradients. Adam and RMSprop divide a constant factor out again (all but their ε)."""

    kind = "scale"

    def __init__(self, pattern: str, factor: float) -> None:
        super().__init__(pattern)
        if not math.isfinite(factor):
            raise InputError(f"scale: factor must be finite, got {factor}")
        self.factor = factor

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            _gradient(parameter).mul_(self.factor)


class zero(Step):  # noqa: N801
    """Set the matched gradients to 0. Weight decay and momentum go on; what is to stand still is better frozen."""

    kind = "zero"

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            _gradient(parameter).zero_()


class noise(Step):  # noqa: N801
    """Add Gaussian noise of standard deviation ``std``/(1 + t)^``decay`` to the matched gradients, t steps from 0.

    decay: 0 for noise that stays; .55/2 is the schedule of Neelakantan et al. 2015, arXiv 1511.06807. The noise is
    drawn on the CPU from a generator of its own (``seed``, or one that is given), so that it is the same on a GPU and
    leaves other randomness alone.
    """

    kind = "noise"

    def __init__(
        self, pattern: str, std: float, *, seed: int | None = None, generator: torch.Generator | None = None,
        decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(pattern)
        self.std = _above_zero("noise", "std", std)
        if (seed is None) == (generator is None):
            raise InputError("noise: give either a seed or a CPU generator, as in noise('*', 0.1, seed=1)")
        if not decay >= 0 or not math.isfinite(decay):
            raise InputError(f"noise: decay must be 0 or more, got {decay}")
        if generator is not None and generator.device.type != "cpu":
            raise InputError(f"noise: its generator must be on the CPU, got one on {generator.device}")
        self.decay, self.steps = decay, 0
        self.generator = generator if seed is None else torch.Generator().manual_seed(seed)

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        std = self.std / (1 + self.steps) ** self.decay
        for parameter in parameters:
            gradient = _gradient(parameter)
            drawn = torch.randn(gradient.shape, generator=self.generator, dtype=gradient.dtype)
            gradient.add_(drawn.to(gradient.device), alpha=std)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        assert self.generator is not None
        return {"generator": self.generator.get_state(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert self.generator is not None
        self.generator.set_state(state["generator"])
        self.steps = int(state["steps"])


class GradientPipeline:
    """Steps on gradients, each applied to what the one before it left."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    def __repr__(self) -> str:
        return f"GradientPipeline({list(self.steps)})"

    def attach(self, optimizer: Optimizer, model: nn.Module) -> RemovableHandle:
        """Run the steps at each ``optimizer.step()``, before it; returns what takes them off again.

        ``handle.remove()`` does, and so does leaving ``with pipeline.attach(optimizer, model):``. Patterns are matched
        once, here, over the model's names. A step in which a parameter has no gradient passes over it.

        Raises `InputError` for a pattern that matches nothing, or nothing that the optimiser holds.
        """
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        parameters = named(model)
        targets = []
        for step in self.steps:
            found = [parameters[name] for name in matching(step.pattern, parameters, repr(step))]
            targets.append([parameter for parameter in found if id(parameter) in held])
            if not targets[-1]:
                raise InputError(
                    f"{step!r}: the optimiser holds none of the {len(found)} parameters that it matches"
                    " (they are frozen, or another optimiser's); attach it to the one that steps them, or leave it out"
                )

        def before_step(stepped: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _ready(stepped, args, kwargs):
                for step, matched in zip(self.steps, targets, strict=True):
                    step.apply([parameter for parameter in matched if parameter.grad is not None])

        return optimizer.register_step_pre_hook(before_step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for the same noise to follow: tensors and plain values."""
        return {"kinds": [step.kind for step in self.steps], "states": [step.state_dict() for step in self.steps]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises `InputError` when it is another sequence of steps'."""
        own = [step.kind for step in self.steps]
        if list(state["kinds"]) != own:
            raise InputError(f"the state is of the steps {', '.join(state['kinds'])}; these are {', '.join(own)}")
        for step, kept in zip(self.steps, state["states"], strict=True):
            step.load_state_dict(kept)


def _ready(optimizer: Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the gradients are what the optimiser is about to use; False where a fused one will skip the step."""
    if any(callable(given) for given in (*args[1:], kwargs.get("closure"))):
        raise InputError(
            "a gradient pipeline cannot work with optimizer.step(closure): the closure computes other gradients after "
            "it; call backward() first and step() without a closure"
        )
    if getattr(optimizer, "grad_scale", None) is not None:
        raise InputError(
            "the gradients are still scaled: this optimiser is fused and unscales them inside its step; "
            "call scaler.unscale_(optimizer) before scaler.step(optimizer), or make it with fused=False"
        )
    infinite: Tensor | None = getattr(optimizer, "found_inf", None)
    return infinite is None or not infinite.item()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None  # `attach` leaves out those without
    return parameter.grad


def _above_zero(step: str, name: str, value: float) -> float:
    if not value > 0 or not math.isfinite(value):
        raise InputError(f"{step}: {name} must be a finite number above 0, got {value}")
    return value
