"""Projected gradient descent on latent perturbations (the inner loop of LAT).

One vector per hook point, example and token, zero outside the attack mask and inside an L2
ball per token; AdamW from a zero start, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp import losses
from lpa_interp.batches import TraitBatch, answer_logits, first_non_finite
from lpa_interp.config import TrainConfig
from lpa_interp.errors import NumericalError
from lpa_interp.model import HookedTransformer, HookPoint

BOUND_TOLERANCE = 0.01
"""A token is at its bound when its norm lies within this share of epsilon."""


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A finished attack: ``deltas`` in activation units, ``epsilons`` the radius per site."""

    deltas: dict[str, Float[Tensor, "batch pos d_model"]]
    mask: Int[Tensor, "batch pos"]
    epsilons: dict[str, float]
    toward: float
    away: float

    def norms(self) -> dict[str, Float[Tensor, " attacked"]]:
        """L2 norms at the attacked tokens of each site."""
        return {name: delta.norm(dim=-1)[self.mask.bool()] for name, delta in self.deltas.items()}

    def mean_norm(self) -> float:
        """Mean norm over sites and attacked tokens."""
        return torch.cat(list(self.norms().values())).mean().item()

    def bound_fraction(self) -> float:
        """Share of (site, attacked token) pairs whose norm reaches epsilon."""
        reached = [
            norms >= (1 - BOUND_TOLERANCE) * self.epsilons[name]
            for name, norms in self.norms().items()
        ]
        return torch.cat(reached).float().mean().item()


def project(
    delta: Float[Tensor, "batch pos d_model"], epsilon: float
) -> Float[Tensor, "batch pos d_model"]:
    """Nearest point of the L2 ball of radius epsilon, token by token."""
    norms = delta.norm(dim=-1, keepdim=True)
    return delta * (epsilon / norms.clamp(min=epsilon))


def site_norms(
    model: HookedTransformer, batch: TraitBatch, sites: Sequence[str], mask: Tensor
) -> dict[str, float]:
    """Median L2 norm of the unperturbed activations at the attacked tokens of each site.

    Answer tokens are read under the desired answer.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in sites}

    def read(activation: Tensor, hook: HookPoint) -> Tensor:
        seen[str(hook.name)].append(activation.norm(dim=-1))
        return activation

    with torch.no_grad(), model.hooks(fwd_hooks=[(name, read) for name in sites]):
        answer_logits(model, batch.desired_only())
    norms = {}
    for name, parts in seen.items():
        values = torch.cat(parts, dim=1)
        norms[name] = values[mask[:, : values.shape[1]].bool()].median().item()
    return norms


def radii(
    model: HookedTransformer, batch: TraitBatch, sites: Sequence[str], config: TrainConfig
) -> dict[str, float]:
    """Epsilon of each site in activation units."""
    if config.epsilon_unit == "absolute":
        return dict.fromkeys(sites, config.epsilon)
    mask = batch.attack_mask(config.attack_tokens)
    norms = site_norms(model, batch, sites, mask)
    return {name: config.epsilon * norm for name, norm in norms.items()}


def pgd(
    model: HookedTransformer, batch: TraitBatch, sites: Sequence[str], config: TrainConfig
) -> Perturbation:
    """Searches for the perturbation that brings out the undesired answers.

    The model must be frozen. The loss is section 2's attack: toward the undesired answer and
    away from the desired one. Source: arXiv 2407.15549, equations 2 to 4.

    Raises:
        NumericalError: The loss or the gradient at a site is not finite.
    """
    mask = batch.attack_mask(config.attack_tokens)
    epsilons = radii(model, batch, sites, config)
    shape = (*mask.shape, model.cfg.d_model)
    deltas = {name: torch.zeros(shape, device=mask.device, requires_grad=True) for name in sites}
    optimizer = torch.optim.AdamW(
        [
            {"params": [delta], "lr": _step_size(config, epsilons[name], model.cfg.d_model)}
            for name, delta in deltas.items()
        ]
    )
    for iteration in range(config.pgd_steps):
        toward, away = attack_losses(model, batch, deltas)
        optimizer.zero_grad()
        loss = losses.weighted([(config.attack_toward, toward), (config.attack_away, away)])
        if not torch.isfinite(loss):
            place = first_non_finite(model, batch, deltas)
            raise NumericalError(f"the attack's loss is not finite, first at {place}")
        loss.backward()
        _check_gradients(deltas, iteration)
        optimizer.step()
        with torch.no_grad():
            for name, delta in deltas.items():
                delta.copy_(project(delta * mask[..., None], epsilons[name]))
    with torch.no_grad():
        toward, away = attack_losses(model, batch, deltas)
    fixed = {name: delta.detach() for name, delta in deltas.items()}
    return Perturbation(fixed, mask, epsilons, toward.item(), away.item())


def attack_losses(
    model: HookedTransformer, batch: TraitBatch, deltas: dict[str, Tensor]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Toward the undesired answers and away from the desired ones, nats per token."""
    desired, undesired = answer_logits(model, batch, deltas)
    return (
        losses.toward(undesired, batch.answers[1], batch.answer_mask[1]),
        losses.away(desired, batch.answers[0], batch.answer_mask[0]),
    )


def _step_size(config: TrainConfig, epsilon: float, d_model: int) -> float:
    """AdamW moves each coordinate by about its step size, a token by sqrt(d_model) times that."""
    if config.epsilon_unit == "absolute":
        return config.pgd_learning_rate
    return config.pgd_learning_rate * epsilon / d_model**0.5


def _check_gradients(deltas: dict[str, Tensor], iteration: int) -> None:
    for name, delta in deltas.items():
        if delta.grad is None or not torch.isfinite(delta.grad).all():
            raise NumericalError(
                f"the attack's gradient is not finite at {name}, PGD iteration {iteration}"
            )
