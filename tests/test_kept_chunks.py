"""Chunks of an evaluation on disk."""

from __future__ import annotations

from pathlib import Path

from experiments.kept_chunks import KeptChunks
from lpa_interp.chunks import Rows
from lpa_interp.records import Completion, Verdict

PLACE = {"model": "base", "benchmark": "b", "attack": "direct", "prompt_id": "p", "harmful": True}
ROWS = Rows(
    (Completion(**PLACE, text="é", redacted=True, sha256="h", n_tokens=3),),  # type: ignore[arg-type]
    (Verdict(**PLACE, judge="j", measure="refusal_rate", value=None),),  # type: ignore[arg-type]
    1.5,
)


def test_rows_come_back_as_they_were_for_the_same_settings_alone(tmp_path: Path) -> None:
    path = tmp_path / "behaviour" / "unfinished.jsonl"
    kept = KeptChunks(path, "settings")
    assert kept.get("a") is None
    kept.put("a", ROWS)
    kept.put("b", Rows())
    again = KeptChunks(path, "settings")
    assert again.get("a") == ROWS and again.get("b") == Rows()
    assert KeptChunks(path, "other settings").get("a") is None


def test_a_line_that_was_torn_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    KeptChunks(path, "s").put("a", ROWS)
    whole = path.read_bytes()
    KeptChunks(path, "s").put("b", ROWS)
    path.write_bytes(path.read_bytes()[:-7])
    kept = KeptChunks(path, "s")
    assert kept.get("b") is None and path.read_bytes() == whole
    kept.put("b", ROWS)
    assert KeptChunks(path, "s").get("b") == ROWS


def test_the_file_goes_when_all_is_done(tmp_path: Path) -> None:
    kept = KeptChunks(tmp_path / "unfinished.jsonl", "s")
    kept.put("a", ROWS)
    kept.remove()
    kept.remove()
    assert not list(tmp_path.iterdir())
