"""The loss against closed forms, its two forms against each other, and timm's."""

from __future__ import annotations

import math

import pytest
import timm.loss
import torch
from torch.func import grad, jacrev, vmap

from tasks.multilabel.zlpr import zlpr_loss, zlpr_loss_sparse

DOUBLE = torch.float64


@pytest.fixture
def drawn():
    """Scores (6, 9) in float64, targets with rows of none and all, and the same as padded indices."""
    rng = torch.Generator().manual_seed(5)
    scores = 4 * torch.randn(6, 9, generator=rng, dtype=DOUBLE)
    holds = torch.rand(6, 9, generator=rng) < 0.4
    holds[0], holds[1] = False, True
    return scores, holds, indices(holds)


def indices(holds, padding=-1):
    return torch.where(holds, torch.arange(holds.shape[-1]), padding)


def written_out(scores, targets, threshold=0.0, mask=None):
    """The formula with sums of exponentials, one row at a time."""
    rows = []
    counts = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    for s, t, m in zip(scores, targets.to(scores.dtype), counts, strict=True):
        s, t = s[m], t[m]
        negative, positive = ((1 - t) * s.exp()).sum(), (t * (-s).exp()).sum()
        if threshold is None:
            rows.append(torch.log(1 + negative * positive))
        else:
            rows.append(torch.log(math.exp(threshold) + negative) + torch.log(math.exp(-threshold) + positive))
    return torch.stack(rows)


def test_one_positive_and_no_threshold_is_softmax_cross_entropy():
    scores, label = torch.randn(50, 20, dtype=DOUBLE), torch.randint(20, (50,))
    wanted = torch.nn.functional.cross_entropy(scores, label)
    torch.testing.assert_close(zlpr_loss_sparse(scores, label[:, None], threshold=None), wanted, rtol=0, atol=1e-14)
    holds = torch.nn.functional.one_hot(label, 20)
    torch.testing.assert_close(zlpr_loss(scores, holds, threshold=None), wanted, rtol=0, atol=1e-14)


def test_two_classes_without_a_threshold_are_a_logistic_regression_of_their_difference():
    scores = torch.randn(50, 2, dtype=DOUBLE)
    wanted = torch.nn.functional.softplus(scores[:, 1] - scores[:, 0])
    holds = torch.tensor([True, False]).expand(50, 2)
    torch.testing.assert_close(zlpr_loss(scores, holds, threshold=None, reduction="none"), wanted)


def test_one_label_is_a_logistic_regression_of_its_distance_from_the_threshold():
    scores, holds = torch.randn(50, 1, dtype=DOUBLE), torch.rand(50, 1) < 0.5
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(scores - 0.7, holds.double())
    torch.testing.assert_close(zlpr_loss(scores, holds, threshold=0.7), wanted)


@pytest.mark.parametrize("threshold", [0.0, 1.3, -2.0, None])
def test_hard_soft_and_sparse_are_the_formula(drawn, threshold):
    scores, holds, positives = drawn
    wanted = written_out(scores, holds, threshold)
    for got in (
        zlpr_loss(scores, holds, threshold=threshold, reduction="none"),
        zlpr_loss(scores, holds.double(), threshold=threshold, reduction="none"),
        zlpr_loss_sparse(scores, positives, threshold=threshold, reduction="none"),
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    soft = torch.rand(6, 9, dtype=DOUBLE)
    soft[2, 3], soft[2, 4] = 0, 1
    got = zlpr_loss(scores, soft, threshold=threshold, reduction="none")
    torch.testing.assert_close(got, written_out(scores, soft, threshold), rtol=0, atol=1e-12)


def test_dense_and_sparse_have_the_same_gradient(drawn):
    scores, holds, positives = drawn
    mask = torch.rand(6, 9) < 0.7
    of_dense = grad(lambda s: zlpr_loss(s, holds, mask=mask))(scores)
    of_sparse = grad(lambda s: zlpr_loss_sparse(s, positives, mask=mask))(scores)
    torch.testing.assert_close(of_dense, of_sparse, rtol=0, atol=1e-14)
    assert (of_dense[~mask] == 0).all()


def test_sparse_does_not_cancel_where_the_positives_score_high():
    """log(Σ_all) less the positives' part would be log 0 in float32: 1 + e⁻⁵ is lost beside e³⁰."""
    scores = torch.tensor([[30.0, -5.0]])
    got = zlpr_loss_sparse(scores, torch.tensor([[0]]))
    torch.testing.assert_close(got.double(), torch.tensor(math.log1p(math.exp(-5)), dtype=DOUBLE), rtol=1e-6, atol=0)


def test_soft_optimum_is_the_sigmoid_of_twice_the_score():
    targets = torch.tensor([[0.9, 0.5, 0.2, 0.01]], dtype=DOUBLE)
    for threshold in (0.0, 0.8):
        at = threshold + targets.logit() / 2
        slope = grad(lambda s, t=threshold: zlpr_loss(s, targets, threshold=t))(at)
        assert slope.abs().max() < 1e-15
    away = grad(lambda s: zlpr_loss(s, targets))(targets.logit())
    assert away.abs().max() > 0.01  # t = σ(s) is not


@pytest.mark.parametrize("threshold", [0.0, 0.6, None])
@pytest.mark.parametrize("masked", [False, True])
def test_first_and_second_derivatives(drawn, threshold, masked):
    scores, holds, positives = drawn
    scores = (scores / 2).requires_grad_()
    mask = torch.tensor([[True] * 7 + [False] * 2]).repeat(6, 1) if masked else None
    if masked:
        mask[3] = False
    soft = torch.rand(6, 9, dtype=DOUBLE)
    for function in (
        lambda s: zlpr_loss(s, holds, threshold=threshold, mask=mask, reduction="none"),
        lambda s: zlpr_loss(s, soft, threshold=threshold, mask=mask, reduction="none"),
        lambda s: zlpr_loss_sparse(s, positives, threshold=threshold, mask=mask, reduction="none"),
    ):
        assert torch.autograd.gradcheck(function, (scores,))
        assert torch.autograd.gradgradcheck(function, (scores,))


def test_the_first_derivative_without_a_graph_is_the_one_with_it(drawn):
    scores, holds, positives = drawn
    scores.requires_grad_()
    for loss in (zlpr_loss(scores, holds), zlpr_loss_sparse(scores, positives)):
        (plain,) = torch.autograd.grad(loss, scores, retain_graph=True)
        (through,) = torch.autograd.grad(loss, scores, create_graph=True)
        torch.testing.assert_close(plain, through, rtol=0, atol=1e-14)


def test_a_threshold_can_be_learnt_one_for_each_row(drawn):
    scores, holds, _ = drawn
    threshold = torch.randn(6, dtype=DOUBLE, requires_grad=True)
    got = zlpr_loss(scores, holds, threshold=threshold, reduction="none")
    wanted = [written_out(scores[i : i + 1], holds[i : i + 1], t.item())[0] for i, t in enumerate(threshold)]
    torch.testing.assert_close(got, torch.stack(wanted))
    assert torch.autograd.gradcheck(lambda t: zlpr_loss(scores, holds, threshold=t), (threshold,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [0.0, None])
def test_finite_and_right_at_ten_thousand(dtype, threshold):
    """Scores of ±10⁴, right and wrong: the loss is 0, or the sum of the two worst; gradients are shares."""
    right = torch.tensor([[1e4, -1e4, -1e4]], dtype=dtype, requires_grad=True)
    wrong = torch.tensor([[-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    holds, high = torch.tensor([[True, False, False]]), float(torch.tensor(1e4, dtype=dtype))
    for form, targets in ((zlpr_loss, holds), (zlpr_loss, holds.half() * 0.5 + 0.25), (zlpr_loss_sparse, [[0, -1]])):
        given = torch.tensor(targets) if form is zlpr_loss_sparse else targets
        for scores in (right, wrong):
            loss = form(scores, given, threshold=threshold)
            (slope,) = torch.autograd.grad(loss, scores)
            assert loss.isfinite()
            assert loss.dtype == torch.float32
            assert slope.isfinite().all()
            assert slope.dtype == dtype
            if given.is_floating_point():
                continue
            assert loss.item() == pytest.approx(0 if scores is right else 2 * high, abs=2)
            wanted = [[0, 0, 0]] if scores is right else [[-1, 0.5, 0.5]]
            torch.testing.assert_close(slope.float(), torch.tensor(wanted).float(), rtol=0, atol=1e-3)


def test_rows_of_no_positives_and_of_all():
    scores = torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    total = math.exp(1) + math.exp(2)
    none, whole = torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    assert zlpr_loss(scores, none).item() == pytest.approx(math.log(1 + total))
    assert zlpr_loss(scores, whole).item() == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)))
    assert zlpr_loss(scores, none, threshold=None).item() == 0
    assert zlpr_loss(scores, whole, threshold=None).item() == 0
    assert zlpr_loss_sparse(scores, torch.empty(1, 0, dtype=torch.long)).item() == pytest.approx(math.log(1 + total))


def test_padding_and_indices_given_twice():
    scores = torch.randn(2, 5, dtype=DOUBLE)
    wanted = zlpr_loss(scores, torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]))
    for positives, padding in (
        ([[3, 0], [-1, -1]], -1),
        ([[0, 3, 0, 3, 3], [-1] * 5], -1),
        ([[-100, 0, 3], [-100] * 3], -100),
        ([[5, 3, 0], [5, 5, 5]], 5),
    ):
        got = zlpr_loss_sparse(scores, torch.tensor(positives), padding=padding)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)
    slope = grad(lambda s: zlpr_loss_sparse(s, torch.tensor([[0, 3, 0, 3, 3], [-1] * 5])))(scores)
    torch.testing.assert_close(slope, grad(lambda s: zlpr_loss(s, indices_to_holds()))(scores))


def indices_to_holds():
    return torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])


def test_a_mask_leaves_entries_out_and_masked_rows_out_of_the_mean(drawn):
    scores, holds, positives = drawn
    mask = torch.rand(6, 9) < 0.6
    mask[4] = False
    rows = written_out(scores, holds, 0.0, mask)
    assert rows[4] == 0
    for form, given in ((zlpr_loss, holds), (zlpr_loss, holds.double()), (zlpr_loss_sparse, positives)):
        torch.testing.assert_close(form(scores, given, mask=mask, reduction="none"), rows)
        torch.testing.assert_close(form(scores, given, mask=mask), rows.sum() / 5)
        torch.testing.assert_close(form(scores, given, mask=mask, reduction="sum"), rows.sum())


def test_a_mask_hides_even_what_would_overflow():
    scores = torch.tensor([[0.5, 9e4]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    for form, given in ((zlpr_loss, torch.tensor([[1, 0]])), (zlpr_loss_sparse, torch.tensor([[0, 1]]))):
        loss = form(scores, given, mask=mask)
        (slope,) = torch.autograd.grad(loss, scores)
        assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)))
        assert slope[0, 1] == 0


@pytest.mark.parametrize("threshold", [0.0, None])
def test_an_empty_batch_and_all_rows_masked_have_the_loss_zero(threshold):
    for shape, mask in (((0, 4), None), ((3, 4), torch.zeros(4, dtype=torch.bool))):
        scores = torch.randn(shape, requires_grad=True)
        hard, soft = torch.zeros(shape, dtype=torch.bool), torch.full(shape, 0.3)
        for form, given in ((zlpr_loss, hard), (zlpr_loss, soft), (zlpr_loss_sparse, hard[:, :2].long())):
            loss = form(scores, given, mask=mask, threshold=threshold)
            (slope,) = torch.autograd.grad(loss, scores)
            assert loss.item() == 0
            assert (slope == 0).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"targets": torch.tensor([[0.0, 1.2]])}, "targets hold 1.2.*: wanted numbers in"),
        ({"targets": torch.tensor([[-0.1, 1.0]])}, "targets hold -0.1"),
        ({"targets": torch.tensor([[math.nan, 1.0]])}, "targets hold nan"),
        ({"targets": torch.tensor([[2, 0]])}, "targets hold 2"),
        ({"targets": torch.tensor([[1, 0, 0]])}, r"targets are \(1, 3\), logits \(1, 2\)"),
        ({"logits": torch.zeros(1, 0), "targets": torch.zeros(1, 0)}, "at least one label"),
        ({"logits": torch.tensor(0.0), "targets": torch.tensor(0.0)}, "at least one label"),
        ({"logits": torch.tensor([[1, 2]])}, "wanted floating point"),
        ({"mask": torch.tensor([[1, 0]])}, "mask is torch.int64: wanted bool"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, r"mask is \(3,\), logits \(1, 2\)"),
        ({"reduction": "average"}, "wanted mean, sum or none"),
        ({"threshold": math.inf}, "wanted a finite number"),
        ({"threshold": torch.zeros(4)}, r"threshold is \(4,\), the rows are \(1,\)"),
    ],
)
def test_what_is_refused(change, told):
    given = {"logits": torch.tensor([[0.2, 0.4]]), "targets": torch.tensor([[1, 0]]), **change}
    with pytest.raises(ValueError, match=told):
        zlpr_loss(given.pop("logits"), given.pop("targets"), **given)


@pytest.mark.parametrize(
    ("positives", "told"),
    [
        (torch.tensor([[2]]), "positives hold 2: an index is 0 … 1, or -1"),
        (torch.tensor([[0, -2]]), "positives hold -2"),
        (torch.tensor([0]), r"positives are \(1,\), logits \(1, 2\): wanted \(1, k\)"),
        (torch.tensor([[0], [1]]), r"positives are \(2, 1\)"),
        (torch.tensor([[0.0]]), "wanted whole numbers"),
        (torch.tensor([[True, False]]), "wanted whole numbers"),
    ],
)
def test_what_the_sparse_form_refuses(positives, told):
    with pytest.raises(ValueError, match=told):
        zlpr_loss_sparse(torch.tensor([[0.2, 0.4]]), positives)


def test_agreement_with_timm():
    if not hasattr(timm.loss, "ZlprLoss"):
        pytest.skip("timm has ZlprLoss from 1.0.31 on")
    scores = (5 * torch.randn(200, 80)).requires_grad_()
    holds = torch.rand(200, 80) < 0.1
    theirs = timm.loss.ZlprLoss()(scores, holds.float())
    (wanted,) = torch.autograd.grad(theirs, scores)
    for ours in (zlpr_loss(scores, holds), zlpr_loss_sparse(scores, indices(holds))):
        (slope,) = torch.autograd.grad(ours, scores)
        assert abs(ours.item() - theirs.item()) <= 1e-6 * theirs.item()
        torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-7)


# -------------------------------------------------------------------------------------- compiled and under torch.func


@pytest.mark.parametrize("targets", ["hard", "soft", "sparse"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_compiles_without_a_graph_break(drawn, targets, masked):
    scores, holds, positives = (part.clone() for part in drawn)
    mask = torch.rand(6, 9) < 0.7 if masked else None
    form = zlpr_loss_sparse if targets == "sparse" else zlpr_loss
    given = {"hard": holds, "soft": torch.rand(6, 9, dtype=DOUBLE), "sparse": positives}[targets]
    torch.compiler.reset()
    compiled = torch.compile(lambda s: form(s, given, mask=mask), fullgraph=True, backend="aot_eager")
    one, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss, wanted = compiled(one), form(other, given, mask=mask)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("targets", ["hard", "soft", "sparse"])
def test_vmap_grad_and_jacrev(drawn, targets):
    scores, holds, positives = drawn
    form = zlpr_loss_sparse if targets == "sparse" else zlpr_loss
    given = {"hard": holds, "soft": torch.rand(6, 9, dtype=DOUBLE), "sparse": positives}[targets]
    rows = form(scores, given, reduction="none")
    torch.testing.assert_close(vmap(form)(scores, given), rows)
    torch.testing.assert_close(
        vmap(lambda g: form(scores[0], g))(given), torch.stack([form(scores[0], g) for g in given])
    )
    per_row = vmap(grad(form))(scores, given)
    whole = grad(lambda s: form(s, given, reduction="sum"))(scores)
    torch.testing.assert_close(per_row, whole)
    jacobian = jacrev(lambda s: form(s, given, reduction="none"))(scores)
    torch.testing.assert_close(jacobian.sum(1), whole)
    hessian = jacrev(grad(lambda s: form(s, given, reduction="sum")))(scores)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1))
    batched = scores.clone().requires_grad_()
    (together,) = torch.autograd.grad(
        form(batched, given, reduction="none"), batched, torch.eye(6, dtype=DOUBLE), is_grads_batched=True
    )
    torch.testing.assert_close(together, jacobian)
