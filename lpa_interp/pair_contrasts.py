"""All measures of two models, of one run or of two, where both judged the same prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lpa_interp.compared_runs import ComparedRun
from lpa_interp.paired_measures import PairedResult, match_pairs, paired_result
from lpa_interp.records import ModelLabel, RunContrast, ScoreSide, Verdict

Group = tuple[str, str, str]
"""Benchmark, attack and judge."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model of a run."""

    run: ComparedRun
    model: ModelLabel

    def __str__(self) -> str:
        return f"{self.run.label} ({self.model})"


def pair_contrasts(
    first: Place, second: Place, seed: int = 0
) -> tuple[list[RunContrast], list[str]]:
    """One row per benchmark, attack, measure and side, and a line for what is refused.

    A benchmark is refused where the two were not measured on the same prompts, by their ids and
    by the hash of their texts in ``provenance.json``; perplexities also where the models under
    the runs differ, whose tokens are not the same.
    """
    sides = [_by_group(place) for place in (first, second)]
    kinds = _kinds(first.run)
    rows: list[RunContrast] = []
    refused: dict[str, list[str]] = {}
    for group in (group for group in sides[0] if group in sides[1]):
        pairs = match_pairs(sides[0][group], sides[1][group])
        reason = "" if pairs is not None else "not the same prompts"
        reason = reason or _why_not(first.run, second.run, group[0])
        for measure, side in kinds.get(group, ()):
            why = reason or _why_not_perplexity(first.run, second.run, measure)
            if why or pairs is None:
                refused.setdefault(why, []).append(group[0])
                continue
            result = paired_result(measure, side, pairs, seed)
            rows.append(_row(first, second, group, measure, side, result, seed))
    lines = [
        f"{first} and {second}: no paired statement on {', '.join(dict.fromkeys(names))}: {why}"
        for why, names in refused.items()
    ]
    return rows, lines


def _by_group(place: Place) -> dict[Group, list[Verdict]]:
    groups: dict[Group, list[Verdict]] = {}
    for verdict in place.run.verdicts:
        if verdict.model == place.model:
            key = (verdict.benchmark, verdict.attack, verdict.judge)
            groups.setdefault(key, []).append(verdict)
    return groups


def _kinds(run: ComparedRun) -> dict[Group, list[tuple[str, ScoreSide]]]:
    """Measures and sides that each judge's verdicts add up to in the run's scores.

    A score without a judge, such as perplexity, belongs to the verdicts of its benchmark.
    """
    by_place: dict[tuple[str, str], dict[str, list[tuple[str, ScoreSide]]]] = {}
    for score in run.scores:
        judges = by_place.setdefault((score.benchmark, score.attack), {})
        kinds = judges.setdefault(score.judge, [])
        if (score.measure, score.side) not in kinds:
            kinds.append((score.measure, score.side))
    found: dict[Group, list[tuple[str, ScoreSide]]] = {}
    for verdict in run.verdicts:
        judges = by_place.get((verdict.benchmark, verdict.attack), {})
        key = (verdict.benchmark, verdict.attack, verdict.judge)
        found[key] = judges.get(verdict.judge, judges.get("none", []))
    return found


def _why_not(first: ComparedRun, second: ComparedRun, benchmark: str) -> str:
    hashes = [run.provenance.get("data_hashes", {}).get(benchmark) for run in (first, second)]
    return "not the same prompts" if None not in hashes and hashes[0] != hashes[1] else ""


def _why_not_perplexity(first: ComparedRun, second: ComparedRun, measure: str) -> str:
    if measure != "perplexity":
        return ""
    models = [
        run.provenance.get("model", run.settings.get("model.name")) for run in (first, second)
    ]
    return "" if models[0] == models[1] else "perplexities of different models do not compare"


def _row(
    first: Place,
    second: Place,
    group: Group,
    measure: str,
    side: ScoreSide,
    result: PairedResult,
    seed: int,
) -> RunContrast:
    interval, ratio, found = result.test.interval, result.ratio, result.detectable
    return RunContrast(
        first_run=first.run.label,
        first_model=first.model,
        second_run=second.run.label,
        second_model=second.model,
        benchmark=group[0],
        attack=group[1],
        measure=measure,
        judge=group[2],
        side=side,
        difference=_finite(interval.value),
        low=_finite(interval.low),
        high=_finite(interval.high),
        p_value=_finite(result.test.p_value),
        p_adjusted=None,
        n_tests=0,
        n=interval.n,
        n_left_out=result.n_left_out,
        error_ratio=ratio.value if ratio else None,
        ratio_low=ratio.low if ratio else None,
        ratio_high=ratio.high if ratio else None,
        ratio_note=ratio.reason if ratio else "",
        detectable_rise=found.rise if found else None,
        detectable_fall=found.fall if found else None,
        method=interval.method,
        seed=seed,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
