from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

from tests.tiny import tiny_folder

NOTEBOOK = Path(__file__).parent.parent / "experiments" / "tour.ipynb"


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_tour_runs_from_top_to_bottom_on_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("Agg")
    monkeypatch.setenv("LPA_TOUR_MODEL", str(tiny_folder(tmp_path / "tiny")))
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    for source in cells("code"):
        exec(compile(source, "tour.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    assert "under it" in printed and "drop" in printed


def test_the_tour_keeps_no_output() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
