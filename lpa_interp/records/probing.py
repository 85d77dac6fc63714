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
