"""Refusal log-odds and KL under many interventions, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row
from lpa_interp.errors import NumericalError
from lpa_interp.judges import refusal_log_odds
from lpa_interp.model import HookedTransformer
from probes.stacked import (
    PromptBatch,
    candidate_chunks,
    last_logits_with_ablation,
    last_logits_with_addition,
    next_residual,
    prompt_batches,
    residual_before,
)


@dataclass(frozen=True, slots=True)
class InterventionScores:
    """Scores of n prompts under each of several interventions, in the order of the rows.

    ``unmodified`` [n] and ``modified`` [n_interventions, n] are refusal log-odds in nats; ``kl``
    [n_interventions, n] is KL(unmodified || modified) in nats, all at the last prompt token.
    """

    unmodified: np.ndarray
    modified: np.ndarray
    kl: np.ndarray


@torch.no_grad()
@parametrize.cached()  # an adapter's weights are merged once, not in every pass
def score_ablations(
    model: HookedTransformer,
    rows: Sequence[Row],
    bases: Float[Tensor, "subspaces k d_model"],
    token_ids: Sequence[int],
    batch_size: int,
) -> InterventionScores:
    """Cuts each subspace out of the whole residual stream and scores the prompts.

    Args:
        model: Any HookedTransformer.
        rows: Token ids of the prompts.
        bases: Orthonormal rows, in the model's dtype; a direction is a subspace with k = 1.
            Rows of zeros cut nothing, rows of norm sqrt(f) the fraction f of their component.
        token_ids: Refusal tokens.
        batch_size: Examples (subspaces times prompts) per forward pass.

    Raises:
        NumericalError: A score is NaN or infinite.
    """
    return _score(model, rows, bases, 0, last_logits_with_ablation, token_ids, batch_size)


@torch.no_grad()
@parametrize.cached()
def score_additions(
    model: HookedTransformer,
    rows: Sequence[Row],
    vectors: Float[Tensor, "additions d_model"],
    layer: int,
    token_ids: Sequence[int],
    batch_size: int,
) -> InterventionScores:
    """Adds each vector to one layer's ``resid_pre`` at all positions and scores the prompts.

    Raises:
        NumericalError: A score is NaN or infinite.
    """

    def logits(
        model: HookedTransformer, batch: PromptBatch, resid: Tensor, chunk: Tensor
    ) -> Tensor:
        return last_logits_with_addition(model, batch, resid, chunk, layer)

    return _score(model, rows, vectors, layer, logits, token_ids, batch_size)


def _score(
    model: HookedTransformer,
    rows: Sequence[Row],
    vectors: Float[Tensor, "m *rest"],
    layer: int,
    logits_under: Callable[[HookedTransformer, PromptBatch, Tensor, Tensor], Tensor],
    token_ids: Sequence[int],
    batch_size: int,
) -> InterventionScores:
    """Runs each batch once without and once per chunk of interventions, from a layer on."""
    unmodified = np.empty(len(rows))
    modified, kl = np.empty((len(vectors), len(rows))), np.empty((len(vectors), len(rows)))
    nothing = vectors.new_zeros(1, *vectors.shape[1:])
    for batch in prompt_batches(model, rows, batch_size):
        resid = residual_before(model, batch, layer)
        plain = logits_under(model, batch, resid, nothing)[0]
        unmodified[batch.indices] = odds(plain, token_ids)
        log_p = plain.float().log_softmax(-1)
        start = 0
        for chunk in candidate_chunks(vectors, len(batch.indices), batch_size):
            logits = logits_under(model, batch, resid, chunk)
            place = np.ix_(range(start, start + len(chunk)), batch.indices)
            modified[place] = odds(logits, token_ids)
            kl[place] = kl_from(log_p, logits)
            start += len(chunk)
    return InterventionScores(finite(unmodified), finite(modified), finite(kl))


@torch.no_grad()
@parametrize.cached()
def addition_odds_by_layer(
    model: HookedTransformer,
    rows: Sequence[Row],
    vectors: Float[Tensor, "n_positions n_layers d_model"],
    wanted: Bool[np.ndarray, "n_positions n_layers"],
    token_ids: Sequence[int],
    batch_size: int,
) -> Float64[np.ndarray, "n_positions n_layers n"]:
    """Refusal log-odds (nats) with each wanted vector added to its layer's ``resid_pre``.

    The unmodified residual stream moves up one layer at a time, so that an addition at layer L
    runs the layers from L on only. Vectors that are not wanted score NaN.
    """
    scores = np.full((*vectors.shape[:2], len(rows)), np.nan)
    last = max(np.flatnonzero(wanted.any(axis=0)), default=-1)
    for batch in prompt_batches(model, rows, batch_size):
        resid = residual_before(model, batch)
        for layer in range(last + 1):
            places = np.flatnonzero(wanted[:, layer])
            start = 0
            for chunk in candidate_chunks(vectors[places, layer], len(batch.indices), batch_size):
                logits = last_logits_with_addition(model, batch, resid, chunk, layer)
                for place, values in zip(places[start:], odds(logits, token_ids), strict=False):
                    scores[place, layer, batch.indices] = values
                start += len(chunk)
            resid = next_residual(model, batch, resid, layer)
    finite(scores[wanted])
    return scores


def odds(
    logits: Float[Tensor, "*batch d_vocab"], token_ids: Sequence[int]
) -> Float64[np.ndarray, "*batch"]:
    """Refusal log-odds (nats) of logits of any shape."""
    flat = refusal_log_odds(logits.reshape(-1, logits.shape[-1]), token_ids)
    values: np.ndarray = flat.reshape(logits.shape[:-1]).double().cpu().numpy()
    return values


def kl_from(
    log_p: Float[Tensor, "n d_vocab"], logits: Float[Tensor, "k n d_vocab"]
) -> Float64[np.ndarray, "k n"]:
    """KL(p || softmax(logits)) in nats, in float32 whatever the model computes in."""
    log_q = logits.float().log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding can go below
    values: np.ndarray = divergence.double().cpu().numpy()
    return values


def finite(values: np.ndarray) -> np.ndarray:
    """The values.

    Raises:
        NumericalError: One of them is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NumericalError("a refusal score is NaN or infinite under an intervention")
    return values
