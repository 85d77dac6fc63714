"""Projected gradient descent on latent perturbations (the inner loop of LAT).

One vector per hook point, example and token, zero outside the attack mask and inside the
constraint's set; AdamW from a zero start, as published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lpa_interp import losses
from lpa_interp.batches import TraitBatch, answer_logits, first_non_finite
from lpa_interp.constraints import project, site_radius
from lpa_interp.errors import NumericalError
from lpa_interp.model import HookedTransformer, HookPoint
from lpa_interp.perturbation import AttackLosses, Perturbation, Site
from lpa_interp.train_config import TrainConfig

Bases = Mapping[str, Float[Tensor, "k d_model"]]
"""Orthonormal directions by hook point: the subspace that an attack is kept in or out of."""


class AnswerLogProbs(NamedTuple):
    """Log-probabilities of the whole answers of a batch, nats."""

    desired: Float[Tensor, " batch"]
    undesired: Float[Tensor, " batch"]


def pgd(
    model: HookedTransformer,
    batch: TraitBatch,
    sites: Sequence[str],
    config: TrainConfig,
    bases: Bases | None = None,
    reference: AnswerLogProbs | None = None,
) -> Perturbation:
    """Searches for the perturbation that brings out the undesired answers.

    The model must be frozen. The losses are toward the undesired answer, away from the desired
    one, and the preference for the undesired one. Source: arXiv 2407.15549, equations 2 to 4.

    Args:
        model: The model under attack.
        batch: The attacked statements.
        sites: Hook points that carry d_model.
        config: Losses, set, step size and length of the search.
        bases: Subspace of each site, for a trait-subspace attack.
        reference: The base model's answers, for the preference loss.

    Raises:
        NumericalError: The loss or the gradient at a site is not finite.
    """
    mask = batch.attack_mask(config.attack_tokens, config.attack_system)
    shape, bases = (*mask.shape, model.cfg.d_model), bases or {}
    deltas = {name: torch.zeros(shape, device=mask.device, requires_grad=True) for name in sites}
    with _reading_norms(model, sites) as seen:
        loss, start = attack_loss(model, batch, deltas, config, reference)
    held = _held(model, batch, seen, config)
    steps = {n: _step_size(config, site.token_radius, shape[-1]) for n, site in held.items()}
    optimizer = torch.optim.AdamW([{"params": [deltas[n]], "lr": steps[n]} for n in sites])
    for iteration in range(config.pgd_steps):
        if iteration:
            loss, _ = attack_loss(model, batch, deltas, config, reference)
        optimizer.zero_grad()
        if not torch.isfinite(loss):
            place = first_non_finite(model, batch, deltas)
            raise NumericalError(f"the attack's loss is not finite, first at {place}")
        loss.backward()
        _check_gradients(deltas, iteration)
        optimizer.step()
        with torch.no_grad():
            for name, delta in deltas.items():
                inside = config.subspace_side == "inside"
                radius = held[name].radius
                kept = project(delta, mask, radius, config.constraint, bases.get(name), inside)
                delta.copy_(kept)
    fixed = {name: delta.detach() for name, delta in deltas.items()}
    reached = measure(model, batch, fixed, config)
    return Perturbation(start, reached, mask, fixed, held, bases)


def attack_loss(
    model: HookedTransformer,
    batch: TraitBatch,
    deltas: Mapping[str, Tensor],
    config: TrainConfig,
    reference: AnswerLogProbs | None = None,
) -> tuple[Float[Tensor, ""], AttackLosses]:
    """The weighted loss that the attack lowers, and its two plain parts."""
    desired, undesired = answer_logits(model, batch, deltas)
    labels, mask = batch.answers, batch.answer_mask
    toward = losses.toward(undesired, labels[1], mask[1])
    away = losses.away(desired, labels[0], mask[0])
    weights = config.attack_coefficients()
    loss = weights["toward"] * toward + weights["away"] * away
    if weights["dpo"]:
        assert reference is not None
        wanted = losses.answer_log_probs(undesired, labels[1], mask[1])
        unwanted = losses.answer_log_probs(desired, labels[0], mask[0])
        base = (reference.undesired, reference.desired)
        loss = loss + weights["dpo"] * losses.preference(wanted, unwanted, *base, config.dpo_beta)
    return loss, AttackLosses(toward.item(), away.item())


@torch.no_grad()
def measure(
    model: HookedTransformer,
    batch: TraitBatch,
    deltas: Mapping[str, Tensor],
    config: TrainConfig,
) -> AttackLosses:
    """What a fixed perturbation achieves against the model as it is now."""
    desired, undesired = answer_logits(model, batch, deltas)
    labels, mask = batch.answers, batch.answer_mask
    toward = losses.toward(undesired, labels[1], mask[1])
    return AttackLosses(toward.item(), losses.away(desired, labels[0], mask[0]).item())


def measure_sites(
    model: HookedTransformer, batch: TraitBatch, sites: Sequence[str], config: TrainConfig
) -> dict[str, Site]:
    """Activation norm and radius of each site."""
    with torch.no_grad(), _reading_norms(model, sites) as seen:
        answer_logits(model, batch)
    return _held(model, batch, seen, config)


def site_norms(
    model: HookedTransformer, batch: TraitBatch, sites: Sequence[str], mask: Tensor
) -> dict[str, float]:
    """Median L2 norm of the unperturbed activations at the masked tokens of each site.

    Answer tokens are read under the desired answer.

    Raises:
        NumericalError: A norm is not finite; names the hook point.
    """
    with torch.no_grad(), _reading_norms(model, sites) as seen:
        answer_logits(model, batch.desired_only())
    return _medians(model, batch, seen, mask)


@contextmanager
def _reading_norms(
    model: HookedTransformer, sites: Sequence[str]
) -> Iterator[dict[str, list[Tensor]]]:
    """L2 norms of the activations that pass each site inside the block."""
    seen: dict[str, list[Tensor]] = {name: [] for name in sites}

    def read(activation: Tensor, hook: HookPoint) -> None:
        seen[str(hook.name)].append(activation.detach().norm(dim=-1))

    with model.hooks(fwd_hooks=[(name, read) for name in sites]):
        yield seen


def _medians(
    model: HookedTransformer, batch: TraitBatch, seen: Mapping[str, list[Tensor]], mask: Tensor
) -> dict[str, float]:
    """Medians over the masked tokens of what was read of prompts and desired answers."""
    medians = {}
    for name, parts in seen.items():
        # A packed pass sees prompt and answers in a row, a cached one the prompt before them;
        # the last token of an answer is never run.
        norms = torch.cat([part[: len(mask)] for part in parts], dim=1)[:, : mask.shape[1] - 1]
        medians[name] = norms[mask[:, : norms.shape[1]].bool()].median().item()
        if not medians[name] < float("inf"):
            place = first_non_finite(model, batch)
            raise NumericalError(f"activations are not finite before the attack, first at {place}")
    return medians


def _held(
    model: HookedTransformer,
    batch: TraitBatch,
    seen: Mapping[str, list[Tensor]],
    config: TrainConfig,
) -> dict[str, Site]:
    """The constraint of each site."""
    mask = batch.attack_mask(config.attack_tokens, config.attack_system)
    n_tokens, medians = mask.sum().item() / len(mask), _medians(model, batch, seen, mask)
    return {
        name: _site(norm, config, n_tokens, model.cfg.d_model) for name, norm in medians.items()
    }


def _site(norm: float, config: TrainConfig, n_tokens: float, d_model: int) -> Site:
    if config.epsilon_unit == "absolute":
        return Site(norm, config.epsilon, config.epsilon)
    scale = (config.epsilon, norm, n_tokens, d_model)
    return Site(norm, site_radius(config.constraint, *scale), site_radius("l2_token", *scale))


def _step_size(config: TrainConfig, token_radius: float, d_model: int) -> float:
    """AdamW moves each coordinate by about its step size, a token by sqrt(d_model) times that."""
    if config.epsilon_unit == "absolute":
        return config.pgd_learning_rate
    return config.pgd_learning_rate * token_radius / d_model**0.5


def _check_gradients(deltas: Mapping[str, Tensor], iteration: int) -> None:
    for name, delta in deltas.items():
        if delta.grad is None or not torch.isfinite(delta.grad).all():
            raise NumericalError(
                f"the attack's gradient is not finite at {name}, PGD iteration {iteration}"
            )
