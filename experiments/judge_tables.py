"""What ``lpa judge`` shows: a judge's scores, and how far two judges agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from figures.wording import fixed, range_text, value_text
from lpa_interp.agreement import agreement
from lpa_interp.errors import InputError
from lpa_interp.judging import Judge
from lpa_interp.records import Agreement, Judgement, Score, Verdict
from lpa_interp.runs import read_rows, write_rows


def show_scores(judge: Judge, scores: Sequence[Score], judgements: Sequence[Judgement]) -> None:
    """Prints the scores and how many answers were undecided, by reason."""
    table = Table(title=f"{judge.measure.replace('_', ' ')}, judge: {judge.name}")
    for head in ("model", "benchmark", "attack", "side", "value", "95 % interval", "n"):
        table.add_column(head)
    table.add_column("undecided")
    for score in scores:
        value = value_text(score.measure, score.value)
        interval = range_text(score.measure, score.low, score.high)
        counts = (str(score.n), str(score.n_undecided))
        place = (score.model, score.benchmark, score.attack, score.side)
        table.add_row(*place, value, interval, *counts)
    console = Console()
    console.print(table, markup=False)
    undecided = [row for row in judgements if row.value is None]
    console.print(f"n_undecided: {len(undecided)} of {len(judgements)} answers", markup=False)
    for reason, count in Counter(row.reason for row in undecided).most_common():
        console.print(f"  {count}: {reason}", markup=False)
    failed = sum(row.failed for row in undecided)
    if failed:
        console.print(f"{failed} got no answer: the same command asks for them again", markup=False)
    console.print(f"Source: {judge.citation}. Limits: {judge.limits}.", markup=False)


def show_agreement(run: Path, first: str, second: str, threshold: float | None, seed: int) -> None:
    """Prints Cohen's kappa of two judges and keeps it in ``behaviour/agreement.jsonl``.

    Raises:
        InputError: A judge is unknown or the two cannot be compared.
    """
    verdicts = read_rows(run / "behaviour" / "verdicts.jsonl", Verdict)
    names = [_judge_named(name, verdicts) for name in (first, second)]
    _check_kinds(run, names)
    sides = [[verdict for verdict in verdicts if verdict.judge == name] for name in names]
    shared = {(v.benchmark, v.attack) for v in sides[0]} & {
        (v.benchmark, v.attack) for v in sides[1]
    }
    try:
        rows = [agreement(sides[0], sides[1], threshold, seed)]
        for place in sorted(shared) if len(shared) > 1 else ():
            here = [[v for v in side if (v.benchmark, v.attack) == place] for side in sides]
            rows.append(agreement(here[0], here[1], threshold, seed))
    except ValueError as error:
        raise InputError("--agreement", str(error), "see --threshold") from None
    path = run / "behaviour" / "agreement.jsonl"
    others = [r for r in read_rows(path, Agreement) if {r.first, r.second} != set(names)]
    write_rows(path, [*others, *rows])
    _print(rows)


def _judge_named(name: str, verdicts: Sequence[Verdict]) -> str:
    """A judge's name from its beginning, where no other begins so."""
    known = list(dict.fromkeys(verdict.judge for verdict in verdicts))
    found = [judge for judge in known if judge == name] or [
        judge for judge in known if judge.startswith(name)
    ]
    if len(found) != 1:
        mistake = "begins the name of several judges" if found else "has judged nothing here"
        raise InputError(f"--agreement {name}", mistake, "; ".join(known))
    return found[0]


def _check_kinds(run: Path, names: Sequence[str]) -> None:
    scores = read_rows(run / "behaviour" / "scores.jsonl", Score)
    kinds = [{s.measure.split("_")[0] for s in scores if s.judge == name} for name in names]
    if names[0] == names[1]:
        raise InputError("--agreement", "names the same judge twice", "two judges")
    if all(kinds) and not kinds[0] & kinds[1]:
        told = " and ".join(
            f"{n} of {'/'.join(sorted(k))}" for n, k in zip(names, kinds, strict=True)
        )
        raise InputError("--agreement", f"judges of different things: {told}", "two of the same")


def _print(rows: Sequence[Agreement]) -> None:
    table = Table(title=f"{rows[0].first} and {rows[0].second}")
    heads = ("benchmark", "attack", "kappa", "95 % interval", "raw agreement", "share of 1", "n")
    for head in (*heads, "undecided", "judged by one alone"):
        table.add_column(head)
    for row in rows:
        table.add_row(
            row.benchmark,
            row.attack,
            fixed(row.kappa),
            f"{fixed(row.low)} to {fixed(row.high)}",
            fixed(row.agreement),
            f"{fixed(row.first_share)} and {fixed(row.second_share)}",
            f"{row.n} ({row.n_prompts} prompts)",
            f"{row.n_undecided_first} and {row.n_undecided_second}",
            str(row.n_unmatched),
        )
    console = Console()
    console.print(table, markup=False)
    for method in dict.fromkeys(row.method for row in rows):
        console.print(f"Interval: {method}.", markup=False)
