"""Rows of ``features/``."""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.records.labels import ModelLabel


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
