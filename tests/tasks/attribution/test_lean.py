"""The lean backward pass: the same scores to the bit, the gradients of torch's own."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from tasks.attribution.gradients import Gradients, class_score
from tasks.attribution.lean import LeanBackward


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation and frozen, its normalisations with statistics and weights that are not 0 and 1."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.3, 3)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module.eval().requires_grad_(False)


def both(module: nn.Module, x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """(output, gradient of a weighted sum of it), lean and as torch has it."""
    results = []
    for mode in (LeanBackward(), torch.enable_grad()):
        leaf = x.clone().requires_grad_()
        with mode:
            y = module(leaf)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        results.append((y.detach(), torch.autograd.grad((weights * y).sum(), leaf)[0]))
    return tuple(results)


class Residual(nn.Module):
    """One tensor, two users: a gradient that is changed in place would spoil the other's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU6(inplace=True))

    def forward(self, x):
        x = self.norm(x)
        return x + self.body(x) + functional.hardtanh(2 * x, -0.5, 0.25, inplace=True)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.BatchNorm1d(4), (5, 4)),
        (nn.BatchNorm1d(4), (5, 4, 7)),
        (nn.BatchNorm2d(4, affine=False), (2, 4, 3, 5)),
        (nn.BatchNorm3d(4), (2, 4, 3, 2, 2)),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU6(inplace=True), nn.Linear(4, 2)), (50, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(-1, 2, inplace=True)), (50, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU6(), nn.Hardtanh()), (50, 4)),
        (Residual(), (2, 3, 6, 6)),
    ],
)
def test_outputs_to_the_bit_and_gradients_to_rounding(module, shape):
    x = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lean, own = both(settled(module).double(), x)
    assert torch.equal(lean[0], own[0])
    torch.testing.assert_close(lean[1], own[1], rtol=1e-12, atol=1e-14)


def test_a_networks_gradients_are_torchs_and_its_scores_are_to_the_bit():
    net = settled(timm.create_model("tf_efficientnet_lite0", num_classes=3))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):  # else the scores of random weights are all but constant
            part.running_mean.zero_()
    net, x = net.to(memory_format=torch.channels_last), torch.rand(2, 3, 64, 64)
    targets = torch.tensor([2, 0])
    value, gradient = Gradients(class_score(net, targets))(x, torch.arange(2))
    leaf = x.clone().requires_grad_()
    own = net(leaf).gather(1, targets[:, None])[:, 0]
    assert torch.equal(value, own)
    expected = torch.autograd.grad(own.sum(), leaf)[0]
    assert expected.abs().max() > 0
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_still_learns_keeps_torchs_gradients():
    """A normalisation in training has gradients through its batch's statistics; a weight that learns has its own."""
    x = torch.randn(6, 4, dtype=torch.float64)
    for training in (True, False):
        layer = nn.BatchNorm1d(4).double().train(training)
        nn.init.uniform_(layer.weight, 0.5, 2)
        found = []
        for mode in (LeanBackward(), torch.enable_grad()):
            leaf = x.clone().requires_grad_()
            with mode:
                loss = layer(leaf).pow(3).sum()
            found.append(torch.autograd.grad(loss, [leaf, layer.weight, layer.bias]))
        for lean, own in zip(*found, strict=True):
            assert torch.equal(lean, own)


def test_the_mode_ends_with_its_block_even_after_a_failure():
    with pytest.raises(RuntimeError, match="shape"), LeanBackward():
        nn.Linear(3, 3)(torch.ones(2, 4))
    y = nn.BatchNorm1d(2).eval().requires_grad_(False)(torch.ones(1, 2, requires_grad=True))
    assert "NativeBatchNorm" in type(y.grad_fn).__name__
