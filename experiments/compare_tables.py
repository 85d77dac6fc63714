"""The tables that ``lpa compare`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from figures.behaviour import place_of
from figures.compare import pair_label
from figures.wording import (
    change_range,
    change_text,
    count_of,
    fixed,
    judge_label,
    measure_of,
    p_text,
    range_text,
    sentence_case,
    value_text,
)
from lpa_interp.compared_runs import ComparedRun
from lpa_interp.comparison import Comparison
from lpa_interp.records import RunContrast, RunScore, SeedSpread

Row = TypeVar("Row", RunScore, RunContrast, SeedSpread)

VALUES = "Brackets hold 95 % intervals over prompts; the spread over seeds is not in them."
DIFFERENCES = (
    "Second minus first on the same prompts. p: after Holm's correction over all tests of the "
    "table. Errors: those of the first over those of the second. Detectable: the smallest rise "
    "and fall that so many prompts find with power 0.8 at level 0.05, before correction."
)
SEEDS = "SD and range are of the values of single runs: a description, not an interval."


def print_comparison(found: Comparison, runs: Sequence[ComparedRun]) -> None:
    """Prints the runs, what tells them apart, values, differences and spread over seeds."""
    console = Console()
    console.print(_runs_table(runs), markup=False)
    console.print("What tells the runs apart:", markup=False)
    for note in found.notes or ("nothing",):
        console.print(f"  {note}", markup=False, highlight=False)
    console.print()
    parts = (
        (_value_tables(found.values), VALUES),
        (_difference_tables(found.contrasts), DIFFERENCES),
        (_seed_tables(found.spreads), SEEDS),
    )
    for tables, words in parts:
        shown = list(tables)
        for table in shown:
            console.print(table, markup=False)
        if shown:
            console.print(f"{words}\n", markup=False, highlight=False)


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _kinds(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of one measure, side and judge, with these three in words; places together."""
    for kind in dict.fromkeys((row.measure, row.side, row.judge) for row in rows):
        measure, side, judge = kind
        words = sentence_case(measure_of(measure).label)
        words += "" if side == "both" else f", {side}"
        words += "" if judge == "none" else f", judge {judge_label(judge)}"
        found = [row for row in rows if (row.measure, row.side, row.judge) == kind]
        places = list(dict.fromkeys(map(_where, found)))
        yield words, sorted(found, key=lambda row: places.index(_where(row)))


def _where(row: RunScore | RunContrast | SeedSpread) -> str:
    return place_of(row.benchmark, row.attack)


def _runs_table(runs: Sequence[ComparedRun]) -> Table:
    table = _table("Runs", "run", "study", "seed", "method", "model", "statements")
    for run in runs:
        known = (run.settings.get("method"), *map(run.provenance.get, ("model", "n_statements")))
        told = ["not recorded" if value is None else str(value) for value in known]
        table.add_row(run.label, run.study, str(run.seed), *told)
    return table


def _value_tables(values: Sequence[RunScore]) -> Iterator[Table]:
    """The base and the trained model of each run beside each other."""
    for words, rows in _kinds(values):
        table = _table(words, "where", "run", "base", "trained")
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows:
            cells.setdefault((_where(row), row.run), {})[row.model] = _value(row)
        before = ""
        for (where, run), models in cells.items():
            told = [models.get(model, "not measured") for model in ("base", "lpa")]
            table.add_row("" if where == before else where, run, *told)
            before = where
        yield table


def _difference_tables(contrasts: Sequence[RunContrast]) -> Iterator[Table]:
    for words, rows in _kinds(contrasts):
        tests = count_of(max(row.n_tests for row in rows), "paired test")
        shares = any(_ratio(row) or _detectable(row) for row in rows)
        more = ("errors", "detectable") if shares else ()
        table = _table(f"{words}: {tests}", "where", "models", "difference", "p", *more)
        before = ""
        for row in rows:
            where = _where(row)
            told = [pair_label(row), _change(row), _p(row)]
            told += [_ratio(row), _detectable(row)] if shares else []
            table.add_row("" if where == before else where, *told)
            before = where
        yield table


def _seed_tables(spreads: Sequence[SeedSpread]) -> Iterator[Table]:
    for words, rows in _kinds(spreads):
        title = f"{words}: spread over seeds"
        table = _table(title, "where", "study", "model", "seeds", "mean", "SD", "range")
        for row in rows:
            how = measure_of(row.measure)
            table.add_row(
                _where(row),
                row.study,
                "trained" if row.model == "lpa" else row.model,
                str(row.n_seeds),
                value_text(row.measure, row.mean),
                fixed(how.scale * row.sd, how.digits),
                range_text(row.measure, row.low, row.high),
            )
        yield table


def _value(row: RunScore) -> str:
    undecided = f", {row.n_undecided} undecided" if row.n_undecided else ""
    interval = range_text(row.measure, row.low, row.high)
    return f"{value_text(row.measure, row.value)} ({interval}), n = {row.n}{undecided}"


def _change(row: RunContrast) -> str:
    if row.difference is None:
        return f"too few pairs decided, n = {row.n}"
    left_out = f", {row.n_left_out} left out" if row.n_left_out else ""
    interval = change_range(row.measure, row.low, row.high)
    return f"{change_text(row.measure, row.difference)} ({interval}), n = {row.n}{left_out}"


def _p(row: RunContrast) -> str:
    return "" if row.p_adjusted is None else p_text(row.p_adjusted).removeprefix("p ").lstrip("= ")


def _ratio(row: RunContrast) -> str:
    if row.error_ratio is None and not row.ratio_note:
        return ""
    value = "undefined" if row.error_ratio is None else fixed(row.error_ratio)
    bounds = ""
    if row.ratio_low is not None:
        high = "or more" if row.ratio_high is None else f"to {fixed(row.ratio_high)}"
        bounds = f" ({fixed(row.ratio_low)} {high})"
    return value + bounds + (f"; {row.ratio_note}" if row.ratio_note else "")


def _detectable(row: RunContrast) -> str:
    if row.detectable_rise is None and row.detectable_fall is None:
        return ""
    how = measure_of(row.measure)
    rise, fall = (
        "none" if end is None else fixed(sign * how.scale * end, how.digits, sign=True)
        for sign, end in ((1, row.detectable_rise), (-1, row.detectable_fall))
    )
    return f"{rise}, {fall}"
