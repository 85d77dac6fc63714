"""The user's own prompts: every layout, and every mistake named by file and line or row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lpa_interp.benchmarks import find_benchmark, list_benchmarks, load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.rows import read_rows, unique_prompts
from lpa_interp.records import Prompt


def _user(path: Path, content: str | bytes, prefix: str = "path") -> list[Prompt]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_benchmark(f"{prefix}:{path}")


def _lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = ('{"text": "a", "harmful": true, "target": "Sure"}', '{"text": "b", "harmful": false}')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "text,harmful,target\na,true,Sure\nb,False,\n"),
        ("p.csv", "text,harmful,target\r\na,true,Sure\r\nb,False,\r\n"),
        ("p.csv", "\ufefftext,harmful,target\na,true,Sure\nb,False,\n"),
        ("p.jsonl", "\n".join(ROWS)),
        ("p.jsonl", "\r\n".join(ROWS) + "\r\n"),
        ("p.jsonl", "\ufeff" + "\n".join(ROWS) + "\n\n"),
        ("p.json", f"[{ROWS[0]}, {ROWS[1]}]"),
    ],
    ids=["csv", "csv CRLF", "csv BOM", "jsonl", "jsonl CRLF", "jsonl BOM", "json"],
)
def test_a_users_file_reads_the_same_in_every_layout(
    tmp_path: Path, name: str, content: str
) -> None:
    first, second = _user(tmp_path / name, content)
    assert (first.id, first.text, first.harmful, first.target) == ("p-0001", "a", True, "Sure")
    assert (second.id, second.text, second.harmful, second.target) == ("p-0002", "b", False, None)
    assert first.category == "none" and first.source == f"path:{tmp_path / name}"


def test_a_users_columns_are_kept_and_line_ends_inside_a_text_are_line_feeds(
    tmp_path: Path,
) -> None:
    content = 'id,text,harmful,category,more\nx,"one\r\ntwo, three",true,fraud,?\n'
    (prompt,) = _user(tmp_path / "p.csv", content)
    assert (prompt.id, prompt.text, prompt.category) == ("x", "one\ntwo, three", "fraud")


def test_the_name_gives_the_side_of_a_file_without_one(tmp_path: Path) -> None:
    content = _lines({"text": "a", "id": 7}, {"text": "b", "id": "x"})
    for prefix, side in (("path-harmful", True), ("path-harmless", False)):
        prompts = _user(tmp_path / "p.jsonl", content, prefix)
        assert [prompt.harmful for prompt in prompts] == [side, side]
        assert [prompt.id for prompt in prompts] == ["7", "x"]


BAD_FILES: list[tuple[str, str | bytes, str]] = [
    ("p.txt", "a", r"p.txt: has the ending '.txt' \(.csv, .json, .jsonl\)"),
    ("p.csv", "", r"p.csv: is empty \(rows with text\)"),
    ("p.jsonl", "\n \n", r"p.jsonl: is empty"),
    ("p.json", b"\xef\xbb\xbf", r"p.json: is empty"),
    ("p.csv", "text,harmful\n", "p.csv: holds no rows"),
    ("p.csv", "words,harmful\na,true\n", r"p.csv:1: column 'text' is missing \(needs"),
    ("p.csv", "text,harmful\na,true\n ,true\n", "p.csv:3: column 'text' is empty"),
    ("p.csv", "text,harmful\na,true,x\n", r"p.csv:2: has 3 fields \(2, as the header"),
    ("p.csv", 'text,harmful\n"a\nb",true\nc,maybe\n', r":4: 'harmful' is 'maybe' \(true or fal"),
    ("p.csv", "text,harmful\na,\n", r"p.csv:2: 'harmful' is '' \(true or false"),
    ("p.csv", "text\na\n", r"p.csv:2: 'harmful' is missing \(true or false .* path-harmful:"),
    ("p.csv", "text,harmful,id\na,true,x\nb,true,x\n", r":3: id 'x' occurs twice .* at .*csv:2\)"),
    ("p.csv", "text,harmful,id\na,true,\n", "p.csv:2: 'id' is empty"),
    ("p.csv", b"text,harmful\na,true\n\xff,true\n", r"p.csv:3: is not UTF-8 \(save the file"),
    ("p.jsonl", b'{"text": "\xe9"}\n', "p.jsonl:1: is not UTF-8"),
    ("p.json", '{"text": "a"}', r"p.json: holds an object, not a list \(a list of objects"),
    ("p.json", "[]", "p.json: holds no rows"),
    ("p.json", '[{"text": "a",}]', "p.json: is not JSON"),
    ("p.json", '[{"text": "a", "harmful": true}, 3]', "p.json: item 2: is a number, not an obj"),
    ("p.jsonl", '{"text": "a", "harmful": true}\n[1]\n', r":2: is a list, not an object \(an obj"),
    ("p.jsonl", '{"text": "a", "harmful": true}\n{"tex', r"p.jsonl:2: is not JSON: .* column"),
    ("p.jsonl", '{"text": "a"}\n\n{"text": "b"}', r"p.jsonl:2: is an empty line \(one object"),
    ("p.jsonl", _lines({"harmful": True}), r"p.jsonl:1: key 'text' is missing \(needs text"),
    ("p.jsonl", _lines({"text": 3, "harmful": True}), r"p.jsonl:1: 'text' is a number \(a text"),
    ("p.jsonl", _lines({"text": " ", "harmful": True}), "p.jsonl:1: 'text' is empty"),
    ("p.jsonl", _lines({"text": "a", "harmful": 1}), r"p.jsonl:1: 'harmful' is 1 \(true or fal"),
    ("p.jsonl", _lines({"text": "a", "harmful": None}), "p.jsonl:1: 'harmful' is None"),
    ("p.jsonl", '{"text": "\\ud800", "harmful": true}', "p.jsonl:1: 'text' holds a lone surrog"),
    ("p.jsonl", _lines({"text": "a", "harmful": True, "target": []}), "'target' is a list"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_mistake_in_a_users_file_is_one_line_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _user(tmp_path / name, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("path:", r"benchmark 'path:': names no file \(path:prompts.csv"),
        ("path-harmless: ", "names no file"),
        ("path:nowhere.csv", "nowhere.csv: cannot be read"),
        ("path-both:p.csv", "unknown name .*or path:FILE for your own"),
        ("path", "unknown name"),
    ],
)
def test_a_name_that_leads_to_no_file_is_an_input_error(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_benchmark(name)


def test_a_side_given_twice_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'harmful' is given by the file and the name"):
        _user(tmp_path / "p.csv", "text,harmful\na,true\n", "path-harmless")


def test_a_users_file_has_no_splits_and_is_listed_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("text,harmful\na,true\nb,false\nb,false\n")
    with pytest.raises(InputError, match=r"unknown split 'test' \(all\)"):
        load_benchmark(f"path:{path}", split="test")
    assert find_benchmark(f"path:{path}").user_file == path
    (row,) = list_benchmarks([f"path:{path}"])
    assert row["sides"] == {"harmful": 1, "harmless": 2} and row["n_distinct"] == 2
    path.write_text("text\na\n")
    (row,) = list_benchmarks([f"path:{path}"])
    assert not row["available"] and "'harmful' is missing" in row["reason"]


def test_rows_keep_the_columns_that_nobody_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"a": 1, "b": "\u2028"}\n', encoding="utf-8")
    assert read_rows(path, ("a",)) == [(f"{path}:1", {"a": 1, "b": "\u2028"})]


def test_prompts_with_one_id_name_both_places() -> None:
    prompt = Prompt(id="x", text="a", harmful=True, category="", source="")
    with pytest.raises(InputError, match=r"f:9: id 'x' occurs twice \(each id once; first at f:2"):
        unique_prompts([("f:2", prompt), ("f:9", prompt)])
