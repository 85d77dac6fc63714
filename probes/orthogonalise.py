"""Weights that cannot write along a direction: ablation without hooks.

Every matrix and bias that writes into the residual stream has its output projected off the
direction. The model then computes what it would with the direction cut out of every
``resid_pre``, ``attn_out`` and ``mlp_out``, at no cost when it runs.

Where a norm with gain g stands between a weight and the residual stream (Gemma 2 and 3, OLMo 2),
there is no such edit. The stream receives g * y / rms(y) of the output y. The weight
diag(1/g) P diag(g) W, with P the projection, takes the direction out of g * y, but without it y
has another size, and so rms(y): all that is left is rescaled, by an amount that differs from
token to token. Ablation by hooks, which cut behind the norm, is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lpa_interp.errors import InputError
from lpa_interp.lora import LowRankUpdate
from lpa_interp.model import HookedTransformer

_NORM_AFTER_WRITERS = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
_RESCALED = (
    "the norm divides by the size of what the weights write, which changes when they are "
    "projected, so that no edit of them equals ablation"
)
_HOOKS = (
    "cut the direction out with hooks, which is exact: probes.open_direction(model, direction), or "
    "model.hooks(fwd_hooks=lpa_interp.hooks.ablation(model, vector))"
)


@contextmanager
def orthogonalised(
    model: HookedTransformer, direction: Float[Tensor, " d_model"]
) -> Iterator[HookedTransformer]:
    """Inside, no weight of the model can write along the direction; after, all are as before.

    Embeddings, attention outputs and MLP outputs are projected, biases and the updates of an
    attached adapter included (which may be switched on or off inside). The unembedding reads and
    is left alone. The projected weights are copies: memory for them is needed for the time of
    the block.

    Args:
        model: The model, changed inside the block.
        direction: Of any norm but zero.

    Raises:
        InputError: The direction is zero, not finite or not of this model, or the model's writers
            cannot be projected (a norm or several experts between them and the residual stream).

    Source: Arditi et al. 2024, arXiv 2406.11717, section 4.1, equation 5: W - r r^T W.
    """
    if direction.shape != (model.cfg.d_model,):
        allowed = f"this model's d_model is {model.cfg.d_model}"
        raise InputError("direction", f"has shape {tuple(direction.shape)}", allowed)
    wide = direction.detach().double().cpu()
    if not torch.isfinite(wide).all() or not wide.any():
        raise InputError("direction", "is zero or not finite")
    _require_plain_writers(model)
    unit = wide / wide.norm()
    weights = writing_weights(model)
    # Swapped, not overwritten: a tied unembedding may share the embedding's memory.
    kept = [weight.data for weight, _ in weights]
    try:
        for weight, axis in weights:
            weight.data = _projected(weight.data, unit, axis)
        yield model
    finally:
        for (weight, _), before in zip(weights, kept, strict=True):
            weight.data = before


def writing_weights(model: HookedTransformer) -> list[tuple[nn.Parameter, int]]:
    """Every parameter that writes into the residual stream, with the axis that is d_model.

    Where an adapter is attached to a weight, the weight under it and the update's ``b``.

    Raises:
        InputError: A weight has a parametrization other than an adapter.
    """
    found = _parameters(model.embed, "W_E")
    if hasattr(model, "pos_embed"):
        found += _parameters(model.pos_embed, "W_pos")
    for block in model.blocks:
        found += _parameters(block.attn, "W_O") + _parameters(block.attn, "b_O")
        if hasattr(block, "mlp"):
            found += _parameters(block.mlp, "W_out") + _parameters(block.mlp, "b_out")
    return found


def _parameters(module: nn.Module, name: str) -> list[tuple[nn.Parameter, int]]:
    """The parameters behind a weight; none where the module has no such weight."""
    if not parametrize.is_parametrized(module, name):
        weight = dict(module.named_parameters(recurse=False)).get(name)
        return [] if weight is None else [(weight, -1)]
    layers: Any = module.parametrizations[name]  # type: ignore[index]
    updates = list(layers)
    if not all(isinstance(update, LowRankUpdate) for update in updates):
        raise InputError(f"weight {name}", "has a parametrization that is not an adapter")
    return [(layers.original, -1), *((update.b, 0) for update in updates)]


def _projected(weight: Tensor, unit: Tensor, axis: int) -> Tensor:
    """A copy without the direction along one axis, in the weight's dtype and memory order."""
    projected = weight.clone()
    last = projected.movedim(axis, -1)
    wide_type = torch.float32 if weight.device.type == "mps" else torch.float64
    unit = unit.to(weight.device, wide_type)
    # In parts: a large embedding should not be whole in memory in a wider type.
    for part in last.split(4096) if last.dim() > 1 else (last,):
        wide = part.to(wide_type)
        part.copy_(wide - (wide @ unit)[..., None] * unit)
    return projected


def _require_plain_writers(model: HookedTransformer) -> None:
    cfg = model.cfg
    obstacles = {
        f"a norm after each attention and MLP: {_RESCALED}": cfg.use_normalization_before_and_after
        or cfg.original_architecture in _NORM_AFTER_WRITERS,
        f"a norm after its embedding: {_RESCALED}": cfg.post_embedding_ln,
        "several experts, whose weights are not projected here": cfg.num_experts,
    }
    for what, there in obstacles.items():
        if there:
            raise InputError("model", f"has {what}", _HOOKS)
