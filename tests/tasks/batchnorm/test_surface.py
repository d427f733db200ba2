"""Probes: right on surfaces known in closed form, and leaving no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from tasks.batchnorm import ARMS
from tasks.batchnorm.networks import make_network, weights_of
from tasks.batchnorm.stability import largest_stable, trains
from tasks.batchnorm.surface import CAP, Surface, covariate_shift, layer_spread, look_along, top_eigenvalue


def small(arm: str, kind: str = "mlp", width: int = 4):
    torch.manual_seed(0)
    shape = (1, 8, 8) if kind == "vgg" else (6,)
    network = make_network(kind, arm, "after", shape, 3, width, 3)
    return network, torch.randn(16, *shape), torch.randint(3, (16,))


def regression(n: int = 40, d: int = 5):
    """½E(w·x − t)²: the Hessian is E[xxᵀ] everywhere."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=random, dtype=torch.float64) + 1
    network = nn.Sequential(nn.Linear(d, 1, bias=False).double())
    surface = Surface(network, lambda a, b: mse_loss(a, b) / 2, x, torch.zeros(n, 1, dtype=torch.float64))
    return surface, x.T @ x / n


@pytest.mark.parametrize(("arm", "kind"), [*((arm, "mlp") for arm in ARMS), ("batch", "vgg")])
def test_lanczos_agrees_with_the_dense_hessian(arm, kind):
    network, x, y = small(arm, kind, width=2 if kind == "vgg" else 4)
    surface = Surface(network.double(), cross_entropy, x.double(), y)
    seed = torch.get_rng_state()
    dense = torch.autograd.functional.hessian(surface.loss, surface.here)
    torch.set_rng_state(seed)
    torch.testing.assert_close(dense, dense.T)
    assert top_eigenvalue(surface, tolerance=1e-6) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-4)


def test_the_landscape_of_linear_regression_is_known():
    surface, hessian = regression()
    loss, gradient = surface.gradient(surface.here)
    assert loss == pytest.approx(float(surface.here @ hessian @ surface.here / 2))
    seen = look_along(surface, gradient, 0.1)
    for a, moved, change, beta in zip(np.geomspace(0.5, 4, 6), seen.losses, seen.changes, seen.betas, strict=True):
        there = surface.here - a * 0.1 * gradient
        assert moved == pytest.approx(float(there @ hessian @ there / 2))
        assert change == pytest.approx(float((a * 0.1 * hessian @ gradient).norm()))
        assert beta == pytest.approx(float((hessian @ gradient).norm() / gradient.norm()))
    assert seen.beta <= float(torch.linalg.eigvalsh(hessian)[-1]) * (1 + 1e-9)
    assert seen.loss_range == max(seen.losses) - min(seen.losses)
    assert top_eigenvalue(surface) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


def test_beyond_what_numbers_hold_the_landscape_is_capped():
    network, x, _ = small("none")
    surface = Surface(network, mse_loss, x * 1e6, torch.randn(16, 3))
    _, gradient = surface.gradient(surface.here)
    seen = look_along(surface, gradient, 1e30)
    assert (seen.loss_range, seen.gradient_change) == (CAP - min(seen.losses), CAP)
    assert math.isfinite(seen.beta)
    broken = Surface(network, mse_loss, x * math.inf, torch.randn(16, 3))
    assert math.isnan(top_eigenvalue(broken))


def test_covariate_shift_is_the_gradients_change_when_the_layers_before_are_updated():
    """Two scalar weights, L = ½(vwx)²: ∂L/∂v = v(wx)², so that after w' = w − lr·v²wx² it is v(w'x)²."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    x = torch.tensor([[2.0]], dtype=torch.float64)
    surface = Surface(network, lambda a, b: mse_loss(a, b) / 2, x, torch.zeros_like(x))
    _, gradient = surface.gradient(surface.here)
    w, v = surface.here.tolist()
    moved = w - 0.1 * v**2 * w * 4
    distance, cosine = covariate_shift(surface, gradient, 0.1, weights_of(network))
    assert distance == pytest.approx(abs(v * 4 * (moved**2 - w**2)))
    assert cosine == pytest.approx(1.0)
    assert covariate_shift(surface, gradient, 0.1, ["0.weight"]) == (0.0, 1.0)  # nothing lies before it
    ratios = [abs(gradient[0].item() / w), abs(gradient[1].item() / v)]
    assert layer_spread(surface, gradient, weights_of(network)) == pytest.approx(np.std(np.log(ratios)))


@pytest.mark.parametrize("arm", ARMS)
def test_probes_leave_no_trace(arm):
    network, x, y = small(arm, "vgg")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    cross_entropy(network(x), y).backward()
    optimizer.step()
    network.eval()
    network[1].train()  # a mixture of modes, too
    kept = {
        "state": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "gradients": [p.grad.clone() for p in network.parameters()],
        "momenta": [value["momentum_buffer"].clone() for value in optimizer.state.values()],
        "rng": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),
        "modes": [module.training for module in network.modules()],
    }
    surface = Surface(network, cross_entropy, x, y)
    _, gradient = surface.gradient(surface.here)
    look_along(surface, gradient, 0.1)
    top_eigenvalue(surface)
    covariate_shift(surface, gradient, 0.1, weights_of(network))
    layer_spread(surface, gradient, weights_of(network))
    largest_stable(lambda lr: trains(network, cross_entropy, [(x, y)] * 3, lr))
    state = network.state_dict()
    assert state.keys() == kept["state"].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in kept["state"].items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), kept["gradients"], strict=True))
    momenta = [value["momentum_buffer"] for value in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(momenta, kept["momenta"], strict=True))
    assert torch.equal(torch.get_rng_state(), kept["rng"])
    assert np.array_equal(np.random.get_state()[1], kept["numpy"])
    assert [module.training for module in network.modules()] == kept["modes"]


def test_noise_is_the_same_at_every_point_of_a_surface():
    network, x, y = small("noisy")
    surface = Surface(network, cross_entropy, x, y)
    assert surface.gradient(surface.here)[0] == surface.gradient(surface.here)[0]
    first = surface.gradient(surface.here)[0]
    torch.rand(1)
    assert surface.gradient(surface.here)[0] != first  # at the next step it is another


def test_what_trains_is_told_from_what_does_not():
    network, x, y = small("none")
    assert trains(network, cross_entropy, [(x, y)] * 20, 0.05)
    assert not trains(network, cross_entropy, [(x, y)] * 20, 1e6)
    assert not trains(network, cross_entropy, [(x, y)] * 20, -0.05)
