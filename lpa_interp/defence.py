"""The defence of LAT: gradients of the adapter at a fixed perturbation, and the retain term.

The attacked statements and the retained ones go backward one after the other, so that only
one of the two graphs is in memory; their gradients add up to that of the weighted sum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lpa_interp import losses
from lpa_interp.attack import Perturbation
from lpa_interp.batches import TraitBatch, answer_logits, first_non_finite
from lpa_interp.config import TrainConfig
from lpa_interp.errors import NumericalError
from lpa_interp.lora import LoraAdapter
from lpa_interp.model import HookedTransformer

Logits = Float[Tensor, "batch answer_pos d_vocab"]


def base_logits(
    model: HookedTransformer, adapter: LoraAdapter, retain: TraitBatch, config: TrainConfig
) -> Logits | None:
    """The base model's logits on the retained statements; None where no KL term needs them."""
    if config.defence_kl == 0:
        return None
    with torch.no_grad(), adapter.disabled():
        return answer_logits(model, retain)[0]


def accumulate_gradients(
    model: HookedTransformer,
    adapter: LoraAdapter,
    attack_batch: TraitBatch,
    attack: Perturbation,
    retain_batch: TraitBatch,
    base: Logits | None,
    config: TrainConfig,
) -> dict[str, float]:
    """Adds the gradient of the defence's weighted losses to the adapter.

    Returns:
        ``defence_toward``, ``defence_away`` and ``retain``: the plain losses, nats per token.
        ``retain`` is the cross entropy or the KL, their sum where both are on.

    Raises:
        NumericalError: A loss or gradient is not finite; names the hook point or the weight.
    """
    total = config.defence_toward + config.defence_away + config.defence_sft + config.defence_kl
    with adapter.shared():
        desired, undesired = answer_logits(model, attack_batch, attack.deltas)
        labels, mask = attack_batch.answers, attack_batch.answer_mask
        toward = losses.toward(desired, labels[0], mask[0])
        away = losses.away(undesired, labels[1], mask[1])
        loss = config.defence_toward / total * toward + config.defence_away / total * away
        if not torch.isfinite(loss):
            place = first_non_finite(model, attack_batch, attack.deltas)
            raise NumericalError(f"the defence's loss is not finite, first at {place}")
        loss.backward()
    values = {"defence_toward": toward.item(), "defence_away": away.item(), "retain": 0.0}
    if config.defence_sft > 0 or base is not None:
        values["retain"] = _retain(model, adapter, retain_batch, base, config, total)
    _check_gradients(adapter)
    return values


def _retain(
    model: HookedTransformer,
    adapter: LoraAdapter,
    batch: TraitBatch,
    base: Logits | None,
    config: TrainConfig,
    total: float,
) -> float:
    """Adds the gradient of the retain term; its plain value."""
    with adapter.shared():
        logits = answer_logits(model, batch)[0]
        labels, mask = batch.answers[0], batch.answer_mask[0]
        loss = shown = logits.new_zeros(())
        if config.defence_sft > 0:
            shown = losses.toward(logits, labels, mask)
            loss = config.defence_sft / total * shown
        if base is not None:
            kl = losses.kl_divergence(logits, base, mask)
            term = losses.self_normalised(kl) if config.normalise_kl else kl
            loss, shown = loss + config.defence_kl / total * term, shown + kl
        if not torch.isfinite(loss):
            place = first_non_finite(model, batch)
            raise NumericalError(f"the retain term is not finite, first at {place}")
        loss.backward()
    return shown.item()


def _check_gradients(adapter: LoraAdapter) -> None:
    for (layer, role), update in adapter.updates.items():
        if not all(g is None or g.isfinite().all() for g in (update.a.grad, update.b.grad)):
            raise NumericalError(f"the gradient of {role} in layer {layer} is not finite")
