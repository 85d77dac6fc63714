"""``lpa compare``: any set of runs beside each other, as tables, pictures or JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.compare_tables import print_comparison
from experiments.progress import Reporter
from lpa_interp.compared_runs import ComparedRun, read_runs
from lpa_interp.comparison import Comparison, compare
from lpa_interp.errors import InputError
from lpa_interp.runs import write_json, write_rows


def compare_runs(paths: Sequence[Path], out: Path | None, as_json: bool) -> None:
    """Compares runs; prints tables or JSON, and writes a folder where ``out`` is given.

    Raises:
        InputError: A path is no run with scores, two are the same run, or ``out`` is a run.
    """
    if out is not None and (out / "study.toml").exists():
        raise InputError(out, "is a run directory", "give --out a folder of its own")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(out, "is a file", "give --out a folder")
    runs = read_runs(paths)
    with Reporter(quiet=as_json) as tell:
        found = compare(runs, progress=tell)
    if out is not None:
        write_comparison(found, runs, out)
    if as_json:
        print(json.dumps(as_object(found, runs), indent=2, allow_nan=False))
    else:
        print_comparison(found, runs)
        if out is not None:
            print(out)


def write_comparison(found: Comparison, runs: Sequence[ComparedRun], out: Path) -> None:
    """Writes rows, one JSON file with everything, and the pictures with their tables."""
    from figures.compare import draw_differences, draw_values
    from figures.style import look, save_figure

    write_rows(out / "values.jsonl", found.values)
    write_rows(out / "differences.jsonl", found.contrasts)
    write_rows(out / "seeds.jsonl", found.spreads)
    captions = {}
    with look():
        drawings = {
            "values": draw_values(found.values, found.spreads),
            "differences": draw_differences(found.contrasts),
        }
        for name, drawing in drawings.items():
            if drawing is not None:
                save_figure(drawing.figure, drawing.table, out / name)
                captions[name] = drawing.caption
    write_json(out / "comparison.json", as_object(found, runs) | {"captions": captions})


def as_object(found: Comparison, runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """The whole comparison as JSON-like values; NaN and infinity become None."""
    return {
        "runs": [
            {
                "label": run.label,
                "study": run.study,
                "seed": run.seed,
                "provenance": dict(run.provenance),
            }
            for run in runs
        ],
        "notes": list(found.notes),
        "values": _objects(found.values),
        "differences": _objects(found.contrasts),
        "seeds": _objects(found.spreads),
    }


def _objects(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in dataclasses.asdict(row).items()
        }
        for row in rows
    ]
