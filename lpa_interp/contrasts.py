"""Two models on the same prompts: paired differences, their intervals and p-values."""

from __future__ import annotations

from collections.abc import Sequence

from lpa_interp.paired_measures import Pair, match_pairs, paired_result
from lpa_interp.records import Contrast, ScoreSide, Verdict
from lpa_interp.scoring import SEPARATING, SIDES, WHOLE, grouped, side_of


def contrasts(before: Sequence[Verdict], after: Sequence[Verdict], seed: int) -> list[Contrast]:
    """Every measure of two models' verdicts compared on the same prompts.

    Rates: exact McNemar with a Tango score interval. Means: BCa bootstrap over prompts with
    sign-flip p. AUROC and perplexity: percentile bootstrap over prompts or blocks. A prompt on
    which either verdict is undecided is left out; n counts the rest, and is 0 with null bounds
    where none is left. Judges that only one of the two was given are left out.

    Raises:
        ValueError: The two did not judge the same prompts.
    """
    first, second = (
        {key[1:]: members for key, members in grouped(verdicts).items()}
        for verdicts in (before, after)
    )
    rows = []
    for place, members in first.items():
        if place not in second:
            continue
        measure, pairs = place[-1], match_pairs(members, second[place])
        if pairs is None:
            where = f"{place[0]}, {place[1]}"
            raise ValueError(f"{where}: the two evaluations did not judge the same prompts")
        sides: tuple[ScoreSide, ...] = ("both",) if measure in WHOLE else SIDES
        for side in sides:
            if side == "both" or any(side_of(pair[0]) == side for pair in pairs):
                rows.append(_contrast(pairs, side, measure, seed))
        if measure in SEPARATING and len({side_of(pair[0]) for pair in pairs}) == 2:
            rows.append(_contrast(pairs, "both", "auroc", seed))
    return rows


def _contrast(pairs: Sequence[Pair], side: ScoreSide, measure: str, seed: int) -> Contrast:
    first, second = pairs[0]
    test = paired_result(measure, side, pairs, seed).test
    return Contrast(
        first=first.model,
        second=second.model,
        benchmark=first.benchmark,
        attack=first.attack,
        judge="none" if measure == "perplexity" else first.judge,
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
