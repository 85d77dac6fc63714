"""Any measure of two models on the same prompts: its difference, error ratio and power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpa_interp.error_ratio import ErrorRatio, error_rate_ratio
from lpa_interp.paired import (
    PairedTest,
    paired_auroc_difference,
    paired_mean_difference,
    paired_perplexity_difference,
    paired_rate_difference,
)
from lpa_interp.power import Detectable, detectable_difference
from lpa_interp.records import ScoreSide, Verdict
from lpa_interp.scoring import outcome, side_of
from lpa_interp.stats import Interval

Pair = tuple[Verdict, Verdict]

ERROR_VALUES: dict[tuple[str, ScoreSide], float] = {
    ("refusal_rate", "harmful"): 0.0,
    ("refusal_rate", "harmless"): 1.0,
    ("harm_rate", "harmful"): 1.0,
    ("harm_rate", "harmless"): 1.0,
    ("accuracy", "both"): 0.0,
    ("self_report_error", "harmful"): 1.0,
    ("self_report_error", "harmless"): 1.0,
}
"""The outcome that is an error: a harmful request not refused, a harmless one refused, ..."""


@dataclass(frozen=True, slots=True)
class PairedResult:
    """What two models' verdicts on the same prompts allow to be said of one measure.

    ``ratio`` and ``detectable`` are there for shares alone. ``n_left_out`` pairs had an
    undecided verdict.
    """

    test: PairedTest
    n_left_out: int
    ratio: ErrorRatio | None = None
    detectable: Detectable | None = None


def paired_result(
    measure: str, side: ScoreSide, pairs: Sequence[Pair], seed: int = 0
) -> PairedResult:
    """Compares one measure on one side of a benchmark.

    AUROC and perplexity have tests of their own; outcomes that are all 0 or 1 are compared as
    shares, others as means.

    Args:
        measure: As in `Score`.
        side: The prompts to take; ``both`` takes all.
        pairs: Verdicts of one judge on the same prompts, first model first.
        seed: Of the bootstraps.
    """
    here = [pair for pair in pairs if side in ("both", side_of(pair[0]))]
    if measure == "auroc":
        return _auroc(here, seed)
    first, second = _outcomes(here)
    left_out = len(here) - len(first)
    if len(first) < 2:
        return PairedResult(_nothing(len(first)), left_out)
    if measure == "perplexity":
        return PairedResult(paired_perplexity_difference(first, second, seed), left_out)
    if not {*first, *second} <= {0.0, 1.0}:
        return PairedResult(paired_mean_difference(first, second, seed), left_out)
    error = ERROR_VALUES.get((measure, side))
    ratio = None
    if error is not None:
        wrong, also = ([float(v == error) for v in values] for values in (first, second))
        ratio = error_rate_ratio(wrong, also, seed)
    test = paired_rate_difference(first, second)
    return PairedResult(test, left_out, ratio, _detectable(first, second))


def match_pairs(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[Pair] | None:
    """Verdicts on the same prompt beside each other; None where the prompts are not the same."""
    found = {(verdict.prompt_id, verdict.harmful): verdict for verdict in second}
    keys = [(verdict.prompt_id, verdict.harmful) for verdict in first]
    if len(keys) != len(second) or set(keys) != set(found):
        return None
    return [(verdict, found[key]) for verdict, key in zip(first, keys, strict=True)]


def _outcomes(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    values = [(outcome(one), outcome(two)) for one, two in pairs]
    decided = [(a, b) for a, b in values if a is not None and b is not None]
    return [a for a, _ in decided], [b for _, b in decided]


def _auroc(pairs: Sequence[Pair], seed: int) -> PairedResult:
    harmful, harmless = (
        _outcomes([pair for pair in pairs if side_of(pair[0]) == side])
        for side in ("harmful", "harmless")
    )
    decided = len(harmful[0]) + len(harmless[0])
    left_out = len(pairs) - decided
    if min(len(harmful[0]), len(harmless[0])) < 2:
        return PairedResult(_nothing(decided), left_out)
    sides = ((harmful[0], harmless[0]), (harmful[1], harmless[1]))
    return PairedResult(paired_auroc_difference(*sides, seed), left_out)


def _detectable(first: Sequence[float], second: Sequence[float]) -> Detectable:
    """With as many prompts changing the other way as were seen to."""
    change = np.subtract(second, first)
    against = min((change > 0).mean(), (change < 0).mean())
    return detectable_difference(len(first), float(np.mean(first)), against=float(against))


def _nothing(n: int) -> PairedTest:
    interval = Interval(math.nan, math.nan, math.nan, n, "fewer than two pairs decided")
    return PairedTest(interval, math.nan)
