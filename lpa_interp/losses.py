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
    logits = _precise(logits)
    total = logits.logsumexp(-1)
    index = labels[..., None]
    others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    log_p = logits.gather(-1, index)[..., 0] - total
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
