"""Rows of ``probes/`` about interventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lpa_interp.records.labels import ModelLabel, PromptSide


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationEffect:
    """Refusal with a direction cut out everywhere, a row of ``probes/ablations.jsonl``.

    ``ablated`` is ``none``, ``trait``, ``refusal``, ``random`` (isotropic) or
    ``random_covariance`` (drawn with the covariance of the activations, so that it removes as
    much as a typical direction); a random control is the mean over ``n_draws`` directions.
    ``refusal_log_odds`` is in nats, ``change`` is against the unmodified model on the same
    prompts; both have 95 % intervals over prompts. ``kl`` is KL(unmodified || ablated) in nats
    at the last prompt token of the same prompts.
    """

    model: ModelLabel
    ablated: str
    side: PromptSide
    refusal_log_odds: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    kl: float
    n: int
    n_draws: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MediatedShare:
    """The share of a refusal gain that a subspace carries, ``probes/mediated_shares.jsonl``.

    ``gain`` is the mean refusal log-odds of ``second`` minus that of ``first`` on the same
    prompts, ``drop`` what ``second`` loses when the subspace of ``k`` dimensions is cut out, both
    in nats, and ``share`` is drop / gain: 1 where the whole gain goes through the subspace, more
    where it also carries refusal that ``first`` had. ``net_share`` is (drop in ``second`` - drop
    in ``first``) / gain, the part of the gain itself that vanishes; null where ``first`` was not
    ablated. ``over_random`` and ``over_matched`` are the share minus that of the two controls.

    ``ablated`` is ``trait``, ``refusal``, ``random`` (isotropic, of equal dimension) or
    ``random_matched`` (removes the same share of the squared norm too); a control is the mean
    over ``n_draws`` subspaces and names the subspace it belongs to in ``control_of``.
    ``removed_norm_share`` is the subspace's share of the residual stream's squared norm in
    ``second`` on these prompts. ``kl`` is KL(unmodified || ablated) of ``second`` in nats on these
    prompts, ``kl_harmless`` that on the harmless ones; where it is above the limit the row is
    ``damaged``: the ablation broke the model, and its share says nothing of refusal.

    Intervals are over prompts (and over draws, for controls) at ``level``. Where the gain is not
    clearly above zero no share exists: it is null, and ``reason`` says so.
    """

    first: ModelLabel
    second: ModelLabel
    ablated: str
    control_of: str
    k: int
    side: PromptSide
    gain: float
    gain_low: float
    gain_high: float
    drop: float
    drop_low: float
    drop_high: float
    share: float | None
    share_low: float | None
    share_high: float | None
    net_share: float | None
    net_low: float | None
    net_high: float | None
    over_random: float | None
    over_random_low: float | None
    over_random_high: float | None
    over_matched: float | None
    over_matched_low: float | None
    over_matched_high: float | None
    reason: str
    removed_norm_share: float
    kl: float
    kl_harmless: float
    damaged: bool
    n: int
    n_draws: int
    seed: int
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseEffect:
    """Refusal under one dose of one direction, a row of ``probes/doses.jsonl``.

    With ``intervention`` ``add``, ``dose`` times the direction's raw difference (not the unit
    vector) is added to the residual stream before ``layer`` at all positions. With ``ablate``,
    ``dose`` is the fraction, 0 to 1, of the component along the direction that is taken from
    everything that writes into the residual stream. ``direction`` is a name such as ``trait``,
    or ``random``: the mean over ``n_draws`` directions of equal norm, a control of the direction
    named in ``control_of``. ``change`` is against the unmodified model on the same prompts, in
    nats; ``kl`` is KL(unmodified || modified) in nats at the last prompt token.
    """

    model: ModelLabel
    direction: str
    control_of: str
    intervention: Literal["add", "ablate"]
    dose: float
    layer: int
    side: PromptSide
    refusal_log_odds: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    kl: float
    n: int
    n_draws: int
    seed: int
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchEffect:
    """Refusal with one model's activations in the other, a row of ``probes/patches.jsonl``.

    ``direction`` says whose residual stream before ``layer`` replaced whose, at ``positions``:
    ``last`` (the last prompt token) or ``post_instruction`` (all of the template's tokens after
    the instruction). ``recovered`` is the share of the difference between donor and recipient
    that the patch makes up, null with a ``reason`` where the two do not clearly differ.

    ``control`` is ``none`` (the same prompt's activations), ``mismatched`` (the donor's on another
    prompt of the side: what it recovers is not about this prompt) or ``own_mismatched`` (the
    recipient's own on another prompt: it should recover nothing). ``kl`` is KL(recipient ||
    patched) in nats at the last prompt token. Intervals are over prompts at ``level``.
    """

    direction: Literal["trained into base", "base into trained"]
    layer: int
    positions: Literal["last", "post_instruction"]
    control: Literal["none", "mismatched", "own_mismatched"]
    side: PromptSide
    refusal_log_odds: float
    low: float
    high: float
    recovered: float | None
    recovered_low: float | None
    recovered_high: float | None
    reason: str
    kl: float
    n: int
    seed: int
    level: float
