"""The defence of LAT: gradients of the adapter at a fixed perturbation, and the retain term.

Each group of losses goes backward by itself, so that only one graph is in memory; the
gradients add up to that of the weighted sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lpa_interp import losses
from lpa_interp.attack import AnswerLogProbs
from lpa_interp.batches import TraitBatch, answer_logits, first_non_finite
from lpa_interp.errors import NumericalError
from lpa_interp.lora import LoraAdapter
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import Perturbation
from lpa_interp.reroute import Hidden, hidden_states, representation_loss, reroute_loss
from lpa_interp.train_config import TrainConfig

LogProbs = Float[Tensor, "batch answer_pos d_vocab"]


@dataclass(frozen=True, slots=True)
class BaseReadings:
    """What the base model says of a step's batches; None where no loss asks for it.

    Read once per step: the base model does not change between the step's updates.
    """

    retain: LogProbs | None = None
    answers: AnswerLogProbs | None = None
    rerouted: Hidden | None = None
    kept: Hidden | None = None


@dataclass(frozen=True, slots=True)
class DefenceInputs:
    """What the updates of one step share."""

    attacked: TraitBatch
    retained: TraitBatch
    attack: Perturbation
    base: BaseReadings
    weights: dict[str, float]
    config: TrainConfig


@torch.no_grad()
def read_base(
    model: HookedTransformer,
    adapter: LoraAdapter,
    attacked: TraitBatch,
    retained: TraitBatch,
    config: TrainConfig,
) -> BaseReadings:
    """Reads the base model, without perturbation, where a loss compares with it."""
    with adapter.disabled():
        answers = retain = rerouted = kept = None
        if config.attack_dpo or config.defence_dpo:
            answers = _log_probs(answer_logits(model, attacked), attacked)
        if config.defence_kl:
            retain = losses.log_probs(answer_logits(model, retained)[0])
        if config.defence_reroute:
            rerouted = hidden_states(model, attacked.undesired_only(), config.reroute_sites)
        if config.defence_representation:
            kept = hidden_states(model, retained)
    return BaseReadings(retain, answers, rerouted, kept)


def accumulate_gradients(
    model: HookedTransformer, adapter: LoraAdapter, inputs: DefenceInputs
) -> dict[str, float]:
    """Adds the gradient of the defence's weighted losses to the adapter.

    Returns:
        ``defence_toward``, ``defence_away`` and ``retain``, plain, nats per token (``retain``
        is the cross entropy or the KL, their sum where both are on), and ``objective``, the
        weighted sum that is lowered.

    Raises:
        NumericalError: A loss or gradient is not finite; names the hook point or the weight.
    """
    values = {"defence_toward": 0.0, "defence_away": 0.0, "retain": 0.0, "objective": 0.0}
    for name, loss, shown in _terms(model, adapter, inputs):
        if not torch.isfinite(loss):
            deltas = inputs.attack.deltas if name == "attacked" else None
            batch = inputs.attacked if name in ("attacked", "rerouted") else inputs.retained
            place = first_non_finite(model, batch, deltas)
            raise NumericalError(f"the loss of {name} answers is not finite, first at {place}")
        if loss.requires_grad:
            loss.backward()
        values["objective"] += loss.item()
        for key, value in shown.items():
            values[key] += value.item()
    _check_gradients(adapter)
    return values


Term = tuple[str, Tensor, dict[str, Tensor]]


def _terms(model: HookedTransformer, adapter: LoraAdapter, inputs: DefenceInputs) -> Iterator[Term]:
    """Each group of losses: whose answers, the weighted loss, the plain parts for the log."""
    weights, config = inputs.weights, inputs.config
    with adapter.shared():
        yield _attacked(model, inputs)
    if weights["sft"] or weights["kl"]:
        with adapter.shared():
            yield _retained(model, inputs)
    if weights["reroute"]:
        assert inputs.base.rerouted is not None
        with adapter.shared():
            hidden = hidden_states(model, inputs.attacked.undesired_only(), config.reroute_sites)
            yield "rerouted", weights["reroute"] * reroute_loss(hidden, inputs.base.rerouted), {}
    if weights["representation"]:
        assert inputs.base.kept is not None
        with adapter.shared():
            distance = representation_loss(hidden_states(model, inputs.retained), inputs.base.kept)
            yield "kept", weights["representation"] * distance, {"retain": distance}


def _attacked(model: HookedTransformer, inputs: DefenceInputs) -> Term:
    """Toward, away and preference losses on the attacked statements."""
    batch, weights = inputs.attacked, inputs.weights
    wanted = weights["toward"] or weights["away"] or weights["dpo"]
    with model.hooks(fwd_hooks=inputs.attack.hooks), torch.set_grad_enabled(bool(wanted)):
        logits = answer_logits(model, batch, inputs.attack.deltas)
        toward = losses.toward(logits[0], batch.answers[0], batch.answer_mask[0])
        away = losses.away(logits[1], batch.answers[1], batch.answer_mask[1])
        loss = weights["toward"] * toward + weights["away"] * away
        if weights["dpo"]:
            assert inputs.base.answers is not None
            now = _log_probs(logits, batch)
            beta = inputs.config.dpo_beta
            loss = loss + weights["dpo"] * losses.preference(*now, *inputs.base.answers, beta)
    return "attacked", loss, {"defence_toward": toward, "defence_away": away}


def _retained(model: HookedTransformer, inputs: DefenceInputs) -> Term:
    """Cross entropy on the retained answers and KL to the base model."""
    batch, weights, config = inputs.retained, inputs.weights, inputs.config
    logits = answer_logits(model, batch)[0]
    labels, mask = batch.answers[0], batch.answer_mask[0]
    loss = shown = logits.new_zeros((), dtype=torch.float32)
    if weights["sft"]:
        shown = losses.toward(logits, labels, mask)
        loss = weights["sft"] * shown
    if weights["kl"]:
        assert inputs.base.retain is not None
        kl = losses.kl_divergence(logits, inputs.base.retain, mask)
        term = losses.self_normalised(kl) if config.normalise_kl else kl
        loss, shown = loss + weights["kl"] * term, shown + kl
    return "retained", loss, {"retain": shown}


def _log_probs(
    logits: Float[Tensor, "two batch answer_pos d_vocab"], batch: TraitBatch
) -> AnswerLogProbs:
    desired, undesired = losses.answer_log_probs(
        logits.flatten(0, 1), batch.answers.flatten(0, 1), batch.answer_mask.flatten(0, 1)
    ).chunk(2)
    return AnswerLogProbs(desired, undesired)


def _check_gradients(adapter: LoraAdapter) -> None:
    for (layer, role), update in adapter.updates.items():
        if not all(g is None or g.isfinite().all() for g in (update.a.grad, update.b.grad)):
            raise NumericalError(f"the gradient of {role} in layer {layer} is not finite")
