"""Attribution at an embedding layer: completeness there, and why the scaled product fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.api import InputError
from tasks.attribution.gradients import Gradients
from tasks.attribution.integrated import fixed, integrated_gradients
from tasks.attribution.layers import find_layer, layer_output, layer_score
from tasks.attribution.quadrature import rule


class Reader(nn.Module):
    """Tokens (n, length) → class scores (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.ModuleDict({"embedding": nn.Embedding(20, 6)})
        self.mix = nn.Linear(6, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, tokens):
        return self.out(torch.tanh(self.mix(self.words["embedding"](tokens))).mean(1))


TOKENS = torch.tensor([[3, 5, 7, 1], [2, 2, 19, 0]])


@pytest.fixture
def reader():
    return Reader().double().requires_grad_(False)


def explained(reader, baseline):
    at = layer_output(reader, "words.embedding", TOKENS)
    score = layer_score(reader, "words.embedding", TOKENS, lambda output, items: output[:, 1])
    return at, integrated_gradients(Gradients(score, 5), at, baseline(at), tolerance=1e-6, absolute=0)


def test_tokens_add_up_to_the_change_of_the_score(reader):
    at, found = explained(reader, torch.zeros_like)
    assert at.shape == (2, 4, 6)
    torch.testing.assert_close(found.maps.sum((1, 2)), found.change, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.change[0], reader(TOKENS)[0, 1] - reader.out(torch.tanh(reader.mix.bias))[1])


def test_the_baseline_may_be_another_text(reader):
    padding = torch.zeros_like(TOKENS)
    _, found = explained(reader, lambda _: layer_output(reader, "words.embedding", padding))
    torch.testing.assert_close(found.change, reader(TOKENS)[:, 1] - reader(padding)[:, 1])
    torch.testing.assert_close(found.maps.sum((1, 2)), found.change, rtol=1e-6, atol=1e-9)
    assert found.maps[1, 3].abs().max() == 0  # token 0 is the padding itself


def test_the_product_with_the_scaled_embedding_does_not_add_up():
    """On a linear reader it gives exactly half: ∫ α dα."""
    embedding, weight = torch.tensor([[1.0, 2.0, -0.5]]), torch.tensor([0.5, -1.0, 4.0])
    score = Gradients(lambda rows, _: rows @ weight)
    nodes, weights = rule("gausslegendre", 16)
    items = torch.zeros(16, dtype=torch.int64)
    scaled = torch.as_tensor(nodes, dtype=torch.float32)[:, None] * embedding
    _, gradient = score(scaled, items)
    post = (torch.as_tensor(weights, dtype=torch.float32)[:, None] * gradient * scaled).sum()
    change = embedding @ weight
    assert float(post) == pytest.approx(float(change) / 2, rel=1e-5)
    ours = fixed(score, embedding, torch.zeros_like(embedding), "gausslegendre", 16).sum()
    assert float(ours) == pytest.approx(float(change), rel=1e-5)


def test_the_hook_is_gone_afterwards_even_after_a_failure(reader):
    before = reader(TOKENS)
    explained(reader, torch.zeros_like)
    with pytest.raises(RuntimeError):
        layer_score(reader, "mix", TOKENS, lambda output, items: output[:, 1])(torch.zeros(2, 4, 5).double(),
                                                                              torch.arange(2))  # fmt: skip
    assert torch.equal(reader(TOKENS), before)
    assert not reader.mix._forward_hooks


def test_a_layer_that_does_not_exist_is_told_with_near_ones(reader):
    with pytest.raises(InputError, match=r"no layer 'words\.embeding'; near it: words\.embedding"):
        find_layer(reader, "words.embeding")
    with pytest.raises(InputError, match=r"no layer 'embedding'; near it: .*words\.embedding"):
        layer_output(reader, "embedding", TOKENS)
    with pytest.raises(InputError, match=r"no layer 'zzz'; it has words"):
        layer_score(reader, "zzz", TOKENS, lambda output, items: output[:, 1])
    with pytest.raises(InputError, match="no layer ''"):
        find_layer(reader, "")


def test_a_layer_that_runs_twice_or_never_is_refused():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(self.used(x))

    for name, times in (("used", 2), ("unused", 0)):
        with pytest.raises(InputError, match=f"'{name}' ran {times} times"):
            layer_score(Twice(), name, torch.ones(1, 3), lambda out, items: out[:, 0])(
                torch.ones(1, 3), torch.tensor([0])
            )
