"""The files that judging reads and writes in a run directory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from lpa_interp.contrasts import contrasts
from lpa_interp.errors import InputError
from lpa_interp.judging import Judge, key_of, verdict_of
from lpa_interp.records import Completion, Contrast, Judgement, Prompt, Score, Verdict
from lpa_interp.runs import (
    content_hash,
    plain_disk_errors,
    read_rows,
    row_line,
    write_rows,
    write_text,
)
from lpa_interp.scoring import score_verdicts
from lpa_interp.study_file import load_study

Row = TypeVar("Row")


def run_completions(run: Path) -> list[Completion]:
    """The completions of a run.

    Raises:
        InputError: The folder holds none.
    """
    path = run / "behaviour" / "completions.jsonl"
    if not path.is_file():
        raise InputError(run, "holds no behaviour/completions.jsonl", "run lpa evaluate first")
    return read_rows(path, Completion)


def run_prompts(
    run: Path, names: Iterable[str], say: Callable[[str], None]
) -> dict[str, list[Prompt]]:
    """The prompts of a run's benchmarks, checked against those it was measured on.

    Raises:
        InputError: A benchmark is not on this machine, or is not what it was.
    """
    from experiments.progress import Reporter
    from experiments.workbench import Workbench
    from lpa_interp.runs import RunDirectory

    bench = Workbench(load_study(run / "study.toml"), RunDirectory(run), Reporter(quiet=True))
    missing = dict(bench.skipped)
    path = run / "provenance.json"
    known = json.loads(path.read_text("utf-8"))["data_hashes"] if path.exists() else {}
    found = {}
    for name in dict.fromkeys(names):
        if name in missing or name not in bench.benchmarks:
            raise InputError(f"benchmark {name}", missing.get(name, "is not in the run's study"))
        found[name] = bench.benchmarks[name]
        if name not in known:
            say(f"  {name}: the run has no record of its texts; prompts are taken by their ids")
        elif known[name] != prompts_hash(found[name]):
            raise InputError(f"benchmark {name}", "is not what it was when the run was measured")
    return found


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """The hash of a benchmark's prompts, as ``provenance.json`` has it."""
    return content_hash([(prompt.id, prompt.text) for prompt in prompts])


class KeptJudgements:
    """The answers of slow judges: read at the start, each new one on disk as soon as it comes."""

    def __init__(self, run: Path) -> None:
        self.path = run / "behaviour" / "judgements.jsonl"
        if self.path.exists():
            self._drop_torn_line()

    def of(self, judge: Judge, completions: Sequence[Completion]) -> list[Judgement]:
        """Earlier answers of this very judge on these very completions, failures left out."""
        texts = {key_of(completion): completion.sha256 for completion in completions}
        latest = {
            key_of(row): row
            for row in read_rows(self.path, Judgement)
            if row.judge == judge.name
            and row.settings == judge.settings_hash
            and texts.get(key_of(row)) == row.sha256
        }
        return [row for row in latest.values() if not row.failed]

    def add(self, judgement: Judgement) -> None:
        """Appends one row."""
        with plain_disk_errors(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(row_line(judgement))

    def _drop_torn_line(self) -> None:
        """A process that was killed may have left half a row."""
        text = self.path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            write_text(self.path, text[: text.rfind("\n") + 1])


def write_judged(
    run: Path, judge: Judge, judgements: Sequence[Judgement], seed: int
) -> list[Score]:
    """Puts a judge's verdicts and scores in place of its earlier ones; gives the scores."""
    folder = run / "behaviour"
    verdicts = [verdict_of(row) for row in judgements]
    scores = score_verdicts(verdicts, seed)
    _replace(folder / "verdicts.jsonl", Verdict, verdicts, lambda row: row.judge == judge.name)
    _replace(folder / "scores.jsonl", Score, scores, lambda row: row.judge == judge.name)
    return scores


def renew_contrasts(run: Path, judge: Judge, verdicts: Sequence[Verdict], seed: int) -> None:
    """Compares the models again on one judge's verdicts."""
    by_model: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_model.setdefault(verdict.model, []).append(verdict)
    pairs = itertools.pairwise(by_model.values())
    rows = [row for pair in pairs for row in contrasts(*pair, seed)]
    path = run / "behaviour" / "contrasts.jsonl"
    _replace(path, Contrast, rows, lambda row: row.judge == judge.name)


def _replace(
    path: Path, record: type[Row], rows: Sequence[Row], old: Callable[[Row], bool]
) -> None:
    """Writes new rows where the first old one stood, or at the end."""
    found = read_rows(path, record)
    place = next((index for index, row in enumerate(found) if old(row)), len(found))
    after = [row for row in found[place:] if not old(row)]
    write_rows(path, [*found[:place], *rows, *after])
