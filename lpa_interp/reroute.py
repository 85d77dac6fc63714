"""Representation rerouting, the loss of circuit breakers.

Source: Zou et al. 2024, arXiv 2406.04313, algorithm 1 and its released code: harmful answers
are rerouted at hidden states 10 and 20 of 32, harmless ones kept at all hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp import losses
from lpa_interp.batches import TraitBatch, answer_logits
from lpa_interp.hooks import require_d_model, resolve_hooks
from lpa_interp.model import HookedTransformer, HookPoint

EVERY_LAYER = ("blocks.*.hook_resid_post",)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Activations of prompt and answer at hook points; ``mask`` is 1 at real tokens."""

    states: dict[str, Float[Tensor, "batch pos d_model"]]
    mask: Int[Tensor, "batch pos"]


def hidden_states(
    model: HookedTransformer, batch: TraitBatch, sites: Sequence[str] = EVERY_LAYER
) -> Hidden:
    """Reads prompt and the one answer of a batch at hook points, gradients included."""
    names = resolve_hooks(model, sites)
    require_d_model(names)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}

    def read(activation: Tensor, hook: HookPoint) -> None:
        parts[str(hook.name)].append(activation)

    with model.hooks(fwd_hooks=[(name, read) for name in names]):
        answer_logits(model, batch)
    states = {name: torch.cat(found, dim=1) for name, found in parts.items()}
    return Hidden(states, torch.cat([batch.prompt_mask, batch.answer_mask[0, :, :-1]], dim=1))


def reroute_loss(now: Hidden, base: Hidden) -> Float[Tensor, ""]:
    """ReLU of the cosine to the base model, mean over hook points and tokens."""
    found = [losses.rerouting(now.states[n], base.states[n], now.mask) for n in now.states]
    return torch.stack(found).mean()


def representation_loss(now: Hidden, base: Hidden) -> Float[Tensor, ""]:
    """L2 distance to the base model, mean over hook points and tokens."""
    found = [
        losses.representation_distance(now.states[n], base.states[n], now.mask) for n in now.states
    ]
    return torch.stack(found).mean()
