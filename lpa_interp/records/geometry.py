"""Rows of ``probes/`` about angles between directions."""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.records.labels import ModelLabel


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
