"""The rows that cross stages: plain frozen values, written as JSON lines.

Nothing here needs torch. Each record is one line of one file of the run directory; the
docstring of a record names its file. ``model`` is always one of the labels in `ModelLabel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TraitSide = Literal["positive", "negative"]
"""Positive statements describe traits to keep, negative ones traits to reject."""

PromptSide = Literal["harmful", "harmless"]

ScoreSide = Literal["harmful", "harmless", "both"]
"""``both`` is for measures that compare the two sides (AUROC) or need none (perplexity)."""

ModelLabel = Literal["source", "base", "lpa"]
"""``source``: the model as loaded. ``base``: what training starts from (the refusal organism,
or the source itself where no organism is made). ``lpa``: the base with the trained adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitStatement:
    """A first-person statement with the answer wanted and the answer not wanted.

    ``keying`` is ``plus`` where agreeing scores high on ``factor``, ``minus`` where low.
    """

    id: str
    text: str
    side: TraitSide
    factor: str
    facet: str
    keying: Literal["plus", "minus"]
    desired: str
    undesired: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request of a benchmark. ``pair`` joins a harmful request to its harmless twin."""

    id: str
    text: str
    harmful: bool
    category: str
    source: str
    split: str | None = None
    pair: str | None = None
    target: str | None = None

    @property
    def side(self) -> PromptSide:
        """The side of the benchmark that the prompt is on."""
        return "harmful" if self.harmful else "harmless"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A greedy completion, a row of ``behaviour/completions.jsonl``.

    ``text`` is redacted (its first 40 characters) on disk unless the user asks for all of it;
    ``sha256`` is of the whole text.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    prompt_id: str
    harmful: bool
    text: str
    redacted: bool
    sha256: str
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one judge says of one prompt, a row of ``behaviour/verdicts.jsonl``.

    ``value`` is 1 or 0 for a yes/no judge, nats for a log-odds judge, None where the judge
    could not decide. It is never a silent zero.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    prompt_id: str
    harmful: bool
    judge: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measure with its interval, a row of ``behaviour/scores.jsonl``.

    ``measure`` is one of ``refusal_rate`` (share, keyword judge), ``refusal_log_odds``
    (nats), ``self_report_error`` (share: would answer on the harmful side, would not on the
    harmless side), ``auroc`` (harmful against harmless refusal log-odds) and
    ``perplexity``. ``low`` and ``high`` bound the interval of the given ``level``.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    measure: str
    judge: str
    side: ScoreSide
    value: float
    low: float
    high: float
    n: int
    n_undecided: int = 0
    level: float = 0.95
    method: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two models on the same prompts, a row of ``behaviour/contrasts.jsonl``.

    ``difference`` is second minus first, in the measure's unit.
    """

    first: ModelLabel
    second: ModelLabel
    benchmark: str
    attack: str
    measure: str
    side: ScoreSide
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    method: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A unit vector in the residual stream, kept in ``probes/directions.safetensors``.

    ``vector`` has shape [d_model] and unit L2 norm; ``raw_norm`` is the norm before it was
    normalised. ``position`` counts from the end of the prompt: -1 is the last token.
    """

    name: str
    model: ModelLabel
    hook_name: str
    layer: int
    position: int
    method: str
    raw_norm: float
    n: int
    split: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """Cross-validated score of a probe, a row of ``probes/scores.jsonl``.

    ``control`` is ``none`` or ``shuffled`` (labels permuted by facet before fitting: a score
    far from 0.5 means that the procedure leaks).
    """

    model: ModelLabel
    target: str
    method: str
    control: Literal["none", "shuffled"]
    hook_name: str
    layer: int
    position: int
    measure: str
    value: float
    low: float
    high: float
    n: int
    n_groups: int
    n_folds: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One text on one direction, a row of ``probes/projections.jsonl``.

    ``value`` is the dot product with the unit direction, in activation units, measured from
    the midpoint between the direction's two class means.
    ``group`` is ``positive_trait``, ``negative_trait``, ``harmful`` or ``harmless``.
    """

    model: ModelLabel
    direction: str
    hook_name: str
    layer: int
    group: str
    text_id: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalCandidate:
    """One (position, layer) of the search, a row of ``probes/refusal_candidates.jsonl``.

    Scores are mean refusal log-odds in nats: ``bypass`` on harmful prompts with the
    direction ablated (lower is better), ``induce`` on harmless ones with it added (must be
    positive); ``kl`` is KL(unmodified || ablated) on harmless prompts in nats.
    ``rejected`` says which filter dropped it (``zero``, ``kl``, ``induce``, ``layer``), or is
    empty. A score is null where an earlier filter made it needless.
    Source: Arditi et al. 2024, arXiv 2406.11717, section 2.3 and appendix C.
    """

    model: ModelLabel
    position: int
    token: str
    layer: int
    bypass: float
    induce: float
    kl: float
    rejected: str
    selected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionAngle:
    """Cosine of two directions at one layer against a null, a row of ``probes/angles.jsonl``.

    ``null_low`` and ``null_high`` hold the central 95 % of the null; ``p_value`` is two-sided
    with the add-one correction; ``p_adjusted`` is Benjamini-Hochberg over layers.
    """

    model: ModelLabel
    first: str
    second: str
    hook_name: str
    layer: int
    cosine: float
    null: str
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    n_permutations: int
    n_first: int
    n_second: int
    seed: int


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
class SaeQuality:
    """How well the sparse autoencoder reads one model, a row of ``features/quality.jsonl``.

    ``variance_explained`` is 1 - residual / total variance; ``l0`` the mean number of active
    features per token; ``dead_fraction`` the share of features never active on the texts;
    ``ce_clean``, ``ce_sae`` and ``ce_zero`` the next-token cross entropy (nats) of the model
    unmodified, with the reconstruction put in, and with the hook point zeroed.
    """

    model: ModelLabel
    sae: str
    hook_name: str
    n_features: int
    n_training_tokens: int
    n_tokens: int
    variance_explained: float
    l0: float
    dead_fraction: float
    ce_clean: float
    ce_sae: float
    ce_zero: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShift:
    """A feature that differs between two groups, a row of ``features/shifts.jsonl``.

    ``contrast`` is ``traits`` (positive minus negative statements), ``requests`` (harmful
    minus harmless) or ``training`` (lpa minus base, on the statements and requests).
    ``effect`` is the difference of means divided by the pooled standard deviation;
    ``p_adjusted`` comes from label permutation with Benjamini-Hochberg over features.
    ``rank`` 1 is the largest absolute effect.
    """

    contrast: str
    model: ModelLabel
    hook_name: str
    feature: int
    rank: int
    mean_first: float
    mean_second: float
    effect: float
    p_value: float
    p_adjusted: float
    n_first: int
    n_second: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOverlap:
    """Shared top features of two contrasts, a row of ``features/overlaps.jsonl``.

    ``expected`` and ``p_value`` are those of the hypergeometric null among features that are
    ever active.
    """

    first: str
    second: str
    top_k: int
    shared: int
    expected: float
    p_value: float
    n_active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """What a stage cost, a row of ``stages.jsonl``. ``reused`` stages came from the cache."""

    stage: str
    seconds: float
    peak_memory_mib: float
    reused: bool
