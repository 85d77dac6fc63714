"""Rows of a comparison of runs: the files of the folder that ``lpa compare --out`` fills."""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.records.labels import ModelLabel, ScoreSide


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScore:
    """A score of one run, a row of ``values.jsonl``.

    ``study`` names what the run shares with its other seeds. ``low`` and ``high`` are the
    interval over prompts; the spread over seeds is in `SeedSpread` and never pooled into it.
    """

    run: str
    study: str
    run_seed: int
    model: ModelLabel
    benchmark: str
    attack: str
    measure: str
    judge: str
    side: ScoreSide
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_undecided: int
    level: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContrast:
    """Two models on the same prompts, a row of ``differences.jsonl``.

    ``difference`` is second minus first, in the measure's unit; ``p_adjusted`` is Holm's over
    the ``n_tests`` rows of the same measure, judge and side. ``error_ratio`` is errors of the
    first over errors of the second; None where the measure has no errors or the ratio is
    undefined, which ``ratio_note`` says. ``detectable_rise`` and ``detectable_fall`` are the
    smallest changes of a rate that n prompts find with power 0.8 at level 0.05, with as many
    prompts changing the other way as were seen; None where there is none. ``n_left_out``
    prompts were undecided for either model.
    """

    first_run: str
    first_model: ModelLabel
    second_run: str
    second_model: ModelLabel
    benchmark: str
    attack: str
    measure: str
    judge: str
    side: ScoreSide
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    n_tests: int
    n: int
    n_left_out: int
    error_ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    ratio_note: str
    detectable_rise: float | None
    detectable_fall: float | None
    method: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """A score over the seeds of one study, a row of ``seeds.jsonl``.

    ``sd`` is the sample standard deviation, ``low`` and ``high`` the range: a description of
    ``n_seeds`` runs, not an interval.
    """

    study: str
    model: ModelLabel
    benchmark: str
    attack: str
    measure: str
    judge: str
    side: ScoreSide
    n_seeds: int
    mean: float
    sd: float
    low: float
    high: float
