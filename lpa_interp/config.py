"""The study: one frozen, validated description of a run.

Every field has its unit and source beside it. Unknown keys are errors. A study file holds
one table per stage; `lpa_interp.study_file` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PUBLISHED_SITES = ("hook_embed", "blocks.{0.25,0.5,0.75,0.9375}.hook_mlp_out")
"""Embedding and MLP outputs of layers 8, 16, 24 and 30 of 32, as fractions of depth."""


class Part(BaseModel):
    """A part of the study: frozen, and strict about names and types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


class ModelConfig(Part):
    """Which model, and how it is held."""

    name: str = "smollm2-135m-instruct"
    """The embedded default, a TransformerLens name, a Hugging Face folder or a .gguf file."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
    """Run code that ships with the model. Off unless you know what it does."""


class OrganismConfig(Part):
    """The refusal organism: a short supervised run that gives the source model refusals.

    Set ``enabled = false`` for a model that refuses already.
    """

    enabled: bool = True
    steps: int = Field(90, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    lora_rank: int = Field(16, ge=1)
    answer_tokens: int = Field(24, ge=1)
    """Length of the model's own answers to the harmless requests, tokens."""


class TraitsConfig(Part):
    """Where the personality statements come from."""

    source: Literal["builtin", "published_csv", "ipip_neo", "anthropic_persona"] = "builtin"
    path: Path | None = None
    """Folder or file for every source but ``builtin``."""
    system_prompt: str | None = None
    """System message before each statement; none uses the chat template's own default."""


class TrainConfig(Part):
    """Latent adversarial training. Loss names follow arXiv 2407.15549, section 3."""

    preset: Literal["corrected", "published-llama2", "published-llama3", "custom"] = "corrected"
    """Fills every field below that the study does not set itself."""
    steps: int = Field(10, ge=0)
    """Outer steps: one attack and ``updates_per_step`` model updates each."""
    batch_size: int = Field(8, ge=1)
    sites: tuple[str, ...] = PUBLISHED_SITES
    """Hook-point patterns that are attacked; each must carry d_model."""
    attack_tokens: Literal["prompt", "completion", "both"] = "both"
    epsilon: float = Field(0.2, gt=0)
    """Radius of the L2 ball per token and site, in ``epsilon_unit``."""
    epsilon_unit: Literal["absolute", "activation_norm"] = "activation_norm"
    """``activation_norm``: multiples of the site's median activation norm at attacked tokens."""
    pgd_steps: int = Field(16, ge=0)
    pgd_learning_rate: float = Field(0.25, gt=0)
    """``absolute``: AdamW's step size per coordinate. ``activation_norm``: the share of epsilon
    by which one step moves a token (the step size per coordinate times sqrt(d_model))."""
    attack_toward: float = Field(0.5, ge=0)
    attack_away: float = Field(0.5, ge=0)
    defence_toward: float = Field(0.5, ge=0)
    defence_away: float = Field(0.5, ge=0)
    defence_sft: float = Field(0.0, ge=0)
    defence_kl: float = Field(1.0, ge=0)
    normalise_kl: bool = False
    """Divide the KL term by its own detached value, as published. Near a KL of 0, where every
    run starts, its gradient then outweighs all others and is mostly rounding."""
    learning_rate: float = Field(8e-5, gt=0)
    updates_per_step: int = Field(4, ge=1)
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
        if self.attack_toward + self.attack_away == 0:
            raise ValueError("attack_toward and attack_away are both 0: set one above 0")
        if self.defence_toward + self.defence_away + self.defence_sft + self.defence_kl == 0:
            raise ValueError("all defence coefficients are 0: set one above 0")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    # LAT's released notebook for Llama-2-7B-chat.
    "published-llama2": {
        "steps": 100,
        "batch_size": 16,
        "attack_tokens": "prompt",
        "epsilon": 6.0,
        "epsilon_unit": "absolute",
        "pgd_learning_rate": 5e-2,
        "defence_sft": 1.5,
        "defence_kl": 0.0,
        "learning_rate": 2e-5,
    },
    # LAT's released notebook for Llama-3-8B, used by LPA for every other model.
    "published-llama3": {
        "steps": 20,
        "batch_size": 1,
        "attack_tokens": "both",
        "epsilon": 6.0,
        "epsilon_unit": "absolute",
        "pgd_learning_rate": 1e-3,
        "defence_sft": 0.0,
        "defence_kl": 0.1,
        "normalise_kl": True,
        "learning_rate": 8e-5,
    },
    # Ours: epsilon in units of the activations, so that the constraint binds and one recipe
    # carries over between models; the defaults of `TrainConfig`.
    "corrected": {},
    "custom": {},
}


class EvaluateConfig(Part):
    """What is measured before and after training."""

    benchmarks: tuple[str, ...] = ("requests", "jailbreakbench")
    """Names from ``lpa benchmarks``. Those not on this machine are skipped, with the reason."""
    attacks: tuple[Literal["direct", "prefill"], ...] = ("direct", "prefill")
    limit: int | None = Field(None, ge=2)
    """Prompts per side and benchmark; none takes all."""
    max_new_tokens: int = Field(32, ge=1)
    batch_size: int = Field(16, ge=1)
    store_completions: bool = False
    """Keep whole completions on disk instead of their first 40 characters."""
    perplexity_tokens: int = Field(4096, ge=2)
    """Tokens of text for perplexity."""


class ProbeConfig(Part):
    """Trait probes, refusal direction, angles and ablations."""

    methods: tuple[Literal["mean_difference", "logistic"], ...] = ("mean_difference", "logistic")
    statement_position: Literal["instruction_end", "last"] = "instruction_end"
    """Where statements are read: at the first template token after the statement, or at the
    last prompt token, which holds less of the statement and more of the answer to come."""
    n_folds: int = Field(5, ge=2)
    batch_size: int = Field(16, ge=1)
    n_permutations: int = Field(500, ge=19)
    n_random_directions: int = Field(4, ge=1)
    """Random directions that the ablation control averages over."""
    ablation_prompts: int = Field(48, ge=2)
    """Test prompts per side on which ablations are measured."""
    refusal_train: int = Field(64, ge=2)
    """Prompts per side that candidate directions are averaged over (Arditi et al.: 128)."""
    refusal_validation: int = Field(32, ge=2)
    """Prompts per side that choose among the candidates (Arditi et al.: 32)."""
    max_kl: float = Field(0.1, gt=0)
    """Largest allowed KL of the ablated model on harmless prompts, nats (Arditi et al.)."""
    min_induce: float = 0.0
    stop_early: bool = False
    """Score no further a candidate that failed a filter: the same choice in half the time, but
    gaps in the map of candidates."""
    drop_last_layers: float = Field(0.2, ge=0, lt=1)
    """Share of the last layers that cannot hold the chosen direction (Arditi et al.)."""


class FeatureConfig(Part):
    """The sparse autoencoder: one trained here, or a pretrained one."""

    enabled: bool = True
    pretrained_release: str | None = None
    """SAELens release; with ``pretrained_id`` it replaces training."""
    pretrained_id: str | None = None
    corpus: Path | None = None
    """A UTF-8 text file, or a folder of .txt files, to train on beside the shipped texts."""
    hook_name: str = "blocks.{0.5}.hook_resid_post"
    n_features: int = Field(2304, ge=8)
    k: int = Field(32, ge=1)
    """Active features per token (TopK)."""
    training_tokens: int = Field(100_000, ge=1024)
    context_size: int = Field(128, ge=8)
    learning_rate: float = Field(1e-3, gt=0)
    top_k: int = Field(20, ge=1)
    """Features listed per contrast."""
    n_permutations: int = Field(5000, ge=19)


class Study(Part):
    """A whole run: every stage's settings and the seed they share."""

    name: str = "study"
    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    organism: OrganismConfig = OrganismConfig()
    traits: TraitsConfig = TraitsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    probes: ProbeConfig = ProbeConfig()
    features: FeatureConfig = FeatureConfig()
