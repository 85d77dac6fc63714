"""The study: one frozen, validated description of a run.

Every field has its unit and source beside it. Unknown keys are errors. A study file holds
one table per stage; `lpa_interp.study_file` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lpa_interp.methods import PRESETS, method_settings
from lpa_interp.part import Part
from lpa_interp.train_config import PUBLISHED_SITES, TrainConfig

__all__ = [
    "PRESETS",
    "PUBLISHED_SITES",
    "EvaluateConfig",
    "FeatureConfig",
    "ModelConfig",
    "OrganismConfig",
    "ProbeConfig",
    "Study",
    "TrainConfig",
    "TraitsConfig",
]


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
    """Where the statements come from, and what is changed about them."""

    source: Literal[
        "builtin",
        "published_csv",
        "ipip_neo",
        "anthropic_persona",
        "abstract",
        "requests",
        "advbench",
        "harmbench",
    ] = "builtin"
    """Personality statements, the ``abstract`` control, or harmful requests with refusals."""
    path: Path | None = None
    """Folder or file of a public source; none looks in ``LPA_DATA_DIR``."""
    factor: str | None = None
    """Only the statements of this factor, such as ``agreeableness``."""
    variant: Literal["as_given", "swapped_sides", "shuffled_answers"] = "as_given"
    """A control: sides or answers changed over."""
    system_prompt: str | None = None
    """System message before each statement; none uses the chat template's own default."""


class EvaluateConfig(Part):
    """What is measured before and after training."""

    benchmarks: tuple[str, ...] = ("requests", "jailbreakbench")
    """Names from ``lpa benchmarks``. Those not on this machine are skipped, with the reason."""
    attacks: tuple[str, ...] = ("direct", "prefill")
    """Names from ``lpa attacks``, some with an argument: ``many_shot:32``."""
    judges: tuple[str, ...] = ("keyword",)
    """Judges of the whole completions, before redaction; ``lpa judge`` adds others."""
    translations: Path | None = None
    """CSV or JSONL of translated prompts, for the attack ``translation``."""
    limit: int | None = Field(None, ge=2)
    """Prompts per side and benchmark; none takes all."""
    max_new_tokens: int = Field(32, ge=1)
    batch_size: int = Field(16, ge=1)
    store_completions: bool = False
    """Keep whole completions on disk instead of their first 40 characters."""
    perplexity_tokens: int = Field(4096, ge=2)
    """Tokens of text for perplexity."""
    utility: tuple[str, ...] = ()
    """Tasks of ``lpa tasks`` whose accuracy is measured; those not here are skipped, with the
    reason."""
    utility_limit: int | None = Field(100, ge=2)
    """Items per task; none takes all."""
    kl_prompts: int = Field(32, ge=0)
    """Harmless prompts per benchmark on which the distance from the base model is measured."""
    kl_tokens: int = Field(8, ge=1)
    """Tokens of the base model's answers at which it is measured."""


class ProbeConfig(Part):
    """Trait probes, refusal direction, angles and ablations."""

    methods: tuple[
        Literal["mean_difference", "mass_mean", "logistic", "lda", "linear_svm"], ...
    ] = ("mean_difference", "logistic")
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
    nested_permutations: int = Field(100, ge=19)
    """Label permutations of the nested score and of each cell of the transfer matrix."""
    transfer_sets: tuple[str, ...] = ("builtin", "requests")
    """Text sets that probes are trained on and read on; `lpa traits --sets` lists them."""
    transfer_limit: int | None = Field(100, ge=10)
    """Texts per side and set; none takes all."""
    persona_traits: tuple[Literal["evil", "sycophantic", "hallucinating"], ...] = (
        "evil",
        "sycophantic",
        "hallucinating",
    )
    """Personas of Chen et al. whose directions are read, where their prompts are here."""
    persona_questions: int = Field(5, ge=2, le=100)
    """Questions of each persona, dealt in turn to its five pairs of opposed instructions and asked
    under both of a pair (Chen et al. ask all twenty under all: 100). Each is read in about the
    time of 300 tokens."""
    subspace_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Dimensions of the trait subspaces that the causal share is measured for."""
    doses: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
    """Multiples of a direction's raw difference that are added in the base model."""
    patch_every: int = Field(2, ge=1)
    """Every n-th layer is patched from one model into the other."""
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
    method: str = "lpa"
    """What is trained: LPA, a control or a rival (`lpa methods` lists them). Its settings are
    fixed; the study sets the others."""
    model: ModelConfig = ModelConfig()
    organism: OrganismConfig = OrganismConfig()
    traits: TraitsConfig = TraitsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    probes: ProbeConfig = ProbeConfig()
    features: FeatureConfig = FeatureConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_method(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {
            name: part.model_dump(exclude_unset=True) if isinstance(part, Part) else part
            for name, part in values.items()
        }
        if not all(isinstance(given.get(name, {}), dict) for name in ("traits", "train")):
            return values  # the tables' own validation says what is wrong
        name = given.get("method", "lpa")
        try:
            return {**given, **method_settings(str(name), given)}
        except ValueError as error:
            raise ValueError(f"method {name!r}: {error}") from None
