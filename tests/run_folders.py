"""Small run directories made by hand: what `lpa compare` and `lpa judge` read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from lpa_interp.records import ModelLabel, Score, Verdict
from lpa_interp.runs import content_hash, write_json, write_rows

KEYWORD, ODDS = "keyword (weak)", "first-token log-odds"
SIDES = ("harmful", "harmless")
MEASURE_OF = {
    KEYWORD: "refusal_rate",
    ODDS: "refusal_log_odds",
    "yes/no log-odds": "self_report_error",
    "next-token loss": "perplexity",
}


def verdicts(
    values: Sequence[float | None],
    model: ModelLabel,
    benchmark: str = "requests",
    judge: str = KEYWORD,
    harmful: bool = True,
    attack: str = "direct",
    measure: str = "",
) -> list[Verdict]:
    """One verdict per value on prompts 0, 1, ... of a side."""
    return [
        Verdict(
            model=model,
            benchmark=benchmark,
            attack=attack,
            prompt_id=f"{benchmark}-{'harmful' if harmful else 'harmless'}-{index}",
            harmful=harmful,
            judge=judge,
            measure=measure or MEASURE_OF[judge],
            value=value,
        )
        for index, value in enumerate(values)
    ]


def refusals(rate: float, n: int, seed: int) -> list[float | None]:
    """Verdicts with exactly this share of ones, at random places."""
    values = np.arange(n) < round(rate * n)
    return [float(value) for value in np.random.default_rng(seed).permutation(values)]


def write_run(
    folder: Path,
    rows: Sequence[Verdict],
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    hashes: Mapping[str, str] | None = None,
    **provenance: Any,
) -> Path:
    """A run directory with these verdicts, their scores, study.toml and provenance.json."""
    from lpa_interp.scoring import score_verdicts

    study = {"name": "study", "seed": seed, "method": "lpa", **(settings or {})}
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(tomli_w.dumps(study), encoding="utf-8")
    scores: list[Score] = []
    for model in dict.fromkeys(row.model for row in rows):
        scores += score_verdicts([row for row in rows if row.model == model], 0)
    write_rows(folder / "behaviour" / "verdicts.jsonl", rows)
    write_rows(folder / "behaviour" / "scores.jsonl", scores)
    benchmarks = {row.benchmark for row in rows}
    known = {"model": "m", "data_hashes": {name: content_hash(name) for name in benchmarks}}
    known["data_hashes"] |= dict(hashes or {})
    write_json(folder / "provenance.json", {**known, **provenance})
    return folder


def refusing_run(
    folder: Path,
    base: float,
    trained: float,
    n: int = 40,
    over_refusal: float = 0.1,
    benchmarks: Sequence[str] = ("requests",),
    **more: Any,
) -> Path:
    """A run whose trained model refuses this share of harmful requests; both sides measured."""
    rows: list[Verdict] = []
    for number, name in enumerate(benchmarks):
        for model, rate in (("base", base), ("lpa", trained)):
            label: ModelLabel = "base" if model == "base" else "lpa"
            # The same order for all models: who refuses less refuses a part of the same prompts.
            rows += verdicts(refusals(rate, n, number), label, name)
            harmless = refusals(over_refusal, n, 9 + number)
            rows += verdicts(harmless, label, name, harmful=False)
    return write_run(folder, rows, **more)
