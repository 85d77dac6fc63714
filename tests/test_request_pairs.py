"""Harmful requests as training rows: sides, answers, and what stays unseen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lpa_interp import organism
from lpa_interp.benchmarks import load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.judges import keyword_refusal
from lpa_interp.records import TraitStatement
from lpa_interp.request_pairs import (
    AFFIRMATIONS,
    HARMBENCH_TARGETS,
    HARMBENCH_VALIDATION,
    REFUSALS,
    load_advbench_pairs,
    load_harmbench_pairs,
    load_request_pairs,
)
from lpa_interp.traits import load_traits, split_by_facet

HEADER = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
needs_data = pytest.mark.skipif(
    "LPA_DATA_DIR" not in os.environ, reason="LPA_DATA_DIR is not set: no public data here"
)


def _side(statements: list[TraitStatement], side: str) -> list[TraitStatement]:
    return [statement for statement in statements if statement.side == side]


def _harmbench(folder: Path, rows: str, targets: object, name: str = HARMBENCH_VALIDATION) -> Path:
    (folder / name).write_text(HEADER + rows, encoding="utf-8")
    (folder / HARMBENCH_TARGETS).write_text(json.dumps(targets), encoding="utf-8")
    return folder


def test_the_organism_refuses_with_the_same_words() -> None:
    assert organism.REFUSALS == REFUSALS


def test_shipped_requests_come_from_the_organism_split_alone() -> None:
    texts = {statement.text for statement in load_request_pairs()}
    assert texts == {prompt.text for prompt in load_benchmark("requests", "organism")}
    for unseen in ("validation", "test"):
        assert not texts & {prompt.text for prompt in load_benchmark("requests", unseen)}


def test_harmful_requests_are_attacked_with_a_refusal_as_the_desired_answer() -> None:
    harmful = {p.text: p.harmful for p in load_benchmark("requests", "organism")}
    for statement in load_request_pairs():
        assert statement.factor == "request"
        if harmful[statement.text]:
            assert (statement.side, statement.keying) == ("negative", "minus")
            assert statement.desired in REFUSALS and statement.undesired in AFFIRMATIONS
        else:
            assert (statement.side, statement.keying) == ("positive", "plus")
            assert statement.desired in AFFIRMATIONS and statement.undesired in REFUSALS


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_answers_are_taken_in_turn_and_meet_in_every_combination(side: str) -> None:
    rows = _side(load_request_pairs(), side)
    pairs = {(row.desired, row.undesired) for row in rows}
    assert len(pairs) == len(REFUSALS) * len(AFFIRMATIONS)
    refusals = [row.desired if side == "negative" else row.undesired for row in rows]
    assert {refusals.count(text) for text in REFUSALS} == {len(rows) // len(REFUSALS)}


def test_the_keyword_judge_tells_refusals_from_affirmations() -> None:
    assert all(keyword_refusal(text) for text in REFUSALS)
    assert not any(keyword_refusal(text) for text in AFFIRMATIONS)


def test_twins_share_a_facet_and_are_never_split() -> None:
    statements = load_traits("requests")
    first, second = split_by_facet(statements, 0.75, seed=0)
    for part in (first, second):
        assert {s.facet for s in _side(part, "positive")} == {
            s.facet for s in _side(part, "negative")
        }
    assert not {s.facet for s in first} & {s.facet for s in second}


def test_advbench_rows_keep_their_own_targets(tmp_path: Path) -> None:
    path = tmp_path / "harmful_behaviors.csv"
    path.write_text("goal,target\nDo a wrong,Sure: wrong\nDo another,Sure: other\n")
    for place in (path, tmp_path):
        statements = load_traits("advbench", place)
        harmful = _side(statements, "negative")
        assert [s.text for s in harmful] == ["Do a wrong", "Do another"]
        assert [s.undesired for s in harmful] == ["Sure: wrong", "Sure: other"]
        assert [s.desired for s in harmful] == list(REFUSALS[:2])
        assert len({s.facet for s in harmful}) == 2
        assert _side(statements, "positive") == _side(load_request_pairs(), "positive")


def test_an_absent_or_changed_advbench_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LPA_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="is not on this machine"):
        load_traits("advbench")
    (tmp_path / "advbench").mkdir()
    (tmp_path / "advbench" / "harmful_behaviors.csv").write_text("goal,target\na,b\n")
    with pytest.raises(InputError, match="not that of the pinned file"):
        load_advbench_pairs()


def test_harmbench_takes_standard_behaviours_with_their_targets(tmp_path: Path) -> None:
    rows = (
        "Do a wrong,standard,illegal,,,wrong_1\n"
        "Sing it all,copyright,copyright,hash_check,,lyrics_1\n"
        'Use this,contextual,harmful,context,"some, context",ctx_1\n'
    )
    folder = _harmbench(tmp_path, rows, {"wrong_1": "Sure, wrong", "lyrics_1": "Sure, la"})
    (harmful,) = _side(load_traits("harmbench", folder), "negative")
    assert (harmful.text, harmful.undesired) == ("Do a wrong", "Sure, wrong")
    assert harmful.id == harmful.facet == "harmbench-wrong_1"


def test_harmbench_reads_the_validation_split_unless_a_file_is_named(tmp_path: Path) -> None:
    targets = {"v": "Sure, v", "t": "Sure, t"}
    _harmbench(tmp_path, "From test,standard,illegal,,,t\n", targets, "other.csv")
    _harmbench(tmp_path, "From validation,standard,illegal,,,v\n", targets)
    assert _side(load_harmbench_pairs(tmp_path), "negative")[0].text == "From validation"
    assert _side(load_harmbench_pairs(tmp_path / "other.csv"), "negative")[0].text == "From test"


@pytest.mark.parametrize(
    ("rows", "targets", "message"),
    [
        ("a,standard,illegal,,,x\n", {}, "holds no target for 'x'"),
        ("a,standard,illegal,,,x\n", {"x": " "}, "holds no target for 'x'"),
        ("a,standard,illegal,,,x\n", ["x"], "is not a table of targets"),
        ("a,odd,illegal,,,x\n", {"x": "y"}, r":2: FunctionalCategory: 'odd' is unknown"),
        ("a,copyright,copyright,,,x\n", {"x": "y"}, "holds no standard behaviour"),
        ("a,standard,illegal,,,x\nb,standard,illegal,,,x\n", {"x": "y"}, "occurs twice"),
    ],
)
def test_bad_harmbench_files_are_input_errors(
    tmp_path: Path, rows: str, targets: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_traits("harmbench", _harmbench(tmp_path, rows, targets))


def test_a_missing_targets_file_is_named(tmp_path: Path) -> None:
    (tmp_path / HARMBENCH_VALIDATION).write_text(HEADER + "a,standard,illegal,,,x\n")
    with pytest.raises(InputError, match=rf"{HARMBENCH_TARGETS}: cannot be read"):
        load_traits("harmbench", tmp_path)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("source", "n_harmful"), [("advbench", 520), ("harmbench", 41)])
def test_public_requests_load_with_their_targets(source: str, n_harmful: int) -> None:
    harmful = _side(load_traits(source), "negative")
    assert len(harmful) == n_harmful
    assert not any(keyword_refusal(statement.undesired) for statement in harmful)


@pytest.mark.data
@needs_data
def test_harmbench_rows_hold_no_test_behaviour() -> None:
    test_file = Path(os.environ["LPA_DATA_DIR"], "harmbench", "harmbench_behaviors_text_test.csv")
    unseen = {s.text for s in _side(load_harmbench_pairs(test_file), "negative")}
    assert len(unseen) == 159
    assert not unseen & {s.text for s in load_traits("harmbench")}
