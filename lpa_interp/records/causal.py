"""Rows of ``probes/`` about interventions."""

from __future__ import annotations

from dataclasses import dataclass

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
