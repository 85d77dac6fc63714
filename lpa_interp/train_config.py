"""The settings of training: attack, losses, schedule, adapter. Used through `lpa_interp.config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lpa_interp.methods import PRESETS
from lpa_interp.part import Part

PUBLISHED_SITES = ("hook_embed", "blocks.{0.25,0.5,0.75,0.9375}.hook_mlp_out")
"""Embedding and MLP outputs of layers 8, 16, 24 and 30 of 32, as fractions of depth."""
ATTACK_LOSSES = ("toward", "away", "dpo")
DEFENCE_LOSSES = ("toward", "away", "dpo", "sft", "kl", "reroute", "representation")


class TrainConfig(Part):
    """Latent adversarial training. Loss names follow arXiv 2407.15549, section 3."""

    preset: Literal["corrected", "published-llama2", "published-llama3", "custom"] = "corrected"
    """Fills every field below that the study does not set itself."""
    steps: int = Field(10, ge=0)
    """Outer steps: one attack and ``updates_per_step`` model updates each."""
    batch_size: int = Field(8, ge=1)
    attack: Literal["pgd", "random", "refusal_feature", "none"] = "pgd"
    """``random``: the norms of PGD's perturbations in random directions. ``refusal_feature``:
    the feature is ablated (ReFAT, arXiv 2409.20089)."""
    sites: tuple[str, ...] = PUBLISHED_SITES
    """Hook-point patterns that are attacked; each must carry d_model."""
    attack_tokens: Literal["prompt", "completion", "both"] = "both"
    attack_system: bool = True
    """Whether the tokens before the statement (system prompt, template) are attacked too."""
    constraint: Literal["l2_token", "l2_sequence", "linf", "low_rank"] = "l2_token"
    """Set that perturbations stay in: L2 ball per token (published) or per example, cube, or
    one direction per example."""
    epsilon: float = Field(0.2, gt=0)
    """Radius of the set per site, in ``epsilon_unit``."""
    epsilon_unit: Literal["absolute", "activation_norm"] = "activation_norm"
    """``activation_norm``: multiples of the site's median activation norm at attacked tokens,
    for other sets than ``l2_token`` turned into the same budget per token."""
    subspace: Path | None = None
    """Directions (safetensors, as ``lpa probe`` writes them) whose span confines the attack."""
    subspace_names: tuple[str, ...] = ()
    """Names of the directions to take from that file; none takes all."""
    subspace_side: Literal["inside", "outside"] = "inside"
    pgd_steps: int = Field(16, ge=0)
    pgd_learning_rate: float = Field(0.25, gt=0)
    """``absolute``: AdamW's step size per coordinate. ``activation_norm``: the share of epsilon
    by which one step moves a token (the step size per coordinate times sqrt(d_model))."""
    attack_toward: float = Field(0.5, ge=0)
    attack_away: float = Field(0.5, ge=0)
    attack_dpo: float = Field(0.0, ge=0)
    defence_toward: float = Field(0.5, ge=0)
    defence_away: float = Field(0.5, ge=0)
    defence_dpo: float = Field(0.0, ge=0)
    """Preference loss between the desired and the undesired answer (arXiv 2305.18290)."""
    dpo_beta: float = Field(0.3, gt=0)
    """Strength of the preference loss's pull to the base model (0.3: LAT's released code)."""
    defence_sft: float = Field(0.0, ge=0)
    defence_kl: float = Field(1.0, ge=0)
    defence_reroute: float = Field(0.0, ge=0)
    """Turns representations of undesired answers away from the base model's (circuit breakers,
    arXiv 2406.04313)."""
    defence_representation: float = Field(0.0, ge=0)
    """Keeps representations of retained answers near the base model's (same source)."""
    reroute_sites: tuple[str, ...] = ("blocks.{0.3125,0.625}.hook_resid_pre",)
    """Hook points that are rerouted: hidden states 10 and 20 of 32 as published."""
    reroute_schedule: bool = False
    """Reroute fades from 1 to 1/2 of its coefficient, representation rises from 0 to 1/2."""
    normalise_coefficients: bool = True
    """Divide attack and defence coefficients by their sums (LAT's released code)."""
    normalise_kl: bool = False
    """Divide the KL term by its own detached value, as published. Near a KL of 0, where every
    run starts, its gradient then outweighs all others and is mostly rounding."""
    refusal_feature_probability: float = Field(0.5, ge=0, le=1)
    """Share of examples whose refusal feature is ablated (ReFAT)."""
    refusal_feature_layers: float = Field(0.75, gt=0, le=1)
    """Share of the layers, from the last, where it is ablated (ReFAT)."""
    refusal_feature_pairs: int = Field(32, ge=1)
    """Prompts per side that the feature is averaged over (ReFAT)."""
    refusal_feature_every: int = Field(1, ge=1)
    """Outer steps between two readings of the feature (ReFAT: every 4 updates)."""
    products: Literal["model", "bfloat16"] = "model"
    """Precision of products with weights. ``bfloat16`` keeps weights, residual stream, attention
    and losses in the model's own, which should be float32: faster where the device gains."""
    learning_rate: float = Field(8e-5, gt=0)
    updates_per_step: int = Field(4, ge=0)
    """Model updates per attack; 0 trains nothing."""
    gradient_clip: float = Field(1.0, gt=0)
    """Maximum L2 norm of the gradient over all adapter weights."""
    restart_optimizer: bool = True
    """Start AdamW afresh at each outer step, as published."""
    lora_rank: int = Field(64, ge=1)
    lora_alpha: float = Field(8.0, gt=0)
    lora_targets: tuple[Literal["q", "k", "v", "o", "up", "down", "gate"], ...] = (
        "q",
        "k",
        "v",
        "o",
        "up",
        "down",
    )
    watch_every: int = Field(4, ge=0)
    """Outer steps between two looks at what the attacked model answers; 0 never looks."""
    watch_tokens: int = Field(24, ge=1)
    """Length of the watched answers, tokens."""
    watch_judge: Literal["harm_terms"] = "harm_terms"
    checkpoint_every: int = Field(1, ge=1)
    """Outer steps between checkpoints."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "corrected")
        filled = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
        return {**filled, **values}

    @model_validator(mode="after")
    def _something_to_learn(self) -> TrainConfig:
        if not any(self.attack_coefficients().values()):
            raise ValueError("attack_toward, attack_away and attack_dpo are all 0: set one above 0")
        if not any(self.defence_coefficients(0.5).values()):
            raise ValueError("all defence coefficients are 0: set one above 0")
        return self

    def attack_coefficients(self) -> dict[str, float]:
        """Weights of the attack's losses: ``toward``, ``away``, ``dpo``."""
        return self._scaled({name: getattr(self, f"attack_{name}") for name in ATTACK_LOSSES})

    def defence_coefficients(self, progress: float) -> dict[str, float]:
        """Weights of the defence's losses when ``progress`` (0 to 1) of the steps are done."""
        given = {name: getattr(self, f"defence_{name}") for name in DEFENCE_LOSSES}
        if self.reroute_schedule:
            # Source: circuit breakers' released code, coefficients at step t of T with t / 2T.
            given["reroute"] *= 1 - progress / 2
            given["representation"] *= progress / 2
        return self._scaled(given)

    def _scaled(self, coefficients: dict[str, float]) -> dict[str, float]:
        total = sum(coefficients.values())
        if not self.normalise_coefficients or total == 0:
            return coefficients
        return {name: value / total for name, value in coefficients.items()}

    @property
    def total_steps(self) -> int:
        """Outer steps that change the model: none where there are no updates."""
        return self.steps if self.updates_per_step else 0
