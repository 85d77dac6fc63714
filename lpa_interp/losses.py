"""The losses of latent adversarial training, each on [batch, pos, d_vocab] logits.

Every function averages over the tokens where ``mask`` is 1 and returns nats per token.
Products of small probabilities need float32: logits are cast up first.
"""

from __future__ import annotations

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
    logits, index = _precise(logits), labels[..., None]
    label = logits.gather(-1, index)[..., 0]
    others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    total = torch.logaddexp(others, label)
    log_p = label - total
    return _mean(torch.where(log_p < cutoff, 0.0, total - others), mask)


def kl_divergence(
    logits: Float[Tensor, "batch pos d_vocab"],
    base_logits: Float[Tensor, "batch pos d_vocab"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """KL(p || p_base), both over the whole vocabulary."""
    log_p = _precise(logits).log_softmax(-1)
    log_base = _precise(base_logits).log_softmax(-1)
    return _mean((log_p.exp() * (log_p - log_base)).sum(-1), mask)


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
    """Log p of each label, in float32."""
    return _precise(logits).log_softmax(-1).gather(-1, labels[..., None])[..., 0]


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), values, 0.0).sum() / mask.sum()
