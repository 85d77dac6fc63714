"""Rows of csv, JSON and JSONL files, with mistakes named by file, line or item, and key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import Parse
from lpa_interp.records import Prompt
from lpa_interp.tables import read_csv, read_text
from lpa_interp.trait_files import read_json

Row = tuple[str, dict[str, Any]]
"""The place of a row (``file:line``, or ``file: item 3`` of a JSON list) and its fields."""

ENDINGS = (".csv", ".json", ".jsonl")
_JSON_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def read_rows(path: Path, required: Sequence[str]) -> list[Row]:
    """Rows of a file, read by the ending of its name.

    A byte-order mark and either kind of line end are read as what they are. Columns beyond
    those required are kept.

    Args:
        path: A csv file with a header, a JSON file that holds a list of objects, or a JSONL
            file with an object on each line. All are UTF-8.
        required: Columns or keys that every row must have.

    Raises:
        InputError: The ending is another one, the file is missing, empty, not UTF-8 or not what
            its ending says, a row is not an object, or a required field is missing or blank.
    """
    if path.suffix not in ENDINGS:
        raise InputError(path, f"has the ending {path.suffix!r}", ", ".join(ENDINGS))
    text = read_text(path)
    if not text.strip():
        raise InputError(path, "is empty", f"rows with {', '.join(required)}")
    if path.suffix == ".csv":
        return list(read_csv(path, required))
    rows = _json_items(path) if path.suffix == ".json" else _json_lines(path, text)
    for place, row in rows:
        _require_keys(place, row, required)
    return rows


def text_of(place: str, row: dict[str, Any], key: str) -> str:
    """A field that must be a text with something in it.

    Raises:
        InputError: It is blank, not a text, or cannot be written as UTF-8.
    """
    value = row[key]
    if not isinstance(value, str):
        raise InputError(place, f"{key!r} is {kind_of(value)}", "a text")
    if not value.strip():
        raise InputError(place, f"{key!r} is empty", "every row needs one")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(place, f"{key!r} holds a lone surrogate", "Unicode text") from None
    return value


def one_of(place: str, row: dict[str, Any], key: str, allowed: Sequence[str]) -> str:
    """A field that must hold one of the given words.

    Raises:
        InputError: It holds something else.
    """
    value = row[key]
    if value not in allowed:
        raise InputError(place, f"{key}: {value!r:.40} is unknown", ", ".join(allowed))
    return str(value)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return _JSON_KINDS.get(type(value), type(value).__name__)


def unique_prompts(rows: Iterable[tuple[str, Prompt]]) -> list[Prompt]:
    """The prompts of placed rows.

    Raises:
        InputError: Two rows have one id; names the second, and where the first is.
    """
    seen: dict[str, str] = {}
    prompts = []
    for place, prompt in rows:
        if prompt.id in seen:
            allowed = f"each id once; first at {seen[prompt.id]}"
            raise InputError(place, f"id {prompt.id!r} occurs twice", allowed)
        seen[prompt.id] = place
        prompts.append(prompt)
    return prompts


def _json_items(path: Path) -> list[Row]:
    items = read_json(path)
    if not isinstance(items, list):
        raise InputError(path, f"holds {kind_of(items)}, not a list", "a list of objects")
    if not items:
        raise InputError(path, "holds no rows", "one or more objects")
    return [(f"{path}: item {number}", item) for number, item in enumerate(items, start=1)]


def _json_lines(path: Path, text: str) -> list[Row]:
    """By line feed alone: JSON strings may hold other Unicode line separators."""
    rows = []
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        place = f"{path}:{number}"
        if not line.strip():
            raise InputError(place, "is an empty line", "one object a line")
        try:
            rows.append((place, json.loads(line)))
        except json.JSONDecodeError as error:
            mistake = f"is not JSON: {error.msg} at column {error.colno}"
            raise InputError(place, mistake, "one object a line") from None
    return rows


def _require_keys(place: str, row: object, required: Sequence[str]) -> None:
    keys = ", ".join(required)
    if not isinstance(row, dict):
        raise InputError(place, f"is {kind_of(row)}, not an object", f"an object with {keys}")
    for key in required:
        if key not in row:
            raise InputError(place, f"key {key!r} is missing", f"needs {keys}")


def one_side(
    source: str, *, text: str, harmful: bool, category: str | None = None, id: str | None = None
) -> Parse:
    """A parser of one file whose rows are all on one side.

    Args:
        source: Name of the set, with which ids start.
        text: Column or key of the prompt.
        harmful: The side of every prompt.
        category: Column or key of the category; None where the set has none.
        id: Column or key that tells rows apart; None numbers them from 1.
    """
    required = [key for key in (text, category, id) if key is not None]

    def parse(paths: Sequence[Path]) -> list[Prompt]:
        rows = enumerate(read_rows(paths[0], required), start=1)
        return unique_prompts(
            (
                place,
                Prompt(
                    id=f"{source}-{text_of(place, row, id) if id else format(number, '04d')}",
                    text=text_of(place, row, text),
                    harmful=harmful,
                    category=text_of(place, row, category) if category else "none",
                    source=source,
                ),
            )
            for number, (place, row) in rows
        )

    return parse
