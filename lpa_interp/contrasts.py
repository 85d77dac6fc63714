"""Two models on the same prompts: paired differences, their intervals and p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lpa_interp.judges import LOG_ODDS_JUDGE
from lpa_interp.paired import (
    PairedTest,
    paired_auroc_difference,
    paired_mean_difference,
    paired_perplexity_difference,
    paired_rate_difference,
)
from lpa_interp.records import Contrast, ScoreSide, Verdict
from lpa_interp.scoring import LOSS_JUDGE, MEASURES, SIDES, grouped, outcome, side_of
from lpa_interp.stats import Interval

if TYPE_CHECKING:
    from lpa_interp.evaluation import Evaluation

Pair = tuple[Verdict, Verdict]


def contrasts(before: Evaluation, after: Evaluation, seed: int) -> list[Contrast]:
    """Every measure of two evaluations compared on the same prompts.

    Rates: exact McNemar with a Tango score interval. Log-odds: BCa bootstrap over prompts with
    sign-flip p. AUROC and perplexity: percentile bootstrap over prompts or blocks. A prompt on
    which either verdict is undecided is left out; n counts the rest, and is 0 with null bounds
    where none is left.

    Raises:
        ValueError: The two did not judge the same prompts.
    """
    first, second = grouped(before.verdicts), grouped(after.verdicts)
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())[0]
        raise ValueError(f"only one evaluation has {', '.join(odd)}")
    rows = []
    for group, members in first.items():
        pairs = _paired(members, second[group])
        judge = group[2]
        if judge == LOSS_JUDGE:
            rows.append(_contrast(pairs, "both", "perplexity", _perplexity(pairs, seed), seed))
            continue
        for side in SIDES:
            found = [pair for pair in pairs if side_of(pair[0]) == side]
            if found:
                test = _tested(judge, found, seed)
                rows.append(_contrast(pairs, side, MEASURES[judge], test, seed))
        if judge == LOG_ODDS_JUDGE and len({side_of(pair[0]) for pair in pairs}) == 2:
            rows.append(_contrast(pairs, "both", "auroc", _auroc(pairs, seed), seed))
    return rows


def _paired(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[Pair]:
    matches = {(verdict.prompt_id, verdict.harmful): verdict for verdict in second}
    keys = [(verdict.prompt_id, verdict.harmful) for verdict in first]
    if len(keys) != len(second) or set(keys) != set(matches):
        place = f"{first[0].benchmark}, {first[0].attack}"
        raise ValueError(f"{place}: the two evaluations did not judge the same prompts")
    return [(verdict, matches[key]) for verdict, key in zip(first, keys, strict=True)]


def _outcomes(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """Values of the pairs in which both verdicts are decided."""
    values = [(outcome(first), outcome(second)) for first, second in pairs]
    decided = [(a, b) for a, b in values if a is not None and b is not None]
    return [a for a, _ in decided], [b for _, b in decided]


def _tested(judge: str, pairs: Sequence[Pair], seed: int) -> PairedTest:
    first, second = _outcomes(pairs)
    if judge == LOG_ODDS_JUDGE:
        return paired_mean_difference(first, second, seed)
    if not first:
        nothing = Interval(math.nan, math.nan, math.nan, 0, "no pair decided")
        return PairedTest(nothing, math.nan)
    return paired_rate_difference(first, second)


def _auroc(pairs: Sequence[Pair], seed: int) -> PairedTest:
    harmful, harmless = (
        _outcomes([pair for pair in pairs if side_of(pair[0]) == side]) for side in SIDES
    )
    return paired_auroc_difference((harmful[0], harmless[0]), (harmful[1], harmless[1]), seed)


def _perplexity(pairs: Sequence[Pair], seed: int) -> PairedTest:
    return paired_perplexity_difference(*_outcomes(pairs), seed)


def _contrast(
    pairs: Sequence[Pair], side: ScoreSide, measure: str, test: PairedTest, seed: int
) -> Contrast:
    first, second = pairs[0]
    return Contrast(
        first=first.model,
        second=second.model,
        benchmark=first.benchmark,
        attack=first.attack,
        measure=measure,
        side=side,
        difference=test.interval.value,
        low=test.interval.low,
        high=test.interval.high,
        p_value=test.p_value,
        n=test.interval.n,
        method=test.interval.method,
        seed=seed,
    )
