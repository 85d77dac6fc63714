"""Mistakes in what a study measures are told before any work is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main

STUDY = """name = "s"
[organism]
enabled = false
[evaluate]
benchmarks = ["requests"]
"""


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("attacks", ["direct", "zebra"], "attack 'zebra': unknown name"),
        ("attacks", ["latent_pgd"], "needs its argument"),
        ("attacks", ["persona:zebra"], "persona 'zebra'"),
        ("attacks", ["translation"], "evaluate.translations"),
        ("attacks", ["pair"], "LPA_ATTACKER_URL"),
        ("judges", ["zebra"], "judge 'zebra'"),
        ("utility", ["zebra"], "task 'zebra'"),
    ],
)
def test_a_mistake_in_the_evaluation_is_told_at_once_and_writes_nothing(
    setting: str,
    value: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LPA_ATTACKER_URL", raising=False)
    study, out = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(STUDY)
    words = ["evaluate", str(study), "--out", str(out), f"--evaluate.{setting}", json.dumps(value)]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not out.exists()
