"""Softmax cross entropy for several right labels at once (ZLPR), dense and sparse, for hard and soft targets.

Source: Su Jianlin, kexue.fm/archives/7359, and Su et al. 2022, arXiv 2208.02955 (eq. 9 there).
Idea: each label that holds shall score above a threshold s₀, each that does not below it, by the same log-sum-exp that
makes softmax cross entropy smooth; labels compare with the threshold and with each other, and nothing needs balancing:

    L = log(e^s₀ + Σ_neg e^sᵢ) + log(e^−s₀ + Σ_pos e^−sⱼ)                  a label is predicted when s > s₀
    L = log(1 + Σ_neg e^sᵢ · Σ_pos e^−sⱼ)                                  no threshold: only the order is trained
    Σ_neg e^sᵢ, Σ_pos e^−sⱼ  →  Σ (1 − tᵢ) e^sᵢ, Σ tⱼ e^−sⱼ                soft targets t, optimal at t = σ(2(s − s₀))

With N = log Σ_neg e^s and P = log Σ_pos e^−s these are softplus(N − s₀) + softplus(P + s₀) and softplus(N + P). Only N
and P are of the size of the logits; their derivatives are e^(s−N) and −e^(−s−P).

>>> scores = torch.tensor([[2.0, -1.0, 0.5]])
>>> holds = torch.tensor([[True, False, False]])
>>> round(zlpr_loss(scores, holds).item(), 4)  # log(1 + e⁻¹ + e^½) + log(1 + e⁻²)
1.2311
>>> round(zlpr_loss_sparse(scores, torch.tensor([[0, -1]])).item(), 4)
1.2311
>>> round(zlpr_loss(scores, holds, threshold=None).item(), 4)  # one label holds: softmax cross entropy
0.2413
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Reduction", "zlpr_loss", "zlpr_loss_sparse"]

Reduction = Literal["mean", "sum", "none"]
Threshold = float | Tensor | None

_FLOOR = -1e30
"""Stands for log 0. Finite, so that no derivative of any order meets ∞ − ∞ or 0 · ∞."""


def zlpr_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    threshold: Threshold = 0.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """ZLPR of scores (…, labels) against targets of the same shape.

    ``targets`` of bool or whole numbers are hard; floating ones may lie anywhere in [0, 1], and no gradient flows to
    them. ``threshold`` is s₀, also a tensor that broadcasts to the rows (…), which may be learnt; None trains the order
    alone, for those who take the top k. Entries where ``mask`` (bool, broadcasts to the logits) is False count as
    nothing at all. Half precision is computed, and returned, in float32; |s| may be anything below 1e29.

    A row without positives has log(1 + 0) as its second term; one that is masked wholly has the loss 0 and does not
    count in the mean; the mean of no rows (an empty batch, all masked) is 0.

    Raises `ValueError` for shapes that differ, no labels, and targets outside [0, 1]. Values are looked at on the CPU
    only, outside `torch.compile` and `torch.func`: on a device that would make the host wait.
    """
    _check_scores(logits, mask, reduction)
    if targets.shape != logits.shape:
        raise ValueError(f"targets are {tuple(targets.shape)}, logits {tuple(logits.shape)}: they must be the same")
    scores, targets = _widened(logits), targets.detach()
    if _are_hard(targets):
        negative, positive, *_ = _HardSums.apply(scores, targets.bool(), mask)
    else:
        weight = targets.to(scores.dtype)
        negative = torch.logsumexp(_hidden(scores + _log(1 - weight), mask), -1)
        positive = torch.logsumexp(_hidden(_log(weight) - scores, mask), -1)
    return _reduced(_rows(negative, positive, threshold), logits, mask, reduction)


def zlpr_loss_sparse(
    logits: Tensor,
    positives: Tensor,
    *,
    threshold: Threshold = 0.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    padding: int = -1,
) -> Tensor:
    """`zlpr_loss` of scores (…, labels) whose labels that hold are given as indices (…, at most so many).

    Entries of ``positives`` that equal ``padding`` are none; an index given twice counts once; one that ``mask`` hides
    counts as nothing. No targets of the logits' size are made. The positives are left out of the sum over negatives,
    not subtracted from it: a difference cancels as soon as they score well. Raises `ValueError` as `zlpr_loss` does,
    and for an index that is no label.
    """
    _check_scores(logits, mask, reduction)
    if positives.ndim != logits.ndim or positives.shape[:-1] != logits.shape[:-1]:
        rows = ", ".join(map(str, logits.shape[:-1]))
        raise ValueError(f"positives are {tuple(positives.shape)}, logits {tuple(logits.shape)}: wanted ({rows}, k)")
    if positives.dtype == torch.bool or positives.is_floating_point() or positives.is_complex():
        raise ValueError(f"positives are indices: wanted whole numbers, got {positives.dtype}")
    labels, present = logits.shape[-1], positives != padding
    wrong = present & ((positives < 0) | (positives >= labels))
    if _known(wrong.any()):
        told = f"an index is 0 … {labels - 1}, or {padding} where there is none"
        raise ValueError(f"positives hold {positives[wrong][0].item()}: {told}")
    index, present = _distinct(positives.long(), present, labels)
    if mask is not None:
        present = present & mask.expand_as(logits).gather(-1, index)
    negative, positive = _SparseSums.apply(_widened(logits), index, present, mask)
    return _reduced(_rows(negative, positive, threshold), logits, mask, reduction)


# ------------------------------------------------------------------------------------------------- the two log sums


class _HardSums(torch.autograd.Function):
    """N = log Σ_neg e^s and P = log Σ_pos e^−s, each (…), of scores (…, labels).

    A label is in one of the sums only, so there is one exponential for both. It comes out too, over the greatest of its
    sum, with both sums (…, 1) over theirs: a first derivative is their quotient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, holds: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        # Sums and products: choosing by a condition takes a CPU several times as long.
        holding = holds.to(scores.dtype)
        failing = 1 - holding
        terms = _signed(scores, holding, mask)
        top_negative = terms.add(holding, alpha=_FLOOR).amax(-1, keepdim=True)
        top_positive = terms.add(failing, alpha=_FLOOR).amax(-1, keepdim=True)
        terms = terms.sub_(torch.lerp(top_negative, top_positive, holding)).exp_()
        negative = failing.mul_(terms).sum(-1, keepdim=True).clamp(min=1)
        positive = holding.mul_(terms).sum(-1, keepdim=True).clamp(min=1)
        logs = (top_negative + negative.log()).squeeze(-1), (top_positive + positive.log()).squeeze(-1)
        return *logs, terms, negative, positive

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, by_negative: Tensor, by_positive: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        scores, holds, mask, log_negative, log_positive, terms, negative, positive = ctx.saved_tensors
        holding = holds.to(scores.dtype)
        by_negative, by_positive = by_negative.unsqueeze(-1), -by_positive.unsqueeze(-1)
        if torch.is_grad_enabled():  # a second derivative goes through the scores and the logs
            logs = torch.lerp(log_negative.unsqueeze(-1), log_positive.unsqueeze(-1), holding)
            share = (_signed(scores, holding, mask) - logs).exp()
            return share * torch.lerp(by_negative, by_positive, holding), None, None
        return terms * torch.lerp(by_negative / negative, by_positive / positive, holding), None, None


class _SparseSums(torch.autograd.Function):
    """As `_HardSums`; the positives are the ``index`` (…, k), distinct, where it is ``present``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, index: Tensor, present: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        others = _others(scores, index, present, mask, scores.new_zeros(()))
        top_negative = others.amax(-1, keepdim=True)
        negative = others.sub_(top_negative).exp_().sum(-1)
        chosen = _chosen(scores, index, present)
        top_positive = chosen.amax(-1, keepdim=True)
        positive = (chosen - top_positive).exp().sum(-1)
        return _log_sum(top_negative, negative), _log_sum(top_positive, positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, by_negative: Tensor, by_positive: Tensor) -> tuple[Tensor, None, None, None]:
        scores, index, present, mask, negative, positive = ctx.saved_tensors
        by_negative, by_positive = by_negative.unsqueeze(-1), by_positive.unsqueeze(-1)
        # The zeros are batched where a derivative is, so that what follows may be done in place.
        others = _others(scores, index, present, mask, torch.zeros_like(by_negative))
        if torch.is_grad_enabled():  # what a second derivative goes through stays as it was
            of_others = (others - negative.unsqueeze(-1)).exp() * by_negative
        else:
            of_others = others.sub_(negative.unsqueeze(-1)).exp_().mul_(by_negative)
        of_chosen = (_chosen(scores, index, present) - positive.unsqueeze(-1)).exp() * -by_positive
        of_chosen = torch.where(present, of_chosen, 0.0)
        put = of_others.scatter_add if torch.is_grad_enabled() else of_others.scatter_add_
        return put(-1, index, of_chosen), None, None, None


def _signed(scores: Tensor, holding: Tensor, mask: Tensor | None) -> Tensor:
    """What each label's exponential is of: −s where it holds, s where it does not."""
    return _hidden(torch.addcmul(scores, scores, holding, value=-2), mask)


def _others(scores: Tensor, index: Tensor, present: Tensor, mask: Tensor | None, zero: Tensor) -> Tensor:
    """The scores, a copy, with the positives as good as left out; ``zero`` broadcasts to the index."""
    return _hidden(scores.scatter_add(-1, index, torch.where(present, _FLOOR, zero)), mask)


def _chosen(scores: Tensor, index: Tensor, present: Tensor) -> Tensor:
    return torch.where(present, -scores.gather(-1, index), _FLOOR)


def _hidden(exponents: Tensor, mask: Tensor | None) -> Tensor:
    return exponents if mask is None else torch.where(mask, exponents, _FLOOR)


def _log(weight: Tensor) -> Tensor:
    return weight.log().clamp(min=_FLOOR)


def _log_sum(top: Tensor, total: Tensor) -> Tensor:
    """log Σ e^x from the greatest x (…, 1) and Σ e^(x − top), which is at least 1 unless there is no x at all."""
    return top.squeeze(-1) + total.clamp(min=1).log()


# ---------------------------------------------------------------------------------------------- rows and their checks


def _rows(negative: Tensor, positive: Tensor, threshold: Threshold) -> Tensor:
    """The loss of each row, (…)."""
    if threshold is None:
        return _softplus(negative + positive)
    if isinstance(threshold, Tensor):
        try:
            threshold = threshold.to(negative.dtype).expand_as(negative)
        except RuntimeError:
            told = f"threshold is {tuple(threshold.shape)}, the rows are {tuple(negative.shape)}"
            raise ValueError(f"{told}: it must broadcast to them") from None
    elif not math.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}: wanted a finite number, or None for none at all")
    return _softplus(negative - threshold) + _softplus(positive + threshold)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); beyond 40 that is x, to the last bit of a double."""
    return torch.nn.functional.softplus(x, threshold=40.0)


def _reduced(rows: Tensor, logits: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    if mask is None:
        return rows.sum() / max(1, rows.numel())
    return rows.sum() / mask.expand_as(logits).any(-1).sum().clamp(min=1)


def _distinct(positives: Tensor, present: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """The indices with each but once: ``(index, present)``, both (…, k), k at least 1; 0 where none is present."""
    if positives.shape[-1] == 0:
        return positives.new_zeros((*positives.shape[:-1], 1)), present.new_zeros((*present.shape[:-1], 1))
    ordered = torch.where(present, positives, labels).sort(-1).values
    again = torch.nn.functional.pad(ordered[..., 1:] == ordered[..., :-1], (1, 0))
    present = (ordered != labels) & ~again
    return torch.where(present, ordered, 0), present


def _widened(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _check_scores(logits: Tensor, mask: Tensor | None, reduction: str) -> None:
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}: wanted floating point")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits are {tuple(logits.shape)}: wanted (…, labels) with at least one label")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}: wanted mean, sum or none")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}: wanted bool, True where an entry counts")
    try:
        mask.expand_as(logits)
    except RuntimeError:
        told = f"mask is {tuple(mask.shape)}, logits {tuple(logits.shape)}"
        raise ValueError(f"{told}: it must broadcast to them") from None


def _are_hard(targets: Tensor) -> bool:
    """Whether all targets are 0 or 1, as far as can be seen. Raises `ValueError` for any outside [0, 1]."""
    if targets.dtype == torch.bool:
        return True
    if _known(((targets == 0) | (targets == 1)).all()):
        return True
    outside = ~((targets >= 0) & (targets <= 1))  # NaN is outside
    if targets.is_floating_point() and not _known(outside.any()):
        return False
    if _known((outside if targets.is_floating_point() else targets.ne(0) & targets.ne(1)).any()):
        raise ValueError(f"targets hold {targets[outside][0].item()}: wanted numbers in [0, 1]")
    return True


def _known(condition: Tensor) -> bool:
    """Whether a condition is seen to hold: on the CPU, where no graph is being traced and nothing is batched."""
    if torch.compiler.is_compiling() or condition.device.type != "cpu":
        return False
    try:
        return bool(condition)
    except RuntimeError:  # under `torch.func.vmap` a value is many
        return False
