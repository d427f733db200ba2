"""Integrated gradients against closed forms, independent quadrature and themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpmath import mp
from scipy.integrate import quad_vec
from torch import nn

from tasks.api import InputError
from tasks.attribution.gradients import Gradients, class_score
from tasks.attribution.integrated import METHODS, fixed, integrated_gradients
from tasks.attribution.quadrature import RULES, rule


def smooth_net(seed: int = 0, inputs: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 3)).double().requires_grad_(False)


def kinked_net(seed: int = 0, inputs: int = 12) -> nn.Module:
    """Piecewise linear: along a path the gradient is constant between kinks."""
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, 64), nn.ReLU6(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)]
    net = nn.Sequential(*layers).double().requires_grad_(False)
    for layer in layers[::2]:
        layer.weight.mul_(3)
    return net


def gradients_of(net, targets, rows: int = 64) -> Gradients:
    return Gradients(class_score(net, torch.as_tensor(targets)), rows)


def rand(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("n", [2, 3, 8, 33])
def test_rules_integrate_constants(name, n):
    nodes, weights = rule(name, n)
    assert len(nodes) == len(weights) == n
    assert abs(weights.sum() - 1) < 1e-14
    assert 0 <= nodes.min() <= nodes.max() <= 1


def test_rules_have_their_orders():
    """Errors on exp shrink by 2 (right end), 4 (midpoint, trapezoid) when steps halve; Gauss–Legendre is exact."""

    def error(name, n):
        nodes, weights = rule(name, n)
        return abs(weights @ np.exp(nodes) - np.expm1(1))

    assert error("right", 64) / error("right", 128) == pytest.approx(2, rel=0.02)
    assert error("midpoint", 64) / error("midpoint", 128) == pytest.approx(4, rel=0.02)
    assert error("trapezoid", 65) / error("trapezoid", 129) == pytest.approx(4, rel=0.02)
    assert error("midpoint", 64) / error("trapezoid", 65) == pytest.approx(0.5, rel=0.02)
    assert error("gausslegendre", 10) < 1e-14


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_gauss_legendre_is_exact_to_degree_2n_less_1_and_not_beyond(n):
    nodes, weights = rule("gausslegendre", n)
    error = [abs(weights @ nodes**k - 1 / (k + 1)) for k in range(2 * n + 1)]
    assert max(error[:-1]) < 1e-14
    assert error[-1] > 1e-12


def test_gauss_legendre_gains_digits_on_a_smooth_model_where_the_others_crawl():
    net, x = smooth_net(), 2 * rand(1, 5)
    base = torch.zeros_like(x)
    exact = float((net(x) - net(base))[0, 1])
    gap = {
        (name, n): abs(float(fixed(gradients_of(net, [1]), x, base, name, n).sum()) - exact) / abs(exact)
        for name, n in (("gausslegendre", 5), ("gausslegendre", 20), ("midpoint", 50), ("right", 50))
    }
    assert gap["gausslegendre", 20] < 1e-9
    assert gap["gausslegendre", 20] < gap["gausslegendre", 5] < gap["right", 50]
    assert gap["gausslegendre", 20] < gap["midpoint", 50] < gap["right", 50]


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_is_exact(method):
    weight, x, base = rand(4), rand(3, 4, seed=2), rand(3, 4, seed=3)
    found = integrated_gradients(Gradients(lambda rows, _: rows @ weight + 7), x, base, method=method)
    torch.testing.assert_close(found.maps, weight * (x - base), rtol=1e-12, atol=1e-12)
    assert found.reached.all()
    assert set(found.nodes.tolist()) == {9 if method == "adaptive" else 8}  # nothing to refine


def test_a_cubic_has_its_closed_form():
    """F = a²b from (0, 0): ∫ ∂_a F = 2ab/3 · α² …: a gets 2/3 of a²b, b gets 1/3."""
    x = torch.tensor([[2.0, 5.0], [-1.0, 3.0]], dtype=torch.float64)
    found = integrated_gradients(Gradients(lambda rows, _: rows[:, 0] ** 2 * rows[:, 1]), x, torch.zeros(1, 2).double())
    value = x[:, 0] ** 2 * x[:, 1]
    torch.testing.assert_close(found.maps, torch.stack([2 * value / 3, value / 3], 1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.change, value)


def test_each_coordinate_agrees_with_scipy():
    net, x, base = smooth_net(3), 3 * rand(1, 5, seed=5), rand(1, 5, seed=6)

    def gradient(alpha):
        point = (base + alpha * (x - base)).requires_grad_()
        return torch.autograd.grad(net(point)[0, 2], point)[0][0].numpy()

    expected, _ = quad_vec(gradient, 0, 1, epsabs=1e-12, epsrel=1e-12)
    found = integrated_gradients(gradients_of(net, [2]), x, base, method="gausslegendre", tolerance=1e-10, absolute=0)
    np.testing.assert_allclose(found.maps[0].numpy(), expected * (x - base)[0].numpy(), rtol=1e-8, atol=1e-10)
    found = integrated_gradients(gradients_of(net, [2]), x, base, tolerance=1e-7, absolute=0)
    np.testing.assert_allclose(found.maps[0].numpy(), expected * (x - base)[0].numpy(), rtol=1e-5, atol=1e-6)


def test_a_coordinate_agrees_with_mpmath():
    """F = sin(a)·exp(b), whose coordinates have no short closed form along the path."""
    a, b = 1.3, -0.7
    x = torch.tensor([[a, b]], dtype=torch.float64)
    found = integrated_gradients(
        Gradients(lambda rows, _: rows[:, 0].sin() * rows[:, 1].exp()), x, torch.zeros_like(x),
        method="gausslegendre", tolerance=1e-12, absolute=0,
    )  # fmt: skip
    first = a * mp.quad(lambda t: mp.cos(t * a) * mp.exp(t * b), [0, 1])
    second = b * mp.quad(lambda t: mp.sin(t * a) * mp.exp(t * b), [0, 1])
    assert found.maps[0].tolist() == pytest.approx([float(first), float(second)], rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_kinks_cost_gauss_legendre_its_speed_and_the_adaptive_rule_little(seed):
    net, x = kinked_net(seed), 3 * rand(8, 12, seed=seed)
    base, targets = torch.zeros_like(x), [k % 3 for k in range(8)]
    gradients = gradients_of(net, targets)
    found = integrated_gradients(gradients, x, base, tolerance=1e-3, max_nodes=4096)
    assert found.reached.all()
    assert found.relative.max() <= 1e-3
    assert gradients.evaluated == int(found.nodes.sum())
    assert gradients.forwarded == 0
    doubled = integrated_gradients(
        gradients_of(net, targets), x, base, method="gausslegendre", tolerance=1e-3, max_nodes=16384
    )
    assert found.nodes.sum() < doubled.nodes.sum()
    truth = fixed(gradients_of(net, targets, 4096), x, base, "midpoint", 20_000)
    assert (found.maps - truth).abs().max() < 0.02 * found.change.abs().max()


def test_items_that_are_done_leave_the_batch_and_every_gradient_is_counted():
    net, x = smooth_net(), rand(6, 5)
    x[3] *= 1e-3  # nearly linear: done at once
    for method in METHODS:
        gradients = gradients_of(net, [0] * 6)
        found = integrated_gradients(gradients, x, torch.zeros_like(x), method=method, tolerance=1e-4, absolute=0)
        assert gradients.evaluated == int(found.nodes.sum())
        assert found.nodes[3] == found.nodes.min()


@pytest.mark.parametrize("method", METHODS)
def test_an_item_is_explained_alike_alone_in_company_and_under_any_cap(method):
    net, x, targets = kinked_net(), 2 * rand(5, 12), [0, 1, 2, 0, 1]
    base = torch.zeros_like(x)
    whole = integrated_gradients(gradients_of(net, targets, 1000), x, base, method=method, max_nodes=256)
    for rows in (1, 7, 24):
        capped = integrated_gradients(gradients_of(net, targets, rows), x, base, method=method, max_nodes=256)
        torch.testing.assert_close(capped.maps, whole.maps, rtol=1e-6, atol=1e-9)
        assert capped.nodes.tolist() == whole.nodes.tolist()
    for item in range(5):
        alone = integrated_gradients(
            gradients_of(net, [targets[item]]), x[item : item + 1], base[:1], method=method, max_nodes=256
        )
        torch.testing.assert_close(alone.maps[0], whole.maps[item], rtol=1e-6, atol=1e-9)
        assert alone.nodes[0] == whole.nodes[item]


def test_no_more_rows_at_once_than_the_cap():
    seen = []

    def score(rows, _):
        seen.append(len(rows))
        return rows.pow(3).sum(1)

    for method in METHODS:
        integrated_gradients(Gradients(score, 5), rand(7, 3), torch.zeros(1, 3).double(), method=method)
    assert max(seen) == 5


def test_the_most_nodes_are_not_exceeded_and_what_is_not_reached_is_said():
    net, x = kinked_net(), 3 * rand(4, 12)
    for method in METHODS:
        found = integrated_gradients(
            gradients_of(net, [0] * 4), x, torch.zeros_like(x), method=method, tolerance=1e-9, absolute=0, max_nodes=60
        )
        assert found.nodes.max() <= 60
        assert not found.reached.all()


def test_a_score_that_does_not_change_is_decided_by_the_absolute_tolerance_and_said():
    x = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    found = integrated_gradients(Gradients(lambda rows, _: rows.sum(1)), x, torch.zeros_like(x))
    assert found.tiny.tolist() == [True, False]
    assert found.reached.tolist() == [True, True]
    assert found.relative[0] == 0  # nothing left of nothing
    assert found.relative[1] < 1e-15


def test_errors_that_cancel_are_not_taken_for_convergence():
    """A gradient whose slope jumps alike on both halves: Simpson's gaps cancel, the panels' own do not."""

    class Bent(nn.Module):
        def forward(self, rows):
            t = rows[:, 0]
            return (
                t
                + 5 * (torch.sin(16 * torch.pi * t) / 16)[:] * (t < 0.5)
                - 5 * (torch.sin(16 * torch.pi * t) / 16) * (t >= 0.5)
            )

    net = Bent()
    found = integrated_gradients(Gradients(lambda rows, _: net(rows)), torch.ones(1, 1).double(),
                                 torch.zeros(1, 1).double())  # fmt: skip
    assert found.nodes[0] > 9


def test_bad_input_is_refused_with_what_it_is():
    score, x = Gradients(lambda rows, _: rows.flatten(1).sum(1)), torch.ones(2, 3, 8, 8)
    with pytest.raises(InputError, match=r"tolerance=0: .* above 0"):
        integrated_gradients(score, x, x, tolerance=0)
    with pytest.raises(InputError, match=r"inputs are \(2, 3, 8, 8\) and baselines \(2, 3, 9, 9\)"):
        integrated_gradients(score, x, torch.zeros(2, 3, 9, 9))
    with pytest.raises(InputError, match="one baseline or 2"):
        integrated_gradients(score, x, torch.zeros(3, 3, 8, 8))
    with pytest.raises(InputError, match="nothing to explain"):
        integrated_gradients(score, x[:0], x[:0])
    with pytest.raises(InputError, match="no method 'simpson'"):
        integrated_gradients(score, x, x, method="simpson")
    with pytest.raises(ValueError, match="max_rows must be 1 or more"):
        Gradients(score.score, 0)


def test_gradients_that_are_no_numbers_are_reported_with_their_item():
    x = torch.tensor([[1.0], [4.0]])
    with pytest.raises(InputError, match=r"gradient of the score is NaN or infinite on the path of item 0"):
        integrated_gradients(Gradients(lambda rows, _: rows.sqrt().sum(1)), x, torch.zeros_like(x))
    with pytest.raises(InputError, match=r"the score is NaN or infinite on the path of item 1"):
        integrated_gradients(Gradients(lambda rows, i: rows.sum(1) / (1 - i)), x, torch.zeros_like(x))


@pytest.mark.parametrize(("kind", "of"), [("log_probability", lambda s: s.log_softmax(1)),
                                          ("probability", lambda s: s.softmax(1))])  # fmt: skip
def test_scores_of_a_class(kind, of):
    net, x = smooth_net(), rand(3, 5)
    items = torch.tensor([2, 0])
    got = class_score(net, torch.tensor([0, 1, 2]), kind)(x[items], items)
    torch.testing.assert_close(got, of(net(x))[items, items])
