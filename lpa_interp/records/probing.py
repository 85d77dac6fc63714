"""Directions and rows of ``probes/`` that are read off activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpa_interp.records.labels import ModelLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A unit vector in the residual stream, kept in ``probes/directions.safetensors``.

    ``vector`` has shape [d_model] and unit L2 norm; ``raw_norm`` is the norm before it was
    normalised. ``position`` counts from the end of the prompt: -1 is the last token; 0 stands
    for the mean over the tokens of a completion.
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

    ``control`` is ``none``, ``shuffled`` (labels permuted by facet before fitting: a score far
    from 0.5 means that the procedure leaks) or ``control_task`` (a random label per facet, with
    every facet seen in training: what a probe reaches by telling facets apart).

    ``measure`` is ``auroc`` or ``balanced_accuracy``; ``auroc_selectivity`` and
    ``balanced_accuracy_selectivity`` (true labels minus control tasks under the same splits, 0
    where the trait is no easier than an arbitrary grouping; on rows of ``control_task``); or
    ``auroc_nested`` (the layer chosen on inner folds: ``hook_name`` is ``chosen``, ``layer`` and
    ``position`` the ones chosen most often).

    ``low`` and ``high`` bound the 95 % bootstrap interval over facets, or on rows of a control
    the central 95 % of its repetitions. ``p_value`` is the one-sided permutation p with the
    add-one correction, where one was computed.
    """

    model: ModelLabel
    target: str
    method: str
    control: Literal["none", "shuffled", "control_task"]
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
    p_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTransfer:
    """A probe of one text set read on another, a row of ``probes/transfer.jsonl``.

    The direction is fitted on ``train`` and scores ``test``; a text is never scored by a
    direction that saw its group, so that the diagonal is cross-validated. ``auroc`` is above
    0.5 where the sides of both sets point the same way, below where they point opposite ways.
    ``low`` and ``high`` bound the 95 % bootstrap interval over test groups, directions held
    fixed. ``p_value`` is two-sided, from test labels permuted by group, with the add-one
    correction; ``p_adjusted`` is Benjamini-Hochberg over the cells off the diagonal, and null on
    it. ``n_shared_groups`` counts the test groups that are also in the training set;
    ``position`` is where the training set was read, and ``n_folds`` is 1 where none is shared.
    """

    model: ModelLabel
    method: str
    hook_name: str
    layer: int
    position: int
    train: str
    test: str
    auroc: float
    low: float
    high: float
    p_value: float
    p_adjusted: float | None
    n_train: int
    n_test: int
    n_test_groups: int
    n_shared_groups: int
    n_folds: int
    n_permutations: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionStability:
    """Cosine of directions from two halves of the facets, a row of ``probes/stability.jsonl``.

    ``cosine`` is the mean over ``n_splits`` random halvings, ``low`` and ``high`` their central
    95 % (a spread over halvings of the same texts, not an interval for new texts).
    ``null_mean``, ``null_low`` and ``null_high`` are of the same mean with labels permuted by
    facet; ``p_value`` is one-sided with the add-one correction and ``p_adjusted``
    Benjamini-Hochberg over the rows computed together.
    """

    model: ModelLabel
    target: str
    method: str
    hook_name: str
    layer: int
    position: int
    cosine: float
    low: float
    high: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    n: int
    n_groups: int
    n_splits: int
    n_permutations: int
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
