"""The last tokens of prompts, run from any layer on after keys and values kept of the rest.

In a causal model nothing before a token depends on it. Interventions on the last tokens of a
prompt therefore leave the keys and values of all earlier tokens alone, at every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.chat import Row, row_batches
from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer, new_cache, unembed


@dataclass(frozen=True, slots=True)
class SuffixBatch:
    """Prompts whose last tokens are yet to be run.

    ``indices`` are the prompts' places in the list they came from. ``keys`` and ``values`` hold
    a tensor [examples, pos, n_heads, d_head] per layer; ``mask`` [examples, pos + suffix] is 1
    for tokens. There is one example per prompt, or one per candidate and prompt after `repeated`.
    """

    indices: list[int]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Int[Tensor, "examples pos"]


@torch.no_grad()
def suffix_batches(
    model: HookedTransformer, rows: Sequence[Row], n_suffix: int, batch_size: int
) -> Iterator[SuffixBatch]:
    """Runs everything but the last ``n_suffix`` tokens of each prompt, in batches.

    Raises:
        InputError: A prompt has no token before these.
    """
    if min(len(row) for row in rows) <= n_suffix:
        raise InputError("prompts", "one is too short", f"more than {n_suffix} tokens")
    n_layers = model.cfg.n_layers
    for indices, tokens, mask in row_batches(model, [row[:-n_suffix] for row in rows], batch_size):
        cache = new_cache(model, len(indices))
        model(tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=n_layers)
        keys = tuple(entry.past_keys for entry in cache.entries)
        values = tuple(entry.past_values for entry in cache.entries)
        whole = torch.cat([mask, mask.new_ones(len(indices), n_suffix)], dim=1)
        yield SuffixBatch(indices, keys, values, whole)


def repeated(batch: SuffixBatch, n_candidates: int) -> SuffixBatch:
    """The batch once per candidate, candidates outermost."""
    return SuffixBatch(
        batch.indices,
        tuple(keys.repeat(n_candidates, 1, 1, 1) for keys in batch.keys),
        tuple(values.repeat(n_candidates, 1, 1, 1) for values in batch.values),
        batch.mask.repeat(n_candidates, 1),
    )


@torch.no_grad()
def suffix_logits(
    model: HookedTransformer,
    batch: SuffixBatch,
    resid: Float[Tensor, "candidates prompts suffix d_model"],
    layer: int,
) -> Float[Tensor, "candidates prompts d_vocab"]:
    """Logits at the last token, given the residual stream of the last tokens before a layer."""
    own = resid.flatten(0, 1).to(model.cfg.device, model.cfg.dtype)
    cache = new_cache(model, len(own))
    for entry, keys, values in zip(cache.entries, batch.keys, batch.values, strict=True):
        entry.past_keys, entry.past_values = keys, values
    final = model(
        own,
        attention_mask=batch.mask,
        past_kv_cache=cache,
        start_at_layer=layer,
        stop_at_layer=model.cfg.n_layers,
    )
    logits = unembed(model, final[:, -1:])
    return logits.reshape(*resid.shape[:2], -1)
