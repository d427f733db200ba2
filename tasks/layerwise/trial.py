"""A trial: one optimiser and one λ, the claim in its pure form, and what each of its breakers costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from tasks.api import Context
from tasks.layerwise import FLOOR, OPTIMIZERS, LayerwiseParams
from tasks.layerwise.figures import deviation_figure
from tasks.layerwise.gradients import clip
from tasks.layerwise.reparametrised import equivalent, exponent
from tasks.layerwise.trajectories import CLASSES, Problem, Training, Trajectory, deviation, train

STEPS = 10
"""At most this many reports, each on the steps so far."""


def run(params: LayerwiseParams, context: Context) -> Mapping[str, float]:
    """Train, compare and draw; reports the greatest deviations so far after each tenth of the steps."""
    pairs = trajectories(params, context.seed)
    deviations = {name: deviation(*pair) for name, pair in pairs.items()}
    for step in sorted({max(1, params.steps * part // STEPS) for part in range(1, STEPS + 1)}):
        context.report(step, **_greatest(deviations, step))
    context.figure("deviations", deviation_figure(deviations, f"{params.optimizer}, λ = {params.scale:g}"))
    _, plain = pairs["deviation/clean"]
    _, clipped = pairs["deviation/clipping"]
    return {
        "optimizer": OPTIMIZERS.index(params.optimizer), "scale": params.scale,
        **_greatest(deviations, params.steps),
        "clipped": clipped.clipped, "loss/first": plain.first_loss, "loss/last": plain.last_loss,
    }  # fmt: skip


def trajectories(params: LayerwiseParams, seed: int) -> dict[str, tuple[Trajectory, Trajectory]]:
    """Each comparison's two trajectories, φ trained and θ trained, by the name of its metric.

    The claim scales the learning rate alone. In ``deviation/…`` all else is the same in both; in ``corrected/…`` the
    second has what `equivalent` makes of it as well.
    """
    problem = Problem(seed, params.steps, params.batch_size)
    make, _ = CLASSES[params.optimizer]
    scale, power = params.scale, exponent(make)
    head = {"lr": params.lr, "weight_decay": 0.0} | ({"eps": 0.0} if power == 1 else {})
    phi = Training(params.optimizer, head | {"lr": params.lr / scale**power}, head, scale)
    theta = Training(params.optimizer, head, head)
    wrong = replace(theta, body=head | {"lr": params.lr * (scale if power == 1 else 1 / scale)})
    clean = train(problem, phi)
    found = {
        "deviation/clean": (clean, train(problem, theta)),
        "deviation/control": (clean, train(problem, wrong)),
    }
    breakers = {"weight_decay": {"weight_decay": params.weight_decay}}
    if power == 1:
        breakers["epsilon"] = {"eps": params.epsilon}
    for name, options in breakers.items():
        broken, same = phi.given(**options), theta.given(**options)
        corrected = replace(same, body=equivalent(make, scale, **broken.body))
        trained = train(problem, broken)
        found[f"deviation/{name}"] = trained, train(problem, same)
        found[f"corrected/{name}"] = trained, train(problem, corrected)
    bound = params.max_norm
    found["deviation/clipping"] = (
        train(problem, replace(phi, clips=(clip("*", bound),))),
        train(problem, replace(theta, clips=(clip("*", bound),))),
    )
    found["corrected/clipping"] = (
        train(problem, replace(phi, clips=(clip("body.*", bound), clip("head.*", bound)))),
        train(problem, replace(theta, clips=(clip("body.*", bound / scale), clip("head.*", bound)))),
    )
    return found


def _greatest(deviations: Mapping[str, Tensor], step: int) -> dict[str, float]:
    found = {name: values[:step].max().item() for name, values in deviations.items()}
    return {"digits": -math.log10(max(found["deviation/clean"], FLOOR)), **found}
