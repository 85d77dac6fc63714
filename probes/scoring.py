"""Refusal log-odds and KL under many ablated or added directions, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lpa_interp.chat import Row
from lpa_interp.errors import NumericalError
from lpa_interp.judges import refusal_log_odds
from lpa_interp.model import HookedTransformer
from probes.stacked import (
    candidate_chunks,
    first_residual,
    last_logits_with_ablation,
    last_logits_with_addition,
    next_residual,
    prompt_batches,
)


@dataclass(frozen=True, slots=True)
class AblationScores:
    """Scores of n prompts with each of several directions cut out, in the order of the rows.

    ``unmodified`` [n] and ``ablated`` [n_directions, n] are refusal log-odds in nats; ``kl``
    [n_directions, n] is KL(unmodified || ablated) in nats, all at the last prompt token.
    """

    unmodified: np.ndarray
    ablated: np.ndarray
    kl: np.ndarray


@torch.no_grad()
def score_ablations(
    model: HookedTransformer,
    rows: Sequence[Row],
    units: Float[Tensor, "directions d_model"],
    token_ids: list[int],
    batch_size: int,
) -> AblationScores:
    """Cuts each unit direction out of the whole residual stream and scores the prompts.

    A zero vector cuts nothing and scores as the unmodified model.
    """
    unmodified = np.empty(len(rows))
    ablated, kl = np.empty((len(units), len(rows))), np.empty((len(units), len(rows)))
    for batch in prompt_batches(model, rows, batch_size):
        resid = first_residual(model, batch)
        plain = last_logits_with_ablation(model, batch, resid, torch.zeros_like(units[:1]))[0]
        unmodified[batch.indices] = _odds(plain, token_ids)
        log_p = plain.float().log_softmax(-1)
        start = 0
        for chunk in candidate_chunks(units, len(batch.indices), batch_size):
            logits = last_logits_with_ablation(model, batch, resid, chunk)
            place = np.ix_(range(start, start + len(chunk)), batch.indices)
            ablated[place] = _odds(logits, token_ids)
            kl[place] = _kl(log_p, logits)
            start += len(chunk)
    return AblationScores(unmodified, _finite(ablated), _finite(kl))


@torch.no_grad()
def score_additions(
    model: HookedTransformer,
    rows: Sequence[Row],
    vectors: Float[Tensor, "n_positions n_layers d_model"],
    wanted: Bool[np.ndarray, "n_positions n_layers"],
    token_ids: list[int],
    batch_size: int,
) -> Float64[np.ndarray, "n_positions n_layers n"]:
    """Refusal log-odds (nats) with each wanted vector added to its layer's ``resid_pre``.

    The unmodified residual stream moves up one layer at a time, so that an addition at layer L
    runs the layers from L on only. Vectors that are not wanted score NaN.
    """
    scores = np.full((*vectors.shape[:2], len(rows)), np.nan)
    last = max(np.flatnonzero(wanted.any(axis=0)), default=-1)
    for batch in prompt_batches(model, rows, batch_size):
        resid = first_residual(model, batch)
        for layer in range(last + 1):
            places = np.flatnonzero(wanted[:, layer])
            start = 0
            for chunk in candidate_chunks(vectors[places, layer], len(batch.indices), batch_size):
                logits = last_logits_with_addition(model, batch, resid, chunk, layer)
                for place, odds in zip(places[start:], _odds(logits, token_ids), strict=False):
                    scores[place, layer, batch.indices] = odds
                start += len(chunk)
            resid = next_residual(model, batch, resid, layer)
    _finite(scores[wanted])
    return scores


def _odds(logits: Float[Tensor, "*batch d_vocab"], token_ids: list[int]) -> np.ndarray:
    odds = refusal_log_odds(logits.reshape(-1, logits.shape[-1]), token_ids)
    values: np.ndarray = odds.reshape(logits.shape[:-1]).double().cpu().numpy()
    return values


def _kl(log_p: Float[Tensor, "n d_vocab"], logits: Float[Tensor, "k n d_vocab"]) -> np.ndarray:
    """KL(p || softmax(logits)), in float32 whatever the model computes in."""
    log_q = logits.float().log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding can go below
    values: np.ndarray = divergence.double().cpu().numpy()
    return values


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise NumericalError("a refusal score is NaN or infinite under an intervention")
    return values
