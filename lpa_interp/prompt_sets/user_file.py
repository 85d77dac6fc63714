"""The user's own prompts: any csv, JSON or JSONL file, named in place of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import Benchmark
from lpa_interp.prompt_sets.rows import read_rows, text_of, unique_prompts
from lpa_interp.records import Prompt

PREFIXES: dict[str, bool | None] = {
    "path": None,
    "path-harmful": True,
    "path-harmless": False,
}
"""What a name starts with, and the side that it gives to every prompt of the file."""


def is_user_file(name: str) -> bool:
    """Whether a name is a file of the user's, such as ``path:prompts.csv``."""
    return name.partition(":")[0] in PREFIXES and ":" in name


def user_benchmark(name: str) -> Benchmark:
    """The set that ``path:FILE``, ``path-harmful:FILE`` or ``path-harmless:FILE`` stands for.

    The file's columns (keys in JSON and JSONL) are ``text`` and, each optional, ``id``,
    ``harmful``, ``category`` and ``target``; others are passed over. Rows are numbered where
    the file has no ids. A blank category or target is none. Line ends inside a text are read as
    line feeds.

    The side of a prompt is never guessed. After ``path:`` every row says ``harmful``, true or
    false. After ``path-harmful:`` and ``path-harmless:`` the name says it for the whole file,
    and a column of that name is a mistake.

    Raises:
        InputError: The name holds no file.
    """
    prefix, _, place = name.partition(":")
    if not place.strip():
        raise InputError(f"benchmark {name!r}", "names no file", f"{prefix}:prompts.csv")
    return Benchmark(
        name=name,
        files=(),
        parse=partial(_parse, name=name, side=PREFIXES[prefix]),
        source="a file of the user's",
        licence="not stated",
        citation="none",
        user_file=Path(place).expanduser(),
    )


def _parse(paths: Sequence[Path], name: str, side: bool | None) -> list[Prompt]:
    path = paths[0]
    rows = []
    for number, (place, row) in enumerate(read_rows(path, ("text",)), start=1):
        prompt = Prompt(
            id=_id(place, row) if "id" in row else f"{path.stem}-{number:04d}",
            text=text_of(place, row, "text").replace("\r\n", "\n"),
            harmful=_harmful(place, row, side),
            category=_optional(place, row, "category") or "none",
            source=name,
            target=_optional(place, row, "target"),
        )
        rows.append((place, prompt))
    return unique_prompts(rows)


def _harmful(place: str, row: dict[str, Any], side: bool | None) -> bool:
    if side is not None:
        if "harmful" in row:
            raise InputError(place, "'harmful' is given by the file and the name", "path:FILE")
        return side
    if "harmful" not in row:
        allowed = "true or false in every row, or name the set path-harmful: or path-harmless:"
        raise InputError(place, "'harmful' is missing", allowed)
    value = row["harmful"]
    words = {"true": True, "false": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if not isinstance(value, bool):
        raise InputError(place, f"'harmful' is {value!r:.40}", "true or false")
    return value


def _id(place: str, row: dict[str, Any]) -> str:
    return str(row["id"]) if type(row["id"]) is int else text_of(place, row, "id").strip()


def _optional(place: str, row: dict[str, Any], key: str) -> str | None:
    """A field that may be missing, null or blank."""
    value = row.get(key)
    blank = value is None or (isinstance(value, str) and not value.strip())
    return None if blank else text_of(place, row, key)
