"""Steps on gradients: what each does, when they run, and that they can be taken off and go on after a resume."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, AdamW

from tasks.api import InputError
from tasks.layerwise.gradients import GradientPipeline, Step, clip, clip_value, noise, scale, zero
from tasks.layerwise.reparametrised import reparametrise


class Counter(Step):
    """Counts how often it runs and keeps what it saw."""

    kind = "counter"

    def __init__(self, pattern: str = "*") -> None:
        super().__init__(pattern)
        self.seen: list[list[torch.Tensor]] = []

    def apply(self, parameters):
        self.seen.append([parameter.grad.clone() for parameter in parameters])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 4))
    model.add_module("tanh", nn.Tanh())
    model.add_module("head", nn.Linear(4, 2))
    return model


def loss(model: nn.Module, seed: int = 1) -> torch.Tensor:
    return model(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))).square().sum()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def after(steps, lr: float = 0.1, seed: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The gradients before a pipeline ran in one step, and after."""
    model = network()
    optimizer = SGD(model.parameters(), lr=lr)
    GradientPipeline(steps).attach(optimizer, model)
    loss(model, seed).backward()
    before = gradients(model)
    optimizer.step()
    return before, gradients(model)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["head.*", "*.weight", "*"]), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_clip_is_torchs_on_the_subset(pattern, bound, seed):
    before, found = after([clip(pattern, bound)], seed=seed)
    model = network()
    loss(model, seed).backward()
    chosen = {"head.*": ["head.weight", "head.bias"], "*.weight": ["body.weight", "head.weight"], "*": list(before)}
    clip_grad_norm_([model.get_parameter(name) for name in chosen[pattern]], bound)
    for name, gradient in gradients(model).items():
        assert torch.equal(found[name], gradient)
        assert name in chosen[pattern] or torch.equal(found[name], before[name])


def test_clip_bounds_the_norm_of_its_rule_alone():
    before, found = after([clip("head.*", 0.5)])
    joint = torch.cat([found["head.weight"].flatten(), found["head.bias"]]).norm()
    assert joint.item() == pytest.approx(0.5, rel=1e-5)
    assert before["head.weight"].norm() > 0.5
    assert torch.equal(found["body.weight"], before["body.weight"])


def test_clip_value_scale_and_zero():
    before, found = after([clip_value("body.weight", 0.1), scale("head.weight", -2.0), zero("*.bias")])
    assert torch.equal(found["body.weight"], before["body.weight"].clamp(-0.1, 0.1))
    assert torch.equal(found["head.weight"], before["head.weight"] * -2)
    assert not found["body.bias"].any()
    assert not found["head.bias"].any()


def test_steps_run_in_their_order():
    _, scaled_then_clipped = after([scale("*", 1000.0), clip("*", 1.0)])
    _, clipped_then_scaled = after([clip("*", 1.0), scale("*", 1000.0)])
    norm = torch.cat([g.flatten() for g in scaled_then_clipped.values()]).norm().item()
    other = torch.cat([g.flatten() for g in clipped_then_scaled.values()]).norm().item()
    assert (norm, other) == (pytest.approx(1.0, rel=1e-5), pytest.approx(1000.0, rel=1e-5))


def test_noise_has_its_spread_and_leaves_other_randomness_alone():
    model = nn.Linear(500, 400, bias=False)
    optimizer = SGD(model.parameters(), lr=1.0)
    GradientPipeline([noise("weight", 0.25, seed=3)]).attach(optimizer, model)
    state = torch.get_rng_state()
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    drawn = model.weight.grad
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.std().item() == pytest.approx(0.25, rel=4 / math.sqrt(2 * drawn.numel()))  # 4 standard errors
    assert abs(drawn.mean().item()) < 4 * 0.25 / math.sqrt(drawn.numel())


def test_noise_decays_as_its_schedule_says():
    model = nn.Linear(500, 400, bias=False)
    optimizer = SGD(model.parameters(), lr=0.0)
    GradientPipeline([noise("weight", 1.0, seed=3, decay=0.5)]).attach(optimizer, model)
    spreads = []
    for _ in range(4):
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
        spreads.append(model.weight.grad.std().item())
    assert spreads == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5], rel=0.01)


def trained(pipeline: GradientPipeline, steps: int, model: nn.Module | None = None, first: int = 0) -> nn.Module:
    model = model or network()
    optimizer = SGD(model.parameters(), lr=0.01)
    with pipeline.attach(optimizer, model):
        for step in range(first, first + steps):
            optimizer.zero_grad()
            loss(model, step).backward()
            optimizer.step()
    return model


def steps_with_noise(seed: int = 5) -> list[Step]:
    return [clip("*", 1.0), noise("body.*", 0.1, seed=seed, decay=0.3), noise("*", 0.01, seed=seed + 1)]


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_noise_is_the_seeds():
    one, same, other = (trained(GradientPipeline(steps_with_noise(seed)), 5) for seed in (5, 5, 8))
    assert equal(one, same)
    assert not equal(one, other)
    generator = torch.Generator().manual_seed(5)
    by_generator, by_seed = noise("*", 0.1, generator=generator), noise("*", 0.1, seed=5)
    assert equal(*(trained(GradientPipeline([step]), 3) for step in (by_generator, by_seed)))


def test_a_resumed_training_ends_as_one_that_was_not_cut_off(tmp_path):
    whole = trained(GradientPipeline(steps_with_noise()), 8)
    pipeline = GradientPipeline(steps_with_noise())
    half = trained(pipeline, 4)
    torch.save(pipeline.state_dict(), tmp_path / "state.pt")
    fresh = GradientPipeline(steps_with_noise(seed=99))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert equal(trained(fresh, 4, half, first=4), whole)


def test_a_state_of_other_steps_is_refused():
    state = GradientPipeline([clip("*", 1.0), noise("*", 0.1, seed=1)]).state_dict()
    with pytest.raises(InputError, match="of the steps clip, noise; these are noise"):
        GradientPipeline([noise("*", 0.1, seed=1)]).load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------- when


def test_it_runs_once_a_step_under_accumulation_and_sees_the_sum():
    model, counter = network(), Counter()
    optimizer = SGD(model.parameters(), lr=0.0)
    GradientPipeline([counter]).attach(optimizer, model)
    for step in range(3):
        optimizer.zero_grad()
        parts = []
        for micro in range(4):
            seed = 10 * step + micro
            parts.append(torch.autograd.grad(loss(model, seed), list(model.parameters())))
            loss(model, seed).backward()
        assert len(counter.seen) == step
        optimizer.step()
        for seen, expected in zip(counter.seen[-1], (sum(p) for p in zip(*parts, strict=True)), strict=True):
            torch.testing.assert_close(seen, expected)
    assert len(counter.seen) == 3


@pytest.mark.parametrize("explicit", [True, False], ids=["unscale_ called", "left to step"])
def test_it_sees_unscaled_gradients(explicit):
    """Scaled by 2¹⁰, clipped after unscaling: the same weights as without a scaler, to the bit (powers of two)."""
    plain, scaled = network(), network()
    for model, scaler in ((plain, None), (scaled, GradScaler("cpu", init_scale=1024.0))):
        optimizer = SGD(model.parameters(), lr=0.1)
        GradientPipeline([clip("head.*", 0.5)]).attach(optimizer, model)
        for seed in range(3):
            optimizer.zero_grad()
            if scaler is None:
                loss(model, seed).backward()
                optimizer.step()
                continue
            scaler.scale(loss(model, seed)).backward()
            if explicit:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert equal(plain, scaled)


@pytest.mark.parametrize("explicit", [True, False])
def test_it_does_not_run_in_a_step_that_the_scaler_skips(explicit):
    model, counter, scaler = network(), Counter(), GradScaler("cpu", init_scale=4.0)
    optimizer = SGD(model.parameters(), lr=0.1)
    GradientPipeline([counter]).attach(optimizer, model)
    scaler.scale(loss(model) * math.inf).backward()
    if explicit:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert counter.seen == []


def test_a_fused_optimizer_needs_unscale_first():
    """It unscales inside its step, after the hooks: said, not worked on wrongly."""
    model, counter, scaler = network(), Counter(), GradScaler("cpu", init_scale=1024.0)
    optimizer = AdamW(model.parameters(), lr=0.1, fused=True)
    GradientPipeline([counter]).attach(optimizer, model)
    scaler.scale(loss(model)).backward()
    true = torch.autograd.grad(loss(model), list(model.parameters()))
    with pytest.raises(InputError, match=r"call scaler.unscale_\(optimizer\) before scaler.step"):
        scaler.step(optimizer)
    assert counter.seen == []
    del optimizer.grad_scale, optimizer.found_inf  # what GradScaler would have done
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    for seen, expected in zip(counter.seen[0], true, strict=True):
        torch.testing.assert_close(seen, expected)
    scaler.update()
    scaler.scale(loss(model) * math.inf).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert len(counter.seen) == 1


def test_a_closure_is_refused():
    model = network()
    optimizer = LBFGS(model.parameters())
    GradientPipeline([clip("*", 1.0)]).attach(optimizer, model)
    for step in (lambda: optimizer.step(lambda: loss(model)), lambda: optimizer.step(closure=lambda: loss(model))):
        with pytest.raises(InputError, match="the closure computes other gradients after it"):
            step()


def test_it_is_gone_when_removed():
    model, counter = network(), Counter()
    optimizer = SGD(model.parameters(), lr=0.1)
    loss(model).backward()
    handle = GradientPipeline([counter]).attach(optimizer, model)
    optimizer.step()
    handle.remove()
    handle.remove()
    optimizer.step()
    with GradientPipeline([counter]).attach(optimizer, model):
        optimizer.step()
    optimizer.step()
    assert len(counter.seen) == 2
    assert not optimizer._optimizer_step_pre_hooks


def test_it_survives_a_scheduler_and_passes_over_what_has_no_gradient():
    model, counter = network(), Counter()
    optimizer = SGD(model.parameters(), lr=0.1)
    GradientPipeline([counter]).attach(optimizer, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    model.head(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    schedule.step()
    assert [len(seen) for seen in counter.seen] == [2]


# ------------------------------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (clip("hed.*", 1.0), r"clip\('hed\.\*'\): no parameter is called 'hed\.\*'; near it: 'head\.\*'"),
        (zero("body.wieght"), "near it: 'body.weight'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(step, told):
    model = network()
    with pytest.raises(InputError, match=told):
        GradientPipeline([step]).attach(SGD(model.parameters(), lr=0.1), model)


def test_a_pattern_for_another_optimisers_parameters_is_refused():
    model = network()
    optimizer = SGD(model.head.parameters(), lr=0.1)
    with pytest.raises(InputError, match="the optimiser holds none of the 2 parameters"):
        GradientPipeline([zero("body.*")]).attach(optimizer, model)
    assert not optimizer._optimizer_step_pre_hooks


def test_a_step_for_all_touches_what_the_optimizer_holds():
    model = network()
    optimizer = SGD(model.head.parameters(), lr=0.1)
    GradientPipeline([zero("*")]).attach(optimizer, model)
    loss(model).backward()
    optimizer.step()
    assert model.body.weight.grad.any()
    assert not model.head.weight.grad.any()


def test_names_are_the_same_in_a_reparametrised_model():
    model = network()
    reparametrise(model, "body.*", 3.0)
    optimizer = SGD(model.parameters(), lr=0.1)
    GradientPipeline([zero("body.weight")]).attach(optimizer, model)
    loss(model).backward()
    optimizer.step()
    assert not model.body.parametrizations.weight.original.grad.any()
    assert model.body.parametrizations.bias.original.grad.any()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: clip("*", 0), "clip: max_norm must be a finite number above 0, got 0"),
        (lambda: clip_value("*", math.nan), "clip_value: limit"),
        (lambda: scale("*", math.inf), "scale: factor must be finite"),
        (lambda: noise("*", -1, seed=1), "noise: std"),
        (lambda: noise("*", 1.0), "either a seed or a CPU generator"),
        (lambda: noise("*", 1.0, seed=1, generator=torch.Generator()), "either a seed or a CPU generator"),
        (lambda: noise("*", 1.0, seed=1, decay=-0.1), "decay must be 0 or more"),
    ],
)
def test_a_wrong_number_is_refused(made, told):
    with pytest.raises(InputError, match=told):
        made()
