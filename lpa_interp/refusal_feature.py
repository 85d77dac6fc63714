"""The refusal feature of ReFAT: read from the model in training, and ablated while it learns.

Source: Yu et al. 2024, arXiv 2409.20089, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lpa_interp.chat import Row, row_batches
from lpa_interp.hooks import HookFunction, Intervention
from lpa_interp.model import HookedTransformer, HookPoint


def feature_layers(n_layers: int, share: float) -> range:
    """The last ``share`` of the layers, at least one."""
    return range(min(n_layers - 1, round(n_layers * (1 - share))), n_layers)


@torch.no_grad()
def refusal_features(
    model: HookedTransformer,
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    layers: Sequence[int],
    batch_size: int = 16,
) -> dict[str, Float[Tensor, " d_model"]]:
    """Mean ``resid_pre`` at the last prompt token, harmful minus harmless, of each layer.

    Means are sums in float64; a layer where the two are equal has the zero vector.

    Args:
        model: The model as it is now, adapter included.
        harmful: Token rows of harmful prompts.
        harmless: Token rows of harmless prompts.
        layers: Layers to read.
        batch_size: Prompts per forward pass.
    """
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    sides = [_means(model, rows, names, batch_size) for rows in (harmful, harmless)]
    return {name: (sides[0][name] - sides[1][name]).float() for name in names}


def _means(
    model: HookedTransformer, rows: Sequence[Row], names: Sequence[str], batch_size: int
) -> dict[str, Tensor]:
    sums = {name: torch.zeros(model.cfg.d_model, dtype=torch.float64) for name in names}

    def read(activation: Tensor, hook: HookPoint) -> None:
        sums[str(hook.name)] += activation[:, -1].cpu().double().sum(0)

    for _, tokens, mask in row_batches(model, rows, batch_size):
        with model.hooks(fwd_hooks=[(name, read) for name in names]):
            model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
    return {name: total / len(rows) for name, total in sums.items()}


def feature_ablation(
    features: dict[str, Float[Tensor, " d_model"]], examples: Bool[Tensor, " batch"]
) -> Intervention:
    """Cuts each layer's own feature out of its residual stream, for the chosen examples."""
    return [(name, _ablate_some(feature, examples)) for name, feature in features.items()]


def _ablate_some(
    feature: Float[Tensor, " d_model"], examples: Bool[Tensor, " batch"]
) -> HookFunction:
    unit = torch.nn.functional.normalize(feature, dim=0)

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        direction = unit.to(activation)
        # On a key-value cache the answers of a batch follow each other along the first axis.
        chosen = examples.to(activation.device).repeat(len(activation) // len(examples))
        share = (activation @ direction) * chosen[:, None].to(activation.dtype)
        return activation - share[..., None] * direction

    return hook_function
