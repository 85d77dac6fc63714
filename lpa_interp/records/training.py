"""Rows of ``train/``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """One outer step, a row of ``train/log.jsonl``.

    Losses are in nats per completion token. ``attack_*`` are the losses at the last PGD
    iteration, ``defence_*`` and ``retain`` the means over the step's model updates.
    ``perturbation_norm`` is the mean L2 norm over attacked tokens and sites, in the units of
    the activations; ``epsilon_bound_fraction`` the share of attacked (site, token) pairs
    whose norm lies within 1 % of epsilon. ``grad_norm`` is the mean norm before clipping.
    """

    step: int
    attack_toward: float
    attack_away: float
    defence_toward: float
    defence_away: float
    retain: float
    perturbation_norm: float
    epsilon_bound_fraction: float
    grad_norm: float
    attack_seconds: float
    defence_seconds: float
