"""`lpa compare`: tables, JSON, pictures and one line for a mistake."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import main
from figures.compare import draw_differences, draw_values
from lpa_interp.compared_runs import read_runs
from lpa_interp.comparison import compare
from lpa_interp.records import RunContrast, RunScore, SeedSpread
from lpa_interp.runs import read_rows
from tests.run_folders import refusing_run, verdicts, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of LPA and one of SFT, on two benchmarks and on one."""
    folder = tmp_path_factory.mktemp("runs")
    both = ("requests", "jailbreakbench")
    return [
        refusing_run(folder / "sft-0", 0.2, 0.4, settings={"method": "sft"}),
        refusing_run(folder / "lpa-0", 0.2, 0.8, settings={"method": "lpa"}, benchmarks=both),
        refusing_run(folder / "lpa-1", 0.2, 0.7, settings={"method": "lpa"}, benchmarks=both,
                     seed=1),
    ]  # fmt: skip


def test_the_tables_tell_values_differences_ratios_and_seeds(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["compare", *map(str, runs)]) == 0
    shown = capsys.readouterr().out
    assert "80.0 % (65.2 to 89.5), n = 40" in shown
    assert "sft-0 to lpa-0" in shown and "+40.0 points" in shown and "3.00 (1.8" in shown
    assert "lpa-0: base to lpa" in shown and "Refusal rate, harmless" in shown
    assert "Refusal rate, harmful, judge keyword (weak): 6 paired tests" in shown
    assert "spread over seeds" in shown and "70.0 to 80.0" in shown
    assert 'method: "sft" in sft-0; "lpa" in lpa-0, lpa-1' in shown
    assert "benchmark: jailbreakbench in lpa-0, lpa-1 alone" in shown
    assert "lpa-0 to lpa-1" not in shown


def test_a_narrow_terminal_folds_and_cuts_nothing_off(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["compare", *map(str, runs)]) == 0
    assert "\N{HORIZONTAL ELLIPSIS}" not in capsys.readouterr().out


def test_json_holds_everything_and_nothing_else_is_on_stdout(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert [run["study"] for run in found["runs"]] == ["sft", "lpa", "lpa"]
    assert len(found["values"]) == 20 and len(found["seeds"]) == 8
    pair = [r for r in found["differences"] if r["first_run"] != r["second_run"]]
    assert {(r["first_run"], r["second_run"]) for r in pair} == {("sft-0", "lpa-0")}


def test_a_folder_gets_rows_pictures_and_their_tables(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    kinds = {f"{name}.{kind}" for name in ("values", "differences") for kind in ("png", "pdf")}
    tables = {"values.csv", "differences.csv", "comparison.json"}
    rows = {"values.jsonl", "differences.jsonl", "seeds.jsonl"}
    assert {path.name for path in out.iterdir()} == kinds | tables | rows
    expected = compare(read_runs(runs))
    assert tuple(read_rows(out / "values.jsonl", RunScore)) == expected.values
    assert tuple(read_rows(out / "differences.jsonl", RunContrast)) == expected.contrasts
    assert tuple(read_rows(out / "seeds.jsonl", SeedSpread)) == expected.spreads
    with (out / "values.csv").open(newline="", encoding="utf-8") as handle:
        assert [float(r["value"]) for r in csv.DictReader(handle)] == [
            row.value for row in expected.values
        ]
    captions = json.loads((out / "comparison.json").read_text())["captions"]
    assert "lpa: 2 seeds" in captions["values"] and "Holm" in captions["differences"]


def test_pictures_show_every_row_and_say_n_and_what_to_look_for(runs: list[Path]) -> None:
    found = compare(read_runs(runs))
    values = draw_values(found.values, found.spreads)
    changes = draw_differences(found.contrasts)
    assert values is not None and changes is not None
    for drawing, rows in ((values, found.values), (changes, found.contrasts)):
        assert "n = 40" in drawing.caption and "Look for" in drawing.caption
        assert len(drawing.table) == len(rows) and drawing.alt
        dots = [
            line
            for ax in drawing.figure.axes
            for line in ax.get_lines()
            if line.get_marker() != "None"
        ]
        assert len(dots) == len(rows)
        assert len({ax.get_xlim() for ax in drawing.figure.axes}) == 1  # both sides, one scale
    assert draw_values([], []) is None and draw_differences([]) is None


def test_many_studies_stay_apart_by_colour_or_marker(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / f"r{i}", 0.2, 0.5, n=10, settings={"method": f"m{i}"})
        for i in range(8)
    ]
    drawing = draw_values(compare(read_runs(made)).values, [])
    assert drawing is not None
    legend = drawing.figure.legends[0].legend_handles
    looks = {(line.get_color(), line.get_marker()) for line in legend[:8]}  # type: ignore[union-attr]
    assert len(looks) == 8


def test_undecided_values_are_drawn_as_nothing_and_said(tmp_path: Path) -> None:
    rows = verdicts([None, None], "base") + verdicts([1.0, 0.0], "lpa")
    found = compare(read_runs([write_run(tmp_path / "a", rows)]))
    drawing = draw_values(found.values, found.spreads)
    assert drawing is not None and "2 verdicts were undecided" in drawing.caption
    assert draw_differences(found.contrasts) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: holds no study.toml"),
        (["RUN", "RUN"], "is the same study and seed as"),
        (["RUN", "--out", "RUN"], "is a run directory"),
        (["RUN", "--out", "FILE"], "is a file"),
        ([], "RUN"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    runs: list[Path],
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    known = {"RUN": str(runs[0]), "FILE": "file"}
    assert main(["compare", *(known.get(word, word) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_comparing_loads_no_torch(runs: list[Path]) -> None:
    code = (
        "import sys; from experiments.cli import main; main(sys.argv[1:]);"
        "sys.exit('torch' in sys.modules)"
    )
    words = ["compare", *map(str, runs), "--json"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
