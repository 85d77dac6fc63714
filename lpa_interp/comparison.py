"""Comparing runs: values, paired differences, error ratios, and the spread over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lpa_interp.compared_runs import ComparedRun, differences, study_groups
from lpa_interp.pair_contrasts import Place, pair_contrasts
from lpa_interp.records import ModelLabel, RunContrast, RunScore, SeedSpread
from lpa_interp.stats import holm, seed_spread

SHOWN: tuple[ModelLabel, ...] = ("base", "lpa")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All rows of a comparison, and in ``notes`` what must be known to read them."""

    values: tuple[RunScore, ...]
    contrasts: tuple[RunContrast, ...]
    spreads: tuple[SeedSpread, ...]
    notes: tuple[str, ...]


def compare(
    runs: Sequence[ComparedRun],
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compares the trained model of each run with its base and with those of other studies.

    Runs of two studies are paired seed by seed where they share seeds, and each with each where
    they share none. Runs of one study are never paired and never pooled: their spread is told.
    Holm's correction covers all differences of one measure, judge and side, that is, all
    benchmarks, attacks and pairs of models.

    Args:
        runs: From `read_runs`.
        seed: Of the bootstraps.
        progress: Told of each pair of models.
    """
    pairs = list(model_pairs(runs))
    contrasts: list[RunContrast] = []
    notes = differences(runs)
    for done, (first, second) in enumerate(pairs, start=1):
        found, refused = pair_contrasts(first, second, seed)
        contrasts += found
        notes += refused
        if progress is not None:
            progress("compare", done, len(pairs))
    return Comparison(
        values=tuple(run_scores(runs)),
        contrasts=tuple(adjusted(contrasts)),
        spreads=tuple(seed_spreads(runs)),
        notes=tuple(dict.fromkeys(notes)),
    )


def model_pairs(runs: Sequence[ComparedRun]) -> Iterator[tuple[Place, Place]]:
    """Base and trained model of each run, then the trained models of each two studies."""
    for run in runs:
        yield Place(run, "base"), Place(run, "lpa")
    for one, two in itertools.combinations(study_groups(runs).values(), 2):
        shared = {run.seed for run in one} & {run.seed for run in two}
        for first, second in itertools.product(one, two):
            if not shared or first.seed == second.seed:
                yield Place(first, "lpa"), Place(second, "lpa")


def run_scores(runs: Sequence[ComparedRun]) -> Iterator[RunScore]:
    """Scores of the base and the trained model of each run."""
    for run in runs:
        for score in run.scores:
            if score.model in SHOWN:
                yield RunScore(
                    run=run.label,
                    study=run.study,
                    run_seed=run.seed,
                    model=score.model,
                    benchmark=score.benchmark,
                    attack=score.attack,
                    measure=score.measure,
                    judge=score.judge,
                    side=score.side,
                    value=score.value,
                    low=score.low,
                    high=score.high,
                    n=score.n,
                    n_undecided=score.n_undecided,
                    level=score.level,
                    method=score.method,
                )


def seed_spreads(runs: Sequence[ComparedRun]) -> Iterator[SeedSpread]:
    """Spread of each score over the seeds of a study that has two or more."""
    groups: dict[tuple[object, ...], dict[int, RunScore]] = {}
    for row in run_scores(runs):
        if row.value is not None:
            place = (row.benchmark, row.attack, row.measure, row.judge, row.side)
            groups.setdefault((row.study, row.model, *place), {})[row.run_seed] = row
    for rows in groups.values():
        if len(rows) > 1:
            first = next(iter(rows.values()))
            values = {seed: row.value for seed, row in rows.items() if row.value is not None}
            spread = seed_spread(values)
            yield SeedSpread(
                study=first.study,
                model=first.model,
                benchmark=first.benchmark,
                attack=first.attack,
                measure=first.measure,
                judge=first.judge,
                side=first.side,
                n_seeds=spread.n_seeds,
                mean=spread.mean,
                sd=math.nan if spread.sd is None else spread.sd,
                low=spread.low,
                high=spread.high,
            )


def adjusted(rows: Sequence[RunContrast]) -> list[RunContrast]:
    """Holm's correction over the rows of the same measure, judge and side."""
    families: dict[tuple[str, str, str], list[int]] = {}
    for index, row in enumerate(rows):
        if row.p_value is not None:
            families.setdefault((row.measure, row.judge, row.side), []).append(index)
    found = list(rows)
    for members in families.values():
        p_values = holm([rows[index].p_value or 0.0 for index in members])
        for index, p_value in zip(members, p_values.tolist(), strict=True):
            found[index] = replace(rows[index], p_adjusted=p_value, n_tests=len(members))
    return found
