"""The losses of latent adversarial training, each on [batch, pos, d_vocab] logits.

Every function averages over the tokens where ``mask`` is 1 and returns nats per token.
Products of small probabilities need float32: logits are cast up first.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

AWAY_CUTOFF = -5.0
"""Tokens with log p below this give no away loss (LAT's released code)."""


def toward(
    logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """Cross entropy: -log p(label). Source: arXiv 2407.15549, equation 3."""
    return _mean(-label_log_probs(logits, labels), mask)


def away(
    logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    cutoff: float = AWAY_CUTOFF,
) -> Float[Tensor, ""]:
    """-log(1 - p(label)), 0 for tokens with log p < ``cutoff``.

    1 - p is the sum over all other tokens, which stays exact where p is close to 1.
    Source: arXiv 2407.15549, equation 4, and ``log_1_minus_p_loss`` of its released code.
    """
    log_p, log_rest = _LabelLogProbs.apply(logits, labels)
    return _mean(torch.where(log_p < cutoff, 0.0, -log_rest), mask)


def kl_divergence(
    logits: Float[Tensor, "batch pos d_vocab"],
    base_log_probs: Float[Tensor, "batch pos d_vocab"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """KL(p || p_base), both over the whole vocabulary; the base from `log_probs`."""
    return _mean(_Divergence.apply(logits, base_log_probs), mask)


def log_probs(logits: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, "*any d_vocab"]:
    """Log-probabilities over the vocabulary, float32 or wider."""
    return _precise(logits).log_softmax(-1)


def preference(
    desired: Float[Tensor, " batch"],
    undesired: Float[Tensor, " batch"],
    base_desired: Float[Tensor, " batch"],
    base_undesired: Float[Tensor, " batch"],
    beta: float,
) -> Float[Tensor, ""]:
    """DPO: -log sigmoid(beta * margin gained over the base model), mean over examples.

    Arguments are log-probabilities of whole answers, nats, from `answer_log_probs`.
    Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7.
    """
    gained = (desired - undesired) - (base_desired - base_undesired)
    return -torch.nn.functional.logsigmoid(beta * gained).mean()


def answer_log_probs(
    logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, " batch"]:
    """Log-probability of each whole answer, nats."""
    return torch.where(mask.bool(), label_log_probs(logits, labels), 0.0).sum(-1)


def rerouting(
    hidden: Float[Tensor, "batch pos d_model"],
    base_hidden: Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """ReLU of the cosine to the base model's representation, mean over tokens.

    Source: Zou et al. 2024, arXiv 2406.04313, algorithm 1 (the circuit-breaker loss).
    """
    cosine = torch.nn.functional.cosine_similarity(
        _precise(hidden), _precise(base_hidden), dim=-1, eps=1e-8
    )
    return _mean(cosine.relu(), mask)


def representation_distance(
    hidden: Float[Tensor, "batch pos d_model"],
    base_hidden: Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """L2 distance to the base model's representation, activation units, mean over tokens.

    Where the two are equal, as at the start of a run, the gradient is zero, not NaN.
    Source: Zou et al. 2024, arXiv 2406.04313, algorithm 1 (the retain loss).
    """
    squares = (_precise(hidden) - _precise(base_hidden)).square().sum(-1)
    apart = squares > 0
    distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    return _mean(distance, mask)


def self_normalised(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The loss divided by its own detached value: only its direction is left.

    Source: the KL term of LAT's released trainer.
    """
    return loss / (loss.detach() + 1e-8)


def weighted(terms: list[tuple[float, Tensor]]) -> Tensor:
    """Sum of coefficient times loss, coefficients divided by their sum (LAT's released code)."""
    total = sum(coefficient for coefficient, _ in terms)
    return torch.stack([coefficient / total * loss for coefficient, loss in terms]).sum()


def label_log_probs(
    logits: Float[Tensor, "*batch pos d_vocab"], labels: Int[Tensor, "*batch pos"]
) -> Float[Tensor, "*batch pos"]:
    """Log p of each label, float32 or wider."""
    log_p: Tensor = _LabelLogProbs.apply(logits, labels)[0]
    return log_p


class _LabelLogProbs(torch.autograd.Function):
    """log p and log(1 - p) of each label, with their gradient in closed form.

    A vocabulary is wide: each pass over it costs as much as a matrix product with the small
    models. Here are one buffer of exponentials and one of gradients. With p_v the probability of
    another token v and q that of the label, log p has the gradients -p_v and 1 - q, and
    log(1 - p) has p_v q / (1 - q) and -q.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        wide, index = _precise(logits), labels[..., None]
        label = wide.gather(-1, index)
        others = wide.scatter(-1, index, -torch.inf)
        # Shifted by the largest of the others, 1 - p is exact where p is close to 1.
        top = others.amax(-1, keepdim=True)
        others.sub_(top).exp_()
        log_others = top + others.sum(-1, keepdim=True).log_()
        log_total = torch.logaddexp(log_others, label)
        log_p, log_rest = label - log_total, log_others - log_total
        ctx.save_for_backward(others, index, log_p, log_rest, top - log_total, top - log_others)
        ctx.dtype = logits.dtype
        return log_p[..., 0], log_rest[..., 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, for_p: Tensor, for_rest: Tensor) -> tuple[Tensor, None]:
        others, index, log_p, log_rest, to_total, to_others = ctx.saved_tensors
        for_p, for_rest, q = for_p[..., None], for_rest[..., None], log_p.exp()
        scale = for_rest * q * to_others.exp() - for_p * to_total.exp()
        grad = others * scale
        grad.scatter_(-1, index, for_p * log_rest.exp() - for_rest * q)
        return grad.to(ctx.dtype), None


class _Divergence(torch.autograd.Function):
    """KL(p || p_base) at each position; its gradient is p (log p - log p_base - KL)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, base_log_probs: Tensor) -> Tensor:
        log_p = log_probs(logits)
        ratio = log_p - base_log_probs
        p = log_p.exp_()
        divergence = torch.linalg.vecdot(p, ratio)
        ctx.save_for_backward(p, ratio, divergence)
        ctx.dtype = logits.dtype
        return divergence

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, ratio, divergence = ctx.saved_tensors
        along = (ratio - divergence[..., None]).mul_(p).mul_(grad[..., None])
        return along.to(ctx.dtype), None


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), values, 0.0).sum() / mask.sum()
