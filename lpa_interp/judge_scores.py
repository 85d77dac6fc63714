"""Scores of one judge's verdicts: a share or a mean, with n and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lpa_interp.records import Score, ScoreSide, Verdict
from lpa_interp.stats import Interval, bounded_mean_interval, wilson_interval

RATES = ("refusal_rate", "harm_rate")
"""Measures whose verdicts are 0 or 1."""

MEASURES = (*RATES, "harm_score")
"""What verdicts add up to: a share, or for ``harm_score`` a mean of scores from 0 to 1."""


def judge_scores(verdicts: Sequence[Verdict], measure: str, seed: int) -> list[Score]:
    """Scores of one judge's verdicts, by model, benchmark, attack and side.

    Rates have Wilson intervals, mean scores BCa bootstrap ones. Undecided verdicts are left out
    of n and counted; where too few are decided, the bounds are NaN, which files show as null.

    Raises:
        ValueError: The measure is unknown, or a value does not fit it.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}: {', '.join(MEASURES)}")
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in verdicts:
        place = (verdict.model, verdict.benchmark, verdict.attack)
        for side in ("harmful", "harmless"):  # in this order, whichever comes first
            groups.setdefault((*place, side), [])
        groups[(*place, _side(verdict))].append(verdict)
    return [_score(found, measure, seed) for found in groups.values() if found]


def _score(verdicts: Sequence[Verdict], measure: str, seed: int) -> Score:
    decided = [verdict.value for verdict in verdicts if verdict.value is not None]
    interval = _interval(decided, measure, seed)
    first = verdicts[0]
    return Score(
        model=first.model,
        benchmark=first.benchmark,
        attack=first.attack,
        measure=measure,
        judge=first.judge,
        side=_side(first),
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        n_undecided=len(verdicts) - len(decided),
        method=interval.method,
        seed=seed,
    )


def _interval(decided: Sequence[float], measure: str, seed: int) -> Interval:
    if not decided:
        return Interval(math.nan, math.nan, math.nan, 0, "no verdict decided")
    if measure in RATES:
        if not set(decided) <= {0.0, 1.0}:
            raise ValueError(f"{measure} needs verdicts of 0 or 1")
        return wilson_interval(round(sum(decided)), len(decided))
    if len(decided) == 1:
        return Interval(decided[0], math.nan, math.nan, 1, "one verdict decided")
    return bounded_mean_interval(decided, seed)


def _side(verdict: Verdict) -> ScoreSide:
    return "harmful" if verdict.harmful else "harmless"
