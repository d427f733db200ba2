"""Parameter groups: rules, depth, frozen parameters, and the rates that an optimiser then really uses."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from tasks.api import InputError
from tasks.layerwise.groups import Rule, parameter_groups, rule, table
from tasks.layerwise.layers import layer_numbers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, layer in (("stem", nn.Linear(3, 4)), ("norm", nn.LayerNorm(4)), ("head", nn.Linear(4, 2))):
        model.add_module(name, layer)
        model.add_module(f"{name}_tanh", nn.Tanh())
    return model.double()


def rates(groups) -> dict[str, float]:
    return {name: group["lr"] for group in groups for name in group["names"]}


def decays(groups) -> dict[str, float]:
    return {name: group["weight_decay"] for group in groups for name in group["names"]}


def backward(model: nn.Module, seed: int = 1) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model(x).square().sum().backward()


def test_the_first_rule_that_matches_wins():
    rules = [rule("stem.bias", lr_mult=5), rule("stem.*", lr_mult=0.1, weight_decay=0, eps=1e-6), rule("*")]
    groups = parameter_groups(network(), rules, lr=0.01, weight_decay=0.3)
    assert [(g["name"], g["names"]) for g in groups] == [
        ("stem.bias", ["stem.bias"]),
        ("stem.*", ["stem.weight"]),
        ("*", ["norm.weight", "norm.bias", "head.weight", "head.bias"]),
    ]
    assert [g["lr"] for g in groups] == pytest.approx([0.05, 0.001, 0.01], rel=1e-15)
    assert [g["weight_decay"] for g in groups] == [0.3, 0, 0.3]
    assert [g.get("eps") for g in groups] == [None, 1e-6, None]
    assert [g["eps"] for g in Adam(groups).param_groups] == [1e-8, 1e-6, 1e-8]


def test_without_rules_there_is_one_group():
    (group,) = parameter_groups(network(), lr=0.01)
    assert (group["name"], len(group["params"]), group["lr"], group["weight_decay"]) == ("all", 6, 0.01, 0)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([rule("stam.*"), rule("*")], r"rule 1 of 2: no parameter is called 'stam\.\*'; near it: 'stem\.\*'"),
        ([rule("stem.wieght"), rule("*")], "near it: 'stem.weight'"),
        ([rule("zzz")], "the model has 'head', 'norm', 'stem' at its top"),
        ([rule("*"), rule("head.*")], r"rule 2 of 2: 'head\.\*' comes too late.* taken by '\*'.*narrower one first"),
        ([rule("*"), rule("*")], "rule 2 of 2: .* comes too late"),
        ([rule("stem.*"), rule("norm.*")], r"no rule matches 'head.weight', 'head.bias'.*rule\(\"\*\"\)"),
        ([rule("[sn]*"), rule("hed.weight"), rule("head.bias")], "near it: 'head.weight'"),
        ([rule("[sn]*"), rule("head.bias")], "no rule matches 'head.weight' .near the first: 'head.bias'"),
        ([], "no rule matches 'stem.weight', 'stem.bias', 'norm.weight' and 3 more"),
    ],
)
def test_a_wrong_rule_is_refused_with_what_to_type(rules, told):
    with pytest.raises(InputError, match=told):
        parameter_groups(network(), rules, lr=0.01)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: rule("*", lr_mult=0), "lr_mult must be above 0, got 0 .to freeze"),
        (lambda: rule("*", lr_mult=math.nan), "lr_mult"),
        (lambda: rule("*", weight_decay=-1), "weight_decay must be 0 or more, got -1"),
        (lambda: rule("*", lr=1), "'lr' cannot be set; a rate is set by lr_mult"),
        (lambda: parameter_groups(network(), lr=0), "lr must be above 0"),
        (lambda: parameter_groups(network(), lr=1, weight_decay=math.inf), "weight_decay must be"),
        (lambda: parameter_groups(network(), lr=1, layer_decay=1.5), r"layer_decay must be in \(0, 1\], got 1.5"),
        (lambda: parameter_groups(network(), lr=1, layer_decay=0), "layer_decay must be in"),
        (lambda: parameter_groups(network().requires_grad_(False), lr=1), "all are frozen"),
    ],
)
def test_a_wrong_number_is_refused(made, told):
    with pytest.raises(InputError, match=told):
        made()


@given(st.lists(st.sampled_from(["*", "stem.*", "*.bias", "head.*", "norm.weight", "no", "[!s]*"]), max_size=4))
def test_rules_either_give_each_parameter_one_group_or_are_refused(patterns):
    model = network()
    try:
        groups = parameter_groups(model, [rule(pattern) for pattern in patterns], lr=0.1)
    except InputError:
        return
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert [g["name"] for g in groups] == patterns


# ------------------------------------------------------------------------------------------------------- by depth


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tf_efficientnet_lite0", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("exclude", [True, False])
def test_scales_are_timms(name, exclude):
    model = timm.create_model(name, num_classes=5)
    groups = parameter_groups(model, lr=0.02, weight_decay=0.05, layer_decay=0.7, weight_decay_exclude_1d=exclude)
    theirs = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.7, weight_decay_exclude_1d=exclude)
    names = {id(p): n for n, p in model.named_parameters()}
    expected = {names[id(p)]: 0.02 * g["lr_scale"] for g in theirs for p in g["params"]}
    assert rates(groups) == pytest.approx(expected, rel=1e-12)
    assert decays(groups) == {names[id(p)]: g["weight_decay"] for g in theirs for p in g["params"]}
    assert len(set(expected.values())) > 3


def test_timms_lr_scale_does_nothing_under_torch_and_ours_does():
    """The trap: timm's groups all step alike under a torch optimiser; ours step by their scales."""

    def steps(groups_of) -> tuple[float, float]:
        model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_heads=1, num_classes=5)
        before = copy.deepcopy(model.state_dict())
        optimizer = SGD(groups_of(model), lr=1.0)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved = {n: (before[n] - v).abs().mean().item() for n, v in model.state_dict().items()}
        return moved["patch_embed.proj.weight"], moved["head.weight"]

    first, last = steps(lambda model: param_groups_layer_decay(model, weight_decay=0.0, layer_decay=0.5))
    assert first == pytest.approx(last, rel=1e-6)
    first, last = steps(lambda model: parameter_groups(model, lr=1.0, layer_decay=0.5))
    assert (first, last) == (pytest.approx(0.5**3, rel=1e-5), pytest.approx(1.0, rel=1e-5))


def test_any_module_counts_its_children():
    """Three children have parameters; those without are no layers."""
    assert rates(parameter_groups(network(), lr=1.0, layer_decay=0.5)) == {
        "stem.weight": 0.25, "stem.bias": 0.25, "norm.weight": 0.5, "norm.bias": 0.5,
        "head.weight": 1.0, "head.bias": 1.0,
    }  # fmt: skip


def test_a_backbone_of_timm_within_a_module_keeps_its_layers():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(2))
            self.backbone = timm.create_model("resnet18", num_classes=0)
            self.head = nn.Linear(512, 3)

    net = Net()
    inner, outer = layer_numbers(net.backbone), layer_numbers(net)
    assert {n: outer[f"backbone.{n}"] for n in inner} == inner
    assert outer["token"] == 0
    assert outer["head.weight"] == max(inner.values()) + 1
    assert list(outer) == [n for n, _ in net.named_parameters()]


def test_wrappers_change_no_layer():
    wrapped = nn.Sequential(network())
    assert list(layer_numbers(wrapped).values()) == list(layer_numbers(network()).values()) == [0, 0, 1, 1, 2, 2]
    model = timm.create_model("resnet18", num_classes=3)
    compiled = torch.compile(model)
    assert list(layer_numbers(compiled).values()) == list(layer_numbers(model).values())


def test_a_shared_tensor_is_in_the_first_layer_that_has_it():
    model = network()
    model.tied = nn.Linear(3, 4).double()
    model.tied.weight = model.stem.weight
    assert layer_numbers(model)["stem.weight"] == 0
    assert "tied.weight" not in layer_numbers(model)


def test_rules_and_depth_multiply():
    rules = [rule("*.bias", lr_mult=2, weight_decay=0), rule("*")]
    groups = parameter_groups(network(), rules, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert rates(groups)["stem.bias"] == 0.5
    assert rates(groups)["head.weight"] == 1.0
    assert decays(groups)["head.bias"] == 0
    assert [g["name"] for g in groups][:3] == ["layer 0 *.bias", "layer 0 *", "layer 1 *.bias"]


def test_a_decay_that_a_rule_gives_holds_for_vectors_too():
    rules = [rule("stem.*", weight_decay=0.2), rule("*")]
    found = decays(parameter_groups(network(), rules, lr=1.0, weight_decay=0.1, weight_decay_exclude_1d=True))
    assert (found["stem.bias"], found["head.bias"], found["head.weight"]) == (0.2, 0, 0.1)


# --------------------------------------------------------------------------------------------------------- frozen


def test_frozen_parameters_are_left_out_and_named():
    model = network()
    model.stem.requires_grad_(False)
    groups = parameter_groups(model, [rule("stem.*"), rule("*")], lr=0.1)
    assert groups.frozen == ("stem.weight", "stem.bias")
    assert [g["name"] for g in groups] == ["*"]
    assert str(groups).endswith("frozen, in no group: 'stem.weight', 'stem.bias'")


def test_a_frozen_parameter_needs_no_rule_unless_it_is_kept():
    model = network()
    model.stem.requires_grad_(False)
    assert len(parameter_groups(model, [rule("norm.*"), rule("head.*")], lr=0.1)) == 2
    with pytest.raises(InputError, match=r"no rule matches 'stem.weight', 'stem.bias'"):
        parameter_groups(model, [rule("norm.*"), rule("head.*")], lr=0.1, keep_frozen=True)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("make", [lambda g: SGD(g, momentum=0.9), AdamW])
def test_frozen_means_bit_equal(keep, make):
    """Weight decay included, and even when the optimiser holds the frozen parameters."""
    model = network()
    model.stem.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    optimizer = make(parameter_groups(model, lr=0.1, weight_decay=0.5, keep_frozen=keep))
    for seed in range(5):
        optimizer.zero_grad()
        backward(model, seed)
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("stem.")


def test_what_is_kept_while_frozen_trains_once_it_is_thawed():
    model = network()
    model.stem.requires_grad_(False)
    groups = parameter_groups(model, lr=0.1, keep_frozen=True)
    assert "all (2 frozen)" in table(groups)
    optimizer, before = SGD(groups), model.stem.weight.clone()
    model.stem.requires_grad_(True)
    backward(model)
    optimizer.step()
    assert not torch.equal(model.stem.weight, before)


# ------------------------------------------------------------------------------------------------ what optimisers do


@pytest.mark.parametrize("make", [lambda g: SGD(g, momentum=0.9), AdamW])
def test_groups_step_as_one_optimiser_for_each_rate_would(make):
    """200 steps against separate optimisers, each with its own plain learning rate."""
    ours, theirs = network(), network()
    groups = parameter_groups(ours, [rule("stem.*", lr_mult=0.1), rule("*")], lr=0.01, weight_decay=0.02)
    one = make(groups)
    rest = [*theirs.norm.parameters(), *theirs.head.parameters()]
    several = [
        make([{"params": list(theirs.stem.parameters()), "lr": 0.01 * 0.1, "weight_decay": 0.02}]),
        make([{"params": rest, "lr": 0.01, "weight_decay": 0.02}]),
    ]
    for step in range(200):
        ours.zero_grad()
        theirs.zero_grad()
        backward(ours, step)
        backward(theirs, step)
        for optimizer in (one, *several):
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def scheduled(make, steps: int = 20) -> list[list[float]]:
    """Each group's rate before each step."""
    model = network()
    optimizer = AdamW(parameter_groups(model, lr=0.01, layer_decay=0.5))
    schedule = make(optimizer)
    seen = []
    for step in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=25),
        lambda optimizer: OneCycleLR(optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=25),
    ],
    ids=["lambda", "cosine", "one cycle"],
)
def test_schedules_keep_the_ratios(make):
    seen = scheduled(make)
    assert seen[0][2] != pytest.approx(seen[10][2], rel=0.01)
    for first, second, third in seen:
        assert (first / third, second / third) == pytest.approx((0.25, 0.5), rel=1e-9)


def test_one_cycle_with_one_rate_for_all_loses_them():
    """The trap that the module warns of."""
    assert all(len(set(rates)) == 1 for rates in scheduled(lambda optimizer: OneCycleLR(optimizer, 0.01, 25)))


def test_the_state_of_an_optimiser_goes_through_a_checkpoint(tmp_path):
    model = network()
    optimizer = AdamW(parameter_groups(model, lr=0.01, layer_decay=0.5))
    backward(model)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = AdamW(parameter_groups(model, lr=0.5, layer_decay=0.9))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert table(again.param_groups) == table(optimizer.param_groups)


def test_the_table_adds_up():
    groups = parameter_groups(network(), [rule("stem.*", lr_mult=0.1), rule("*", weight_decay=0.5)], lr=0.01)
    assert table(groups).splitlines() == [
        "group   tensors  parameters  lr     weight decay",
        "stem.*        2          16  0.001  0",
        "*             4          18  0.01   0.5",
    ]
    assert "group 0" in table(SGD(network().parameters(), lr=1).param_groups)


def test_a_rule_is_a_value():
    assert rule("a*", lr_mult=2, eps=1) == Rule("a*", 2, None, {"eps": 1})
