"""The head of the recipe and its loss, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.dogs import DogParams
from tasks.dogs.heads import CONTEST_WIDTH, Head, Scaling, centre_loss, make_head, objective

RECIPE = DogParams(head="glu", hidden=8, aux_weight=0.25, centre_weight=0.5, dropout=0, label_smoothing=0, batch_size=4)


def test_the_heads_start_and_gate_as_written():
    features = torch.randn(5, 12)
    assert torch.equal(Head("linear", 12, 3, 8, 0.0)(features).scores, torch.zeros(5, 3))
    head = Head("glu", 12, 3, 8, 0.0)
    a, b = head.gate[0](features).split(8, dim=1)
    assert torch.allclose(head(features).hidden, a * torch.sigmoid(b))
    spread = math.sqrt(6 / (8 + 3))  # Glorot's
    assert 0.9 * spread < head.scores.weight.abs().max() <= spread
    assert not head.scores.bias.any()


def test_the_auxiliary_head_sees_the_features_and_not_the_gate():
    head = make_head(RECIPE, 12, 3)
    head.auxiliary.weight.data.normal_()
    features = torch.randn(5, 12)
    assert torch.allclose(head(features).auxiliary, features @ head.auxiliary.weight.T + head.auxiliary.bias)


@pytest.mark.parametrize("params", [{"head": "linear"}, {"aux_weight": 0, "centre_weight": 0}])
def test_without_their_weights_there_are_no_further_heads(params):
    head = make_head(RECIPE.model_copy(update=params), 12, 3)
    assert (head.auxiliary, head.centres) == (None, None)
    assert sorted(name.split(".")[0] for name, _ in head.named_parameters()) == sorted(
        ["scores", "scores"] + ["gate"] * (2 if params.get("head") != "linear" else 0)
    )


@pytest.mark.parametrize(("scaled", "learns"), [(True, True), (False, False)])
def test_scaled_features_keep_the_centre_loss_from_pulling_all_classes_together(scaled, learns):
    """At the contest's weight, on features with a large part in common, as those behind a ReLU are."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 10
    features = 10 + torch.randn(10, 256)[labels] + torch.randn(400, 256)
    read = Scaling(features) if scaled else torch.nn.Identity()
    params = RECIPE.model_copy(update={"hidden": 64, "centre_weight": 0.25, "aux_weight": 0.0})
    head = make_head(params, 256, 10)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (objective(params, head, head(read(features)), labels) / 400).backward()
        optimizer.step()
    right = (head(read(features)).scores.argmax(1) == labels).float().mean()
    assert right > 0.95 if learns else right < 0.2


def test_the_gradient_of_the_centre_loss_is_the_closed_form():
    """∂/∂g = 2·64/h·(g − C_y); ∂/∂C_c = −Σ of those of its photos, 0 for a class without one."""
    g = torch.randn(6, 8, requires_grad=True)
    centres = torch.randn(4, 8, requires_grad=True)
    y = torch.tensor([0, 2, 2, 1, 0, 2])
    loss = centre_loss(g, centres, y)
    loss.backward()
    scale = CONTEST_WIDTH / 8
    away = 2 * scale * (g - centres[y]).detach()
    assert float(loss.detach()) == pytest.approx(float((away / 2).square().sum() / scale), rel=1e-5)
    assert torch.allclose(g.grad, away, atol=1e-5)
    assert torch.allclose(centres.grad, torch.stack([-away[y == c].sum(0) for c in range(4)]), atol=1e-5)


def test_a_mixed_photo_is_drawn_to_its_classes_by_their_shares():
    g, centres, y = torch.randn(5, 8), torch.randn(3, 8), torch.tensor([0, 1, 2, 1, 0])
    hard = torch.nn.functional.one_hot(y, 3).float()
    assert torch.allclose(centre_loss(g, centres, hard), centre_loss(g, centres, y), rtol=1e-5)
    mixed = 0.3 * hard + 0.7 * hard.flip(0)
    expected = 0.3 * centre_loss(g, centres, y) + 0.7 * centre_loss(g, centres, y.flip(0))
    assert torch.allclose(centre_loss(g, centres, mixed), expected, rtol=1e-5)


def test_the_objective_is_the_sum_of_its_parts_over_photos():
    head = make_head(RECIPE, 12, 3)
    features, y = torch.randn(4, 12), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        head.auxiliary.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
        head.scores.weight.zero_()
        loss = float(objective(RECIPE, head, head(features), y))
        hidden = head(features).hidden
    chance = math.log(3) * 4  # the head's own scores are 0
    p = torch.tensor([1.0, 0.0, -1.0]).softmax(0)
    auxiliary = -float(p[y].log().sum())
    assert loss == pytest.approx(chance + 0.25 * auxiliary + 0.5 * float(hidden.square().sum()) * 8, rel=1e-5)


def test_halves_of_precision_do_not_overflow_the_distance():
    hidden = torch.full((2, 8), 300.0, dtype=torch.bfloat16)
    assert torch.isfinite(centre_loss(hidden, torch.zeros(3, 8), torch.tensor([0, 1])))
