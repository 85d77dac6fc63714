"""Many candidate directions or subspaces in one forward pass, exactly.

A search over directions runs the same prompts again and again with another vector, a comparison
with controls runs them with many random subspaces. Three things make that cheap without
changing a number:

- candidates are stacked along the batch, each example with its own vectors;
- the tokens that all prompts begin with (system message, header) are run once per candidate,
  and their keys and values repeated: in a causal model they do not depend on what follows;
- ablating every attention and MLP output and the first residual stream leaves every later
  residual stream without the direction, so hooks on those would be idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.chat import Row, stack_rows, tokenizer_of
from lpa_interp.hooks import HookFunction, Intervention
from lpa_interp.model import HookedTransformer, new_cache, unembed

WRITERS = ("hook_attn_out", "hook_mlp_out")
_DISTANCE_FROM_INDEX = ("alibi", "relative_positional_bias", "shortformer")

HooksFor = Callable[[Tensor], Intervention]
"""From the vectors of each example to the hooks that use them."""


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts as ``shared tokens | padding | own tokens``.

    ``indices`` are the prompts' places in the list they came from; ``mask`` is 1 for tokens.
    """

    indices: list[int]
    tokens: Int[Tensor, "prompts pos"]
    mask: Int[Tensor, "prompts pos"]
    n_shared: int


def prompt_batches(
    model: HookedTransformer, rows: Sequence[Row], batch_size: int
) -> list[PromptBatch]:
    """Batches of prompts of similar length that keep what they share in front."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    n_shared = _n_shared(model, rows)
    pad, device = tokenizer_of(model).pad_token_id, model.cfg.device
    batches = []
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        own, mask = stack_rows([rows[index][n_shared:] for index in indices], pad, device)
        shared = torch.tensor([rows[0][:n_shared]], dtype=torch.long, device=device)
        tokens = torch.cat([shared.expand(len(indices), -1), own], dim=1)
        mask = torch.cat([torch.ones_like(tokens[:, :n_shared]), mask], dim=1)
        batches.append(PromptBatch(indices, tokens, mask, n_shared))
    return batches


def _n_shared(model: HookedTransformer, rows: Sequence[Row]) -> int:
    """Length of the common prefix; each row keeps one token of its own at least.

    Padding between the parts is invisible where positions come from the mask. Where distance
    is counted in places of the tensor (ALiBi, sliding windows), nothing is shared.
    """
    cfg, width = model.cfg, max(len(row) for row in rows)
    if cfg.positional_embedding_type in _DISTANCE_FROM_INDEX:
        return 0
    if cfg.use_local_attn and (cfg.window_size is None or width > cfg.window_size):
        return 0
    shortest = min(len(row) for row in rows) - 1
    first, last = min(rows), max(rows)
    return next((i for i in range(shortest) if first[i] != last[i]), shortest)


def candidate_chunks(
    vectors: Float[Tensor, "candidates *rest"], n_prompts: int, batch_size: int
) -> Iterator[Float[Tensor, "chunk *rest"]]:
    """Candidates in chunks that make ``batch_size`` examples with ``n_prompts`` prompts."""
    if len(vectors):
        yield from torch.split(vectors, max(1, batch_size // n_prompts))


def residual_before(
    model: HookedTransformer, batch: PromptBatch, layer: int = 0
) -> Float[Tensor, "prompts pos d_model"]:
    """The unmodified residual stream before a block."""
    resid: Tensor = model(batch.tokens, attention_mask=batch.mask, stop_at_layer=layer)
    return resid


def next_residual(
    model: HookedTransformer,
    batch: PromptBatch,
    resid: Float[Tensor, "prompts pos d_model"],
    layer: int,
) -> Float[Tensor, "prompts pos d_model"]:
    """Runs one block."""
    after: Tensor = model(
        resid, start_at_layer=layer, stop_at_layer=layer + 1, attention_mask=batch.mask
    )
    return after


def last_logits_with_ablation(
    model: HookedTransformer,
    batch: PromptBatch,
    resid: Float[Tensor, "prompts pos d_model"],
    bases: Float[Tensor, "candidates k d_model"],
) -> Float[Tensor, "candidates prompts d_vocab"]:
    """Logits at the last token with each subspace cut out everywhere, at all positions.

    ``resid`` is the first residual stream. A basis has orthonormal rows; rows of zeros cut
    nothing, so bases of fewer dimensions can be padded. Rows of norm sqrt(f) cut the fraction f
    of their component from everything that writes.

    Source: Arditi et al. 2024, equation 4; for subspaces x - V^T V x.
    """
    edited = resid[None] - (resid[None] @ bases[:, None].mT) @ bases[:, None]

    def hooks(vectors: Tensor) -> Intervention:
        cut = _cut(vectors)
        layers = range(model.cfg.n_layers)
        return [(f"blocks.{layer}.{site}", cut) for layer in layers for site in WRITERS]

    return _continue(model, batch, edited, bases, 0, hooks)


def last_logits_with_addition(
    model: HookedTransformer,
    batch: PromptBatch,
    resid: Float[Tensor, "prompts pos d_model"],
    vectors: Float[Tensor, "candidates d_model"],
    layer: int,
) -> Float[Tensor, "candidates prompts d_vocab"]:
    """Logits at the last token with each vector added to ``resid_pre`` of a layer, everywhere.

    ``resid`` is the unmodified residual stream before that layer.
    Source: Arditi et al. 2024, equation 3.
    """
    edited = resid[None] + vectors[:, None, None]
    return _continue(model, batch, edited, vectors, layer, lambda vectors: [])


def _cut(bases: Float[Tensor, "examples k d_model"]) -> HookFunction:
    """Removes from each example its own subspace."""

    def hook_function(
        activation: Float[Tensor, "examples pos d_model"], hook: Any = None
    ) -> Float[Tensor, "examples pos d_model"]:
        along = torch.bmm(activation, bases.mT)
        return torch.baddbmm(activation, along, bases, alpha=-1)

    return hook_function


def _continue(
    model: HookedTransformer,
    batch: PromptBatch,
    resid: Float[Tensor, "candidates prompts pos d_model"],
    vectors: Float[Tensor, "candidates *rest"],
    layer: int,
    hooks: HooksFor,
) -> Float[Tensor, "candidates prompts d_vocab"]:
    """Runs edited residual streams from a layer to the logits at the last token."""
    n_candidates, n_prompts = resid.shape[:2]
    n_shared, cache = batch.n_shared, None
    where = {"start_at_layer": layer, "stop_at_layer": model.cfg.n_layers}
    if n_shared:
        cache = new_cache(model, n_candidates)
        mask = torch.ones_like(batch.mask[:1, :n_shared]).expand(n_candidates, -1)
        with model.hooks(fwd_hooks=hooks(vectors)):
            model(resid[:, 0, :n_shared], attention_mask=mask, past_kv_cache=cache, **where)
        for entry in cache.entries:
            entry.past_keys = entry.past_keys.repeat_interleave(n_prompts, dim=0)
            entry.past_values = entry.past_values.repeat_interleave(n_prompts, dim=0)
    own = resid[:, :, n_shared:].flatten(0, 1)
    repeated = vectors.repeat_interleave(n_prompts, dim=0)
    mask = batch.mask.repeat(n_candidates, 1)
    with model.hooks(fwd_hooks=hooks(repeated)):
        final = model(own, attention_mask=mask, past_kv_cache=cache, **where)
    logits = unembed(model, final[:, -1:])
    return logits.reshape(n_candidates, n_prompts, -1)
