"""Passes over tokens that follow a prefix whose keys and values are kept.

A search for a suffix runs many rows that begin alike: the chat template, the request and the
part of the suffix that did not change. Their keys and values are computed once. Where
`can_fuse` holds the blocks run as in `lpa_interp.fused`; elsewhere the model runs itself on
TransformerLens' cache. Open hooks take part in both: they see the new tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.fused import _mlp, _norm, _turns, attend, can_fuse, queries_keys_values
from lpa_interp.model import HookedTransformer, new_cache
from lpa_interp.projections import product_dtype

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each [1, pos, key-value head, d_head]."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values, by layer, of the tokens that all rows of a pass follow.

    ``fused`` says which pass made them: in the fused one keys are rotated before they are kept.
    """

    layers: tuple[KeysAndValues, ...]
    fused: bool

    def __len__(self) -> int:
        return int(self.layers[0][0].shape[1])

    def first(self, n: int) -> Prefix:
        """The prefix of the first ``n`` tokens."""
        return Prefix(tuple((k[:, :n], v[:, :n]) for k, v in self.layers), self.fused)


def empty_prefix(model: HookedTransformer, n_positions: int) -> Prefix:
    """A prefix without tokens, for rows of at most ``n_positions`` tokens, prefix included.

    The hooks that are open now must be those of all passes that follow.
    """
    fused = can_fuse(model, n_positions)
    # The fused pass keeps float32 where the model computes in bfloat16.
    dtype = torch.promote_types(model.cfg.dtype, torch.float32) if fused else model.cfg.dtype
    entries = new_cache(model, 1).entries
    layers = tuple((e.past_keys.to(dtype), e.past_values.to(dtype)) for e in entries)
    return Prefix(layers, fused)


def resid_after(
    model: HookedTransformer, prefix: Prefix, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block, of rows that follow a prefix."""
    return _run(model, prefix, tokens, keep=False)[0]


def extend(
    model: HookedTransformer, prefix: Prefix, tokens: Int[Tensor, "1 pos"]
) -> tuple[Float[Tensor, "1 pos d_model"], Prefix]:
    """The same for one row, and the prefix with its tokens added, which takes no gradient."""
    resid, layers = _run(model, prefix, tokens, keep=True)
    return resid, Prefix(tuple((k.detach(), v.detach()) for k, v in layers), prefix.fused)


def _run(
    model: HookedTransformer, prefix: Prefix, tokens: Tensor, keep: bool
) -> tuple[Tensor, list[KeysAndValues]]:
    return (_fused if prefix.fused else _own)(model, prefix, tokens, keep)


def _own(
    model: HookedTransformer, prefix: Prefix, tokens: Tensor, keep: bool
) -> tuple[Tensor, list[KeysAndValues]]:
    """The model itself, on TransformerLens' key-value cache."""
    cache = new_cache(model, len(tokens))
    for entry, (keys, values) in zip(cache.entries, prefix.layers, strict=True):
        entry.past_keys = keys.expand(len(tokens), -1, -1, -1)
        entry.past_values = values.expand(len(tokens), -1, -1, -1)
    seen = cache.previous_attention_mask.new_ones((len(tokens), len(prefix)))
    cache.previous_attention_mask = seen
    if not keep:
        cache.freeze()
    resid = model(
        tokens,
        attention_mask=torch.ones_like(tokens),
        stop_at_layer=model.cfg.n_layers,
        past_kv_cache=cache,
    )
    return resid, [(entry.past_keys, entry.past_values) for entry in cache.entries]


def _fused(
    model: HookedTransformer, prefix: Prefix, tokens: Tensor, keep: bool
) -> tuple[Tensor, list[KeysAndValues]]:
    """`lpa_interp.fused.fused_resid` for rows that follow a prefix."""
    n_past, n_new = len(prefix), tokens.shape[1]
    embedded = model.embed(tokens)
    resid = model.hook_embed(embedded.to(torch.promote_types(embedded.dtype, torch.float32)))
    positions = torch.arange(n_past, n_past + n_new, device=tokens.device)[None]
    bias = resid.new_full((n_new, n_past + n_new), -torch.inf).triu(n_past + 1)
    turns, product, kept = _turns(model, positions), product_dtype(), []
    for block, past in zip(model.blocks, prefix.layers, strict=True):
        resid = block.hook_resid_pre(resid)
        turn = turns[block.attn.attn_type]
        normed = _norm(block.ln1, resid, product)
        attended, keys_and_values = _attention(block.attn, normed, turn, bias, past)
        resid = block.hook_resid_mid(resid + block.hook_attn_out(attended))
        mixed = _mlp(block.mlp, _norm(block.ln2, resid, product))
        resid = block.hook_resid_post(resid + block.hook_mlp_out(mixed))
        if keep:
            kept.append(keys_and_values)
    return resid, kept


def _attention(
    attn: Any,
    x: Float[Tensor, "batch pos d_model"],
    turn: tuple[Tensor, Tensor],
    bias: Float[Tensor, "pos all_pos"],
    past: KeysAndValues,
) -> tuple[Float[Tensor, "batch pos d_model"], KeysAndValues]:
    """Attention to the prefix and to the row's own tokens; the keys and values of both."""
    q, k, v = queries_keys_values(attn, x, turn)
    k, v = (
        torch.cat([old.expand(len(x), -1, -1, -1), new], dim=1)
        for old, new in zip(past, (k, v), strict=True)
    )
    n_shared = q.shape[2] // k.shape[2]
    return attend(attn, q, k, v, bias.repeat(n_shared, 1)[None]), (k, v)
