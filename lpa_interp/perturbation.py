"""The result of an attack: what is changed inside the model, and what it achieved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.constraints import bound_fraction
from lpa_interp.hooks import Intervention
from lpa_interp.records import AttackSite
from lpa_interp.train_config import TrainConfig


@dataclass(frozen=True, slots=True)
class AttackLosses:
    """Losses of the attack, nats per answer token: low ``toward`` means a strong attack.

    ``toward`` is the cross entropy of the undesired answers, ``away`` -log(1 - p) of the
    desired ones.
    """

    toward: float
    away: float


@dataclass(frozen=True, slots=True)
class Site:
    """The constraint at one hook point, in activation units.

    ``norm`` is the median L2 norm of the unperturbed activations at attacked tokens, ``radius``
    that of the constraint set, ``token_radius`` the L2 budget of a token it stands for.
    """

    norm: float
    radius: float
    token_radius: float


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A finished attack.

    ``deltas`` are added at hook points over prompt and answer positions; ``hooks`` are
    interventions that hold everywhere. ``start`` and ``reached`` are the losses before and
    after the search.
    """

    start: AttackLosses
    reached: AttackLosses
    mask: Int[Tensor, "batch pos"]
    deltas: Mapping[str, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    sites: Mapping[str, Site] = field(default_factory=dict)
    bases: Mapping[str, Float[Tensor, "k d_model"]] = field(default_factory=dict)
    hooks: Intervention = field(default_factory=list)

    def norms(self) -> dict[str, Float[Tensor, " attacked"]]:
        """L2 norms at the attacked tokens of each site."""
        return {name: delta.norm(dim=-1)[self.mask.bool()] for name, delta in self.deltas.items()}

    def mean_norm(self) -> float:
        """Mean norm over sites and attacked tokens; 0 where nothing is added."""
        norms = list(self.norms().values())
        return torch.cat(norms).mean().item() if norms else 0.0

    def site_rows(self, step: int, config: TrainConfig) -> list[AttackSite]:
        """Whether the constraint was binding at each site."""
        norms = self.norms()
        return [
            AttackSite(
                step=step,
                hook_name=name,
                constraint=config.constraint,
                radius=site.radius,
                activation_norm=site.norm,
                mean_norm=norms[name].mean().item(),
                bound_fraction=bound_fraction(
                    self.deltas[name],
                    self.mask,
                    site.radius,
                    config.constraint,
                    self.bases.get(name),
                ),
            )
            for name, site in self.sites.items()
        ]
