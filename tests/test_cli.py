from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import main, split_overrides
from lpa_interp.errors import InputError
from lpa_interp.methods import METHODS
from lpa_interp.study_file import load_study
from tests.tiny import tiny_folder


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--out", "OUT", "--model.name", "nonesuch"], ["nonesuch", "unknown name"]),
        (["run", "missing.toml", "--out", "OUT"], ["missing.toml", "cannot be read"]),
        (["run", "--out", "OUT", "--train.stepz", "3"], ["train.stepz", "unknown key", "steps"]),
        (["run", "--out", "OUT", "--train.epsilon", "0"], ["train.epsilon", "greater than 0"]),
        (["run", "--out", "OUT", "--train.steps"], ["train.steps", "needs a value"]),
        (["run", "--out", "OUT", "--evaluate.benchmarks", '["x"]'], ["'x'", "advbench"]),
        (["run", "--out", "OUT", "--traits.source", "published_csv", "--traits.path", "no/where"],
         ["no/where"]),
        (["run", "--out", "OUT", "--model.name", "no.gguf"], ["no.gguf", "no such model"]),
        (["run"], ["--out"]),
        (["fly"], ["fly"]),
        (["report", "--out", "OUT"], ["OUT", "holds no run"]),
        (["doctor", "nonesuch"], ["nonesuch"]),
        (["doctor", "--train.steps", "3"], ["train.steps", "unknown option"]),
        (["export", "OUT", "folder"], ["holds no trained adapter"]),
        (["benchmarks", "--download", "nonesuch"], ["nonesuch", "jailbreakbench"]),
    ],
)  # fmt: skip
def test_a_mistake_gives_exit_2_and_one_line_and_writes_nothing(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = one_line(capsys)
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("site", ["blocks.99.hook_mlp_out", "blocks.{1.5}.hook_mlp_out"])
def test_a_layer_out_of_range_is_found_before_anything_is_written(
    site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_folder(tmp_path / "model")
    words = ["run", "--out", str(tmp_path / "run"), "--model.name", str(model)]
    assert main([*words, "--train.sites", f'["{site}"]']) == 2
    assert "out of range" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_study_that_is_not_toml_names_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[train]\nsteps = \n")
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 2
    line = one_line(capsys)
    assert "line 2" in line and str(path) in line


def test_a_folder_with_other_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["run", "--out", str(tmp_path), "--quiet"]) == 2
    assert "not a run directory" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", ["traits", "benchmarks"])
def test_listings_are_json_with_the_promised_keys(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = {"name", "n", "sides", "source", "licence", "available"}
    assert rows and all(keys <= row.keys() for row in rows)
    assert main([command]) == 0
    assert rows[0]["name"] in capsys.readouterr().out


def test_methods_are_listed_with_source_and_the_settings_that_each_fixes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(METHODS)
    assert all({"summary", "source", "fixes"} <= row.keys() for row in rows.values())
    assert rows["lpa"]["fixes"] == {}
    assert rows["random-perturbation"]["fixes"] == {"train.attack": "random"}
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in METHODS)
    # A narrow terminal folds lines and cuts nothing off.
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown and 'train.attack = "random"' in shown


@pytest.mark.parametrize("name", list(METHODS))
def test_the_settings_that_a_method_fixes_are_overrides_of_a_study(name: str) -> None:
    fixed = METHODS[name]
    overrides = {f"traits.{key}": value for key, value in fixed.traits.items()}
    overrides |= {f"train.{key}": value for key, value in fixed.train.items()}
    assert load_study(None, {"method": name}) == load_study(None, {**overrides, "method": name})


def test_the_readme_has_one_row_per_method_with_its_source() -> None:
    text = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    for name, method in METHODS.items():
        (row,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert method.source in row


def test_overrides_are_toml_values_or_bare_text() -> None:
    words = ["run", "--a.b", "3", "--c.c=0.5", "x.toml", "--d.d", "true", "--seed", "1"]
    words += ["--e.e", '["x"]', "--f.f", "plain/path", "--out", "runs/a.b"]
    rest, overrides = split_overrides(words)
    assert rest == ["run", "x.toml", "--out", "runs/a.b"]
    expected = {"a.b": 3, "c.c": 0.5, "d.d": True, "seed": 1, "e.e": ["x"], "f.f": "plain/path"}
    assert overrides == expected
    with pytest.raises(InputError, match="needs a value"):
        split_overrides(["--a.b"])


def test_settings_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    out = capsys.readouterr().out
    assert "train.epsilon = 0.2" in out and "probes.max_kl = 0.1" in out


def test_help_answers_within_a_second_and_loads_no_torch() -> None:
    code = (
        "import sys; from experiments.cli import build_parser; build_parser().format_help();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "experiments.cli", "--help"], check=True, capture_output=True
    )
    assert time.perf_counter() - start < 1.0
