"""Rows of ``train/``."""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.records.labels import TraitSide


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """One outer step, a row of ``train/log.jsonl``.

    Losses are in nats per completion token. ``attack_toward`` (cross entropy of the undesired
    answers) and ``attack_away`` (-log(1 - p) of the desired ones) are what the finished attack
    achieves; with ``_start`` without a perturbation, with ``_after`` the same perturbation
    once the model has learned. ``defence_*``, ``retain`` and ``objective`` (the weighted sum
    that is lowered) are means over the step's updates, ``grad_norm`` the mean norm before
    clipping. ``perturbation_norm`` is the mean L2 norm over attacked tokens and sites, in the
    units of the activations; ``epsilon_bound_fraction`` the mean over sites of the share of
    constrained units within 1 % of their bound.
    """

    step: int
    attack_toward_start: float
    attack_away_start: float
    attack_toward: float
    attack_away: float
    attack_toward_after: float
    attack_away_after: float
    defence_toward: float
    defence_away: float
    retain: float
    objective: float
    perturbation_norm: float
    epsilon_bound_fraction: float
    grad_norm: float
    attack_seconds: float
    defence_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSite:
    """Whether the constraint was binding at one hook point, a row of ``train/sites.jsonl``.

    ``radius`` is that of the constraint set and ``activation_norm`` the median L2 norm of the
    unperturbed activations at attacked tokens, both in activation units, as is ``mean_norm``,
    the mean L2 norm of the perturbation over attacked tokens. ``bound_fraction`` is the share
    of constrained units (tokens, examples or coordinates) within 1 % of their bound.
    """

    step: int
    hook_name: str
    constraint: str
    radius: float
    activation_norm: float
    mean_norm: float
    bound_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedCompletion:
    """What the model said to a statement during training, a row of ``train/watched.jsonl``.

    ``attacked`` tells whether a perturbation or an intervention was applied. ``n_tokens`` counts
    the tokens before the end of the turn. ``text`` is redacted (its first 40 characters) unless
    the user asks for all of it; ``sha256`` is of the whole text, and the judge read all of it.
    ``harmful`` is 1 or 0, None where the judge could not decide. It is never a silent zero.
    """

    step: int
    statement_id: str
    side: TraitSide
    attacked: bool
    n_tokens: int
    text: str
    redacted: bool
    sha256: str
    judge: str
    harmful: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmRate:
    """How often watched completions were judged harmful, a row of ``train/harm_rates.jsonl``.

    ``n`` counts the decided completions and ``n_statements`` the statements watched. ``low`` and
    ``high`` bound the Wilson interval of the given ``level``. Where none is decided the rate and
    its bounds are NaN, which files show as null.
    """

    judge: str
    attacked: bool
    n: int
    n_undecided: int
    n_harmful: int
    n_statements: int
    rate: float
    low: float
    high: float
    level: float = 0.95
    method: str = "Wilson"
