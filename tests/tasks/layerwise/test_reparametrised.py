"""θ = λφ: the same trajectories as parameter groups, and what the helpers promise."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.optim import SGD, Adadelta, Adam, AdamW, RAdam, RMSprop

from tasks.api import InputError
from tasks.layerwise.gradients import GradientPipeline, clip
from tasks.layerwise.groups import parameter_groups, rule
from tasks.layerwise.layers import layer_numbers
from tasks.layerwise.names import named
from tasks.layerwise.reparametrised import equivalent, exponent, reparametrise, restore, scale_for, theta


def network(dtype=torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 6))
    model.add_module("tanh", nn.Tanh())
    model.add_module("head", nn.Linear(6, 2))
    return model.to(dtype)


def trained(make, body: dict, head: dict, scale: float | None = None, clips=(), steps=200, dtype=torch.float64):
    """θ after each step, (steps, parameters), with the optimiser's options for each layer."""
    model = network(dtype)
    if scale is not None:
        reparametrise(model, "body.*", scale)
    optimizer = make(
        [
            {"params": list(model.body.parameters()), **body},
            {"params": list(model.head.parameters()), **head},
        ]
    )
    source, seen = torch.Generator().manual_seed(1), []
    with GradientPipeline(clips).attach(optimizer, model):
        for _ in range(steps):
            x = torch.randn(16, 3, generator=source, dtype=torch.float64).to(dtype)
            optimizer.zero_grad()
            (model(x) - x[:, :2].sin() * 2).square().mean().backward()
            optimizer.step()
            seen.append(torch.cat([value.flatten() for value in theta(model).values()]))
    return torch.stack(seen)


def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm(dim=1) / other.norm(dim=1)).max().item()


CASES = [
    (SGD, {}, 2), (SGD, {"momentum": 0.9}, 2), (SGD, {"momentum": 0.9, "nesterov": True}, 2),
    (SGD, {"momentum": 0.8, "dampening": 0.3}, 2),
    (Adam, {"eps": 0.0}, 1), (Adam, {"eps": 0.0, "amsgrad": True}, 1),
    (AdamW, {"eps": 0.0, "weight_decay": 0.0}, 1),
    (RMSprop, {"eps": 0.0}, 1), (RMSprop, {"eps": 0.0, "centered": True, "momentum": 0.5}, 1),
]  # fmt: skip


@pytest.mark.parametrize("scale", [0.1, 7.0])
@pytest.mark.parametrize(("make", "options", "power"), CASES)
def test_the_claim_of_the_post(make, options, power, scale):
    """Training φ with lr is training θ with λ²·lr or λ·lr, 200 steps long; with the other power it is not."""
    assert exponent(make) == power
    lr = 1e-3
    inner = {"lr": lr / scale**power, **options}
    head = {"lr": lr, **options}
    phi = trained(make, inner, head, scale)
    assert furthest(phi, trained(make, head, head)) < 1e-11
    other = 1 if power == 2 else 2
    assert furthest(phi, trained(make, {**head, "lr": lr * scale ** (other - power)}, head)) > 1e-3


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (Adam, {"eps": 1e-3, "weight_decay": 0.1}),
        (Adam, {"eps": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        (AdamW, {"eps": 1e-3, "weight_decay": 0.1}),
        (RMSprop, {"eps": 1e-3, "weight_decay": 0.1}),
    ],
)
def test_what_breaks_it_is_mended_by_equivalent(make, options):
    """ε and weight decay break the claim for the learning rate alone; scaled too, it is exact again."""
    scale, lr = 4.5, 1e-3
    inner, head = {"lr": lr, **options}, {"lr": lr, **options}
    phi = trained(make, inner, head, scale)
    alone = {**inner, "lr": lr * scale ** exponent(make)}
    assert furthest(phi, trained(make, alone, head)) > 1e-3
    assert furthest(phi, trained(make, equivalent(make, scale, **inner), head)) < 1e-11


@pytest.mark.parametrize(("make", "power"), [(SGD, 2), (AdamW, 1)])
def test_in_float32_it_holds_to_its_rounding(make, power):
    """What a user in float32 sees. A power of 2 scales without rounding: there SGD is exact to the bit."""
    options = {"eps": 0.0, "weight_decay": 0.0} if power == 1 else {}
    for scale in (4.0, 3.0):
        head = {"lr": 1e-2, **options}
        phi = trained(make, {**head, "lr": 1e-2 / scale**power}, head, scale, dtype=torch.float32)
        apart = furthest(phi, trained(make, head, head, dtype=torch.float32))
        assert apart < 1e-5
        assert apart == 0 or scale != 4.0 or power == 1


def test_clipping_by_layer_has_a_counterpart_and_clipping_by_all_has_none():
    scale, head = 5.0, {"lr": 0.05}
    inner = {"lr": 0.05 / scale**2}
    own = [clip("body.*", 0.2), clip("head.*", 0.2)]
    theirs = [clip("body.*", 0.2 / scale), clip("head.*", 0.2)]
    assert furthest(trained(SGD, inner, head, scale, own), trained(SGD, head, head, None, theirs)) < 1e-5
    joint = trained(SGD, inner, head, scale, [clip("*", 0.2)])
    for bound in (0.2, 0.2 / scale, 0.2 * scale):
        assert furthest(joint, trained(SGD, head, head, None, [clip("*", bound)])) > 1e-2


def test_defaults_are_scaled_too():
    """AdamW decays by 0.01 and Adam has ε = 1e-8 where nothing else is said."""
    assert equivalent(AdamW, 2.0) == {"lr": 2e-3, "eps": 5e-9, "weight_decay": 5e-3}
    assert equivalent(Adam, 2.0, lr=1.0, betas=(0.5, 0.9)) == {
        "lr": 2.0, "eps": 5e-9, "weight_decay": 0.0, "betas": (0.5, 0.9),
    }  # fmt: skip
    assert equivalent(SGD, 2.0, lr=1.0, momentum=0.9) == {"lr": 4.0, "weight_decay": 0.0, "momentum": 0.9}


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSprop])
@pytest.mark.parametrize("lr_mult", [0.1, 1.0, 30.0])
def test_scale_for_undoes_equivalent(make, lr_mult):
    assert equivalent(make, scale_for(make, lr_mult), lr=0.5)["lr"] == pytest.approx(0.5 * lr_mult, rel=1e-14)


@pytest.mark.parametrize("make", [RAdam, Adadelta])
def test_an_optimizer_without_a_power_is_refused(make):
    with pytest.raises(InputError, match=f"no power of λ is known for {make.__name__}"):
        equivalent(make, 2.0, lr=0.1)


def test_radam_has_neither_power():
    """Why it is refused: in its first steps it is SGD with momentum, later it is Adam."""
    scale, options = 3.0, {"eps": 0.0}
    phi = trained(RAdam, {"lr": 1e-3, **options}, {"lr": 1e-3, **options}, scale)
    for power in (1, 2):
        alone = {"lr": 1e-3 * scale**power, **options}
        assert furthest(phi, trained(RAdam, alone, {"lr": 1e-3, **options})) > 1e-3


# -------------------------------------------------------------------------------------------------------- models


def test_the_function_and_the_names_stay():
    model, x = network(), torch.ones(2, 3, dtype=torch.float64)
    before, names = model(x), list(named(model))
    assert reparametrise(model, "*", 3.0) == names
    torch.testing.assert_close(model(x), before, rtol=1e-14, atol=1e-15)
    assert sorted(named(model)) == sorted(names)
    groups = parameter_groups(model, [rule("body.*", lr_mult=0.1), rule("head.*")], lr=1.0)
    assert {n: g["lr"] for g in groups for n in g["names"]} == {n: 0.1 if n[0] == "b" else 1.0 for n in names}
    assert layer_numbers(model) == {n: 0 if n[0] == "b" else 1 for n in named(model)}


def test_restore_keeps_the_values_and_makes_plain_parameters():
    model = network()
    reparametrise(model, "body.*", 4.0)
    with torch.no_grad():
        named(model)["body.weight"].add_(1.0)
    expected = model.body.weight.detach().clone()
    assert restore(model) == ["body.weight", "body.bias"]
    assert isinstance(model.body.weight, nn.Parameter)
    assert torch.equal(model.body.weight, expected)
    assert list(model.state_dict()) == list(network().state_dict())
    assert restore(model) == []


def test_a_module_of_its_own():
    """A parametrised module that is the whole model, and a parameter that no module's name stands before."""
    model = nn.Linear(2, 2)
    assert reparametrise(model, "weight", 2.0) == ["weight"]
    assert set(named(model)) == {"weight", "bias"}
    assert layer_numbers(model) == {"bias": 0, "weight": 0}
    assert restore(model) == ["weight"]


def test_what_others_parametrised_is_left_alone():
    model = network()
    torch.nn.utils.parametrizations.weight_norm(model.head)
    reparametrise(model, "body.*", 2.0)
    assert restore(model) == ["body.weight", "body.bias"]
    assert torch.nn.utils.parametrize.is_parametrized(model.head)
    assert "head.parametrizations.weight.original0" in theta_names(model)


def theta_names(model: nn.Module) -> set[str]:
    return set(theta(model))


def test_a_state_goes_from_one_reparametrised_model_to_another():
    one, other = network(), network()
    for model in (one, other):
        reparametrise(model, "body.*", 3.0)
    with torch.no_grad():
        named(one)["body.bias"].mul_(2.0)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(other.body.bias, one.body.bias)


def test_timms_layers_are_found_by_the_names_of_before():
    plain, changed = (timm.create_model("resnet18", num_classes=3) for _ in range(2))
    reparametrise(changed, "layer1.*.weight", 2.0)
    assert layer_numbers(changed) == {name: layer_numbers(plain)[name] for name in named(changed)}


@pytest.mark.parametrize(
    ("pattern", "scale", "told"),
    [
        ("bodi.*", 2.0, "reparametrise: no parameter is called 'bodi.*'; near it: 'body.*'"),
        ("body.*", 0.0, "λ must be a finite number above 0, got 0"),
        ("body.*", float("nan"), "λ must be"),
    ],
)
def test_wrong_arguments_are_refused(pattern, scale, told):
    with pytest.raises(InputError, match=told.replace("*", r"\*")):
        reparametrise(network(), pattern, scale)


def test_twice_is_refused_and_changes_nothing():
    model = network()
    reparametrise(model, "body.weight", 2.0)
    with pytest.raises(InputError, match=r"'body.weight' is parametrised already; call restore"):
        reparametrise(model, "body.*", 2.0)
    assert "bias" in dict(model.body.named_parameters())
