"""The loss of the energy net: the explicit gradient against autograd, the penalty in closed form, entropy estimates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tasks.ebgan.analysis import analysis_gradients, analysis_loss, energy_and_gradient, squared_norm
from tasks.ebgan.networks import MlpEnergy, PictureEnergy, PictureGenerator, Statistics, make_energy
from tasks.ebgan.params import EbganParams
from tasks.ebgan.update import mutual_information

NETS = [
    {"inputs": 2, "width": 7, "depth": 1},
    {"inputs": 2, "width": 9, "depth": 2, "scale": 3.0, "confinement": 0.7},
    {"inputs": 6, "width": 8, "depth": 3, "confinement": 1.3},
]


@pytest.fixture(params=NETS, ids=lambda net: f"depth {net['depth']}")
def energy(request):
    torch.manual_seed(0)
    return MlpEnergy(**request.param).double()


def both(energy, n=11):
    return torch.randn(n, energy.inputs).double(), 1.5 * torch.randn(n, energy.inputs).double()


def test_the_explicit_gradient_is_autograds(energy):
    real, fake = both(energy)
    loss = analysis_loss(energy, real, fake, 0.37)
    wanted = torch.autograd.grad(loss.loss, list(energy.parameters()), allow_unused=True)
    found = analysis_gradients(energy, real, fake, 0.37)
    assert found.loss.item() == pytest.approx(loss.loss.item(), rel=1e-12)
    for parameter, gradient in zip(energy.parameters(), wanted, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        assert torch.allclose(parameter.grad, gradient, rtol=1e-10, atol=1e-13)


def test_energy_and_gradient_are_autograds(energy):
    x, _ = both(energy)
    values, gradient = energy_and_gradient(energy, x)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    assert torch.allclose(values, energy(x))
    assert torch.allclose(gradient, wanted)


def test_the_penalty_of_a_parabola_is_known():
    """With f = 0 and U = ½κ‖x‖² it is κ² E‖x‖²."""
    energy = MlpEnergy(3, 4, 2, confinement=2.0)
    for parameter in energy.parameters():
        nn.init.zeros_(parameter)
    real, fake = torch.randn(50, 3), torch.randn(50, 3)
    found = analysis_gradients(energy, real, fake, 0.5)
    assert found.penalty.item() == pytest.approx(4 * real.square().sum(1).mean().item(), rel=1e-5)
    assert found.real.item() == pytest.approx(real.square().sum(1).mean().item(), rel=1e-5)
    assert found.loss.item() == pytest.approx((found.real - found.fake + 0.5 * found.penalty).item(), rel=1e-6)


def test_the_two_readings_of_the_norm_differ_by_the_number_of_pixels():
    gradient = torch.randn(5, 3, 8, 8)
    whole, pixel = squared_norm(gradient, "image"), squared_norm(gradient, "pixel")
    assert torch.allclose(whole, gradient.flatten(1).norm(dim=1) ** 2)
    assert torch.allclose(pixel * 64, whole)
    energy = PictureEnergy(3, 8, 4, spectral=False)
    real, fake = torch.randn(2, 6, 3, 8, 8)
    assert analysis_loss(energy, real, fake, 64.0, "pixel").loss.item() == pytest.approx(
        analysis_loss(energy, real, fake, 1.0, "image").loss.item(), rel=1e-5
    )


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_spectral_norm_makes_each_layer_no_steeper_than_one(shape):
    torch.manual_seed(0)
    params = EbganParams(spectral_norm=True, input_scale=1.0, confinement=0.0, width=16, channels=4)
    energy = make_energy(params, shape)
    real, fake = torch.randn(2, 32, *shape)
    optimizer = torch.optim.SGD(energy.parameters(), 0.5)
    for _ in range(100):
        analysis_gradients(energy, real, fake, 0.0)  # without a penalty U would fall without end
        optimizer.step()
    linear = [module for module in energy.modules() if isinstance(module, nn.Linear)]
    assert linear
    for layer in linear:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 28), (3, 32)])
def test_pictures_come_out_as_they_go_in(channels, side):
    torch.manual_seed(0)
    pictures = PictureGenerator(5, channels, side, 4)(torch.randn(3, 5))
    assert pictures.shape == (3, channels, side, side)
    assert bool((pictures.abs() <= 1).all())
    assert PictureEnergy(channels, side, 4, False)(pictures).shape == (3,)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in PictureEnergy(channels, side, 4, False).modules())


def test_estimates_of_the_entropy_at_known_points():
    z, apart = torch.randn(2, 400, 3)
    blind = Statistics(nn.Identity(), 3, 3, 8, spectral=False)
    for parameter in blind.parameters():
        nn.init.zeros_(parameter)
    assert mutual_information(blind, z, z, apart).item() == pytest.approx(-2 * math.log(2))  # T = 0 knows nothing
    assert mutual_information(nn.Identity(), z, z, apart).item() == 0  # an encoder that is right
    shifted = mutual_information(nn.Identity(), z + 1, z, apart, weight=2.0)
    assert shifted.item() == pytest.approx(-2 * 3, rel=1e-5)
    assert mutual_information(None, z, z, apart).item() == 0


def test_the_js_estimate_reaches_the_divergence_it_bounds():
    """With T = ln p(x, z) / p(x)p(z) it is 2·JSD − 2 ln 2, here of x = z against x, z apart, by quadrature."""
    rho = 0.9
    z = torch.randn(200_000, 1, dtype=torch.float64)
    x = rho * z + math.sqrt(1 - rho**2) * torch.randn_like(z)

    class Ratio(Statistics):
        def __init__(self):
            nn.Module.__init__(self)

        def see(self, x):
            return x

        def scores(self, seen, z):
            square = (seen**2 + z**2) * rho**2 - 2 * rho * seen * z
            return (-square / (2 * (1 - rho**2))).squeeze(1) - 0.5 * math.log(1 - rho**2)

    best = mutual_information(Ratio(), x, z, z.roll(1, 0)).item()

    class Half(Ratio):
        def scores(self, seen, z):
            return 0.5 * super().scores(seen, z)

    assert best > mutual_information(Half(), x, z, z.roll(1, 0)).item()
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    apart = torch.exp(-(a**2 + b**2) / 2) / (2 * math.pi)
    together = apart * Ratio().scores(a.reshape(-1, 1), b.reshape(-1, 1)).view_as(a).exp()
    middle = (apart + together) / 2
    jsd = 0.5 * (torch.xlogy(apart, apart / middle) + torch.xlogy(together, together / middle)).nansum() * 0.01**2
    assert best == pytest.approx(2 * jsd.item() - 2 * math.log(2), abs=0.01)
