"""Trait statements: the shipped set, the public layouts and splits by facet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from lpa_interp.errors import InputError
from lpa_interp.trait_files import load_builtin
from lpa_interp.traits import AGREE, DISAGREE, load_traits, split_by_facet, trait_sources

HEADER = "id,statement,side,factor,facet,keying\n"
needs_data = pytest.mark.skipif(
    "LPA_DATA_DIR" not in os.environ, reason="LPA_DATA_DIR is not set: no public data here"
)


def _csv(folder: Path, text: str) -> Path:
    path = folder / "traits.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_set_holds_both_sides_with_the_answers_wanted() -> None:
    statements = load_traits()
    assert len(statements) < 100 and {s.side for s in statements} == {"positive", "negative"}
    for statement in statements:
        wanted = AGREE if statement.side == "positive" else DISAGREE
        assert statement.desired == wanted != statement.undesired


def _texts(source: str, side: str) -> list[str]:
    return [statement.text for statement in load_traits(source) if statement.side == side]


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_the_abstract_control_matches_the_shipped_traits_in_length_and_negation(side: str) -> None:
    control, traits = _texts("abstract", side), _texts("builtin", side)
    n_words = [sorted(len(text.split()) for text in texts) for texts in (control, traits)]
    assert n_words[0] == n_words[1]
    assert mean(map(len, control)) == pytest.approx(mean(map(len, traits)), rel=0.05)
    for word in ("not", "never"):
        counts = [
            sum(len(re.findall(rf"\b{word}\b", text.lower())) for text in texts)
            for texts in (control, traits)
        ]
        assert counts[0] == counts[1]


def test_the_abstract_control_holds_no_person() -> None:
    statements = load_traits("abstract")
    persons = re.compile(
        r"\b(i|me|my|mine|you|your|we|us|our|he|she|him|her|who|people|person|someone|anyone)\b"
    )
    assert not [s.text for s in statements if persons.search(s.text.lower())]
    assert all(s.text[0].isupper() and s.text.endswith(".") for s in statements)
    assert len({s.text for s in statements}) == len(statements) == 66


def test_the_abstract_control_has_three_statements_a_topic_and_topics_of_one_side() -> None:
    sides: dict[str, list[str]] = {}
    for statement in load_traits("abstract"):
        assert statement.factor == "abstract" and statement.keying == "plus"
        wanted = AGREE if statement.side == "positive" else DISAGREE
        assert statement.desired == wanted != statement.undesired
        sides.setdefault(statement.facet, []).append(statement.side)
    assert sorted(sides.values()) == [["negative"] * 3] * 7 + [["positive"] * 3] * 15


def test_a_split_never_cuts_a_facet_and_keeps_both_sides() -> None:
    statements = load_traits()
    first, second = split_by_facet(statements, 0.75, seed=0)
    assert not {s.facet for s in first} & {s.facet for s in second}
    assert len(first) + len(second) == len(statements) and len(first) > len(second)
    assert {s.side for s in first} == {s.side for s in second} == {"positive", "negative"}


def test_a_split_depends_on_its_seed_alone() -> None:
    statements = load_traits()
    assert split_by_facet(statements, 0.5, 1) == split_by_facet(statements, 0.5, 1)
    assert split_by_facet(statements, 0.5, 1) != split_by_facet(statements, 0.5, 2)


def test_a_split_of_two_facets_leaves_no_part_empty(tmp_path: Path) -> None:
    path = _csv(tmp_path, HEADER + "a,I am,positive,f,x,plus\nb,I do,negative,f,y,minus\n")
    for share in (0.1, 0.9):
        first, second = split_by_facet(load_builtin(path), share, 0)
        assert len(first) == len(second) == 1


def test_one_facet_cannot_be_split(tmp_path: Path) -> None:
    statements = load_builtin(_csv(tmp_path, HEADER + "a,I am,positive,f,x,plus\n"))
    with pytest.raises(InputError, match="two or more"):
        split_by_facet(statements, 0.5, 0)
    with pytest.raises(InputError, match="above 0 and below 1"):
        split_by_facet(statements, 1.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,statement,side,factor,facet\n", r"traits.csv:1: column 'keying' is missing"),
        (HEADER, "holds no rows"),
        ("", "column 'id' is missing"),
        (HEADER + "a,I am,good,f,x,plus\n", r":2: side: 'good' is unknown \(positive, negative\)"),
        (HEADER + "a,I am,positive,f,x,up\n", r":2: keying: 'up' is unknown"),
        (HEADER + "a,,positive,f,x,plus\n", r":2: column 'statement' is empty"),
        (HEADER + '\na,"I\nam",positive,f,x,plus\nb,I\n', r":5: has 2 fields"),
    ],
)
def test_a_bad_row_is_named_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_builtin(_csv(tmp_path, text))


def test_bad_utf8_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "traits.csv"
    path.write_bytes(HEADER.encode() + b"a,caf\xe9,positive,f,x,plus\n")
    with pytest.raises(InputError, match=r"traits.csv:2: is not UTF-8"):
        load_builtin(path)


def test_missing_files_and_unknown_sources_are_input_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    with pytest.raises(InputError, match=r"unknown source 'web' \(builtin,"):
        load_traits("web")
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        load_traits("ipip_neo", tmp_path / "none.json")
    with pytest.raises(InputError, match=r"set traits\.path, or LPA_DATA_DIR"):
        load_traits("published_csv")
    for shipped in ("builtin", "abstract", "requests"):
        with pytest.raises(InputError, match=rf"is not used by the {shipped} set"):
            load_traits(shipped, tmp_path)


def test_published_pairs_keep_their_own_answers(tmp_path: Path) -> None:
    (tmp_path / "benign_trait.csv").write_text("prompt,response,refusal\nYou help.,Aye.,Nay.\n")
    (tmp_path / "harmful_trait.csv").write_text("prompt,rejected,chosen\nYou lie.,Aye.,Nay.\n")
    good, bad = load_traits("published_csv", tmp_path)
    assert (good.side, good.desired, good.undesired) == ("positive", "Aye.", "Nay.")
    assert (bad.side, bad.desired, bad.undesired) == ("negative", "Nay.", "Aye.")
    assert good.facet != bad.facet


def test_ipip_items_become_sentences_and_neuroticism_is_reversed(tmp_path: Path) -> None:
    items = [
        {"id": "1", "text": "Worry about things", "keyed": "plus", "domain": "N", "facet": 1},
        {"id": "2", "text": "Am calm", "keyed": "minus", "domain": "N", "facet": 1},
        {"id": "3", "text": "Trust others", "keyed": "plus", "domain": "A", "facet": 1},
        {"id": "4", "text": "I cheat", "keyed": "minus", "domain": "C", "facet": 3},
    ]
    (tmp_path / "questions.json").write_text(json.dumps(items))
    statements = load_traits("ipip_neo", tmp_path)
    texts = ["I worry about things.", "I am calm.", "I trust others.", "I cheat."]
    assert [s.text for s in statements] == texts
    assert [s.side for s in statements] == ["negative", "positive", "positive", "negative"]
    assert statements[0].facet == statements[1].facet != statements[2].facet


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not JSON"),
        ("[]", "holds no items"),
        ('[{"id": "1"}]', "item 1: key 'text' is missing"),
        (
            '[{"id": 1, "text": "x", "keyed": "plus", "domain": "Q", "facet": 1}]',
            r"item 1: domain: 'Q' is unknown \(O, C, E, A, N\)",
        ),
    ],
)
def test_bad_ipip_files_are_input_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_traits("ipip_neo", path)


def _persona(statement: str, answer: str) -> str:
    return json.dumps({"statement": statement, "answer_matching_behavior": answer}) + "\n"


def test_persona_statements_take_their_side_from_trait_and_label(tmp_path: Path) -> None:
    (tmp_path / "agreeableness.jsonl").write_text(
        _persona("I like people", " Yes") + _persona("I don't care about others' pain", " No")
    )
    (tmp_path / "psychopathy.jsonl").write_text(
        _persona("I look out for myself", " Yes") + _persona("I don\u2019t care about pain", " No")
    )
    statements = load_traits("anthropic_persona", tmp_path)
    assert [s.side for s in statements] == ["positive", "negative", "negative", "positive"]
    assert statements[0].text == "I like people."
    # Nearly the same statement in two files: one facet.
    assert statements[1].facet == statements[3].facet != statements[2].facet


def test_bad_persona_files_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "narcissism.jsonl"
    path.write_text(_persona("I am great", " Yes") + _persona("I am", "Maybe"))
    with pytest.raises(InputError, match=r":2: answer_matching_behavior: 'Maybe' is unknown"):
        load_traits("anthropic_persona", path)
    path.write_text("{bad\n")
    with pytest.raises(InputError, match=r":1: is not JSON"):
        load_traits("anthropic_persona", path)
    path.write_text("")
    with pytest.raises(InputError, match="holds no statements"):
        load_traits("anthropic_persona", path)
    other = tmp_path / "gardening.jsonl"
    other.write_text(_persona("I dig", " Yes"))
    with pytest.raises(InputError, match="'gardening' is unknown"):
        load_traits("anthropic_persona", other)


def test_sources_that_are_absent_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path))
    rows = {row["name"]: row for row in trait_sources()}
    shipped = {"builtin", "abstract", "requests"}
    assert {name for name, row in rows.items() if row["available"]} == shipped
    for name, row in rows.items():
        if name in shipped:
            assert row["n"] == sum(row["sides"].values()) and all(row["sides"].values())
        else:
            assert "LPA_DATA_DIR" in row["reason"]
    json.dumps(list(rows.values()))


@pytest.mark.data
@needs_data
def test_public_sets_load_with_both_sides() -> None:
    for row in trait_sources():
        assert row["available"], row["reason"]
        assert row["sides"]["positive"] and row["sides"]["negative"]


def test_traits_and_benchmarks_and_statistics_need_no_torch() -> None:
    code = (
        "import sys, lpa_interp.traits, lpa_interp.benchmarks, lpa_interp.jailbreaks,"
        "lpa_interp.paired; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
