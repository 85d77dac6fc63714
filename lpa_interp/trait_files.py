"""Trait statement files: one loader a layout, each from a path to `TraitStatement` rows.

Every mistake in a file is an `InputError` that names the place and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from lpa_interp.errors import InputError
from lpa_interp.records import TraitSide, TraitStatement
from lpa_interp.tables import read_csv, read_text

AGREE = "I agree with this statement."
DISAGREE = "I do not agree with this statement."
SIDES = ("positive", "negative")
_OPPOSITE: dict[str, TraitSide] = {"positive": "negative", "negative": "positive"}

IPIP_FACTORS: dict[str, tuple[str, TraitSide]] = {
    "O": ("openness", "positive"),
    "C": ("conscientiousness", "positive"),
    "E": ("extraversion", "positive"),
    "A": ("agreeableness", "positive"),
    "N": ("neuroticism", "negative"),
}
"""Factor of a domain letter, and the side of a high score on it."""

PERSONA_TRAITS: dict[str, TraitSide] = {
    "agreeableness": "positive",
    "conscientiousness": "positive",
    "extraversion": "positive",
    "openness": "positive",
    "neuroticism": "negative",
    "machiavellianism": "negative",
    "narcissism": "negative",
    "psychopathy": "negative",
}
"""Side of a statement that matches the trait; one that does not match is on the other."""

_FUNCTION_WORDS = frozenset(
    [
        *("a", "an", "the", "i", "i'm", "am", "is", "are", "was", "be", "to", "of", "in", "on"),
        *("for", "with", "and", "or", "that", "it", "my", "me", "others'", "other", "people"),
        *("do", "not", "don't", "very", "much", "more", "most", "at", "by", "as"),
    ]
)


def _statement(
    id: str,
    text: str,
    side: str,
    factor: str,
    facet: str,
    keying: str,
    answers: tuple[str, str] | None = None,
) -> TraitStatement:
    desired, undesired = answers or ((AGREE, DISAGREE) if side == "positive" else (DISAGREE, AGREE))
    return TraitStatement(
        id=id,
        text=text.strip(),
        side=cast(TraitSide, side),
        factor=factor,
        facet=facet,
        keying=cast(Literal["plus", "minus"], keying),
        desired=desired,
        undesired=undesired,
    )


def load_builtin(path: Path) -> list[TraitStatement]:
    """The layout of the shipped csv files: id, statement, side, factor, facet, keying."""
    statements = []
    for place, row in read_csv(path, ("id", "statement", "side", "factor", "facet", "keying")):
        _require(place, "side", row["side"], SIDES)
        _require(place, "keying", row["keying"], ("plus", "minus"))
        id, text, side = row["id"], row["statement"], row["side"]
        statements.append(_statement(id, text, side, row["factor"], row["facet"], row["keying"]))
    return statements


def load_published_csv(folder: Path) -> list[TraitStatement]:
    """The published pairs: facets are unknown, so each statement is a group of its own.

    Factor and keying are not given either: ``desirability`` and the side stand for them.
    """
    if not folder.is_dir():
        allowed = "a folder with benign_trait.csv and harmful_trait.csv"
        raise InputError(folder, "is not a folder", allowed)
    statements = []
    for side, name, desired, undesired in (
        ("positive", "benign_trait.csv", "response", "refusal"),
        ("negative", "harmful_trait.csv", "chosen", "rejected"),
    ):
        rows = read_csv(folder / name, ("prompt", desired, undesired))
        for number, (_, row) in enumerate(rows, start=1):
            id = f"published-{side}-{number:02d}"
            keying = "plus" if side == "positive" else "minus"
            answers = (row[desired].strip(), row[undesired].strip())
            statements.append(
                _statement(id, row["prompt"], side, "desirability", id, keying, answers)
            )
    return statements


def load_ipip_neo(path: Path) -> list[TraitStatement]:
    """IPIP-NEO items: the side follows from the factor and the keying.

    Agreeing with a plus-keyed item scores high on its factor. A high score is desirable on
    openness, conscientiousness, extraversion and agreeableness, a low one on neuroticism;
    so a statement is positive where keying and factor point to the desirable end.
    """
    file = path / "questions.json" if path.is_dir() else path
    items = read_json(file)
    if not isinstance(items, list) or not items:
        raise InputError(file, "holds no items", "a list of {id, text, keyed, domain, facet}")
    statements = []
    for number, item in enumerate(items, start=1):
        place = f"{file}: item {number}"
        for key in ("id", "text", "keyed", "domain", "facet"):
            _require_key(place, key, item)
        _require(place, "domain", item["domain"], tuple(IPIP_FACTORS))
        _require(place, "keyed", item["keyed"], ("plus", "minus"))
        factor, high_is = IPIP_FACTORS[item["domain"]]
        side = high_is if item["keyed"] == "plus" else _OPPOSITE[high_is]
        facet = f"{factor}/{item['facet']}"
        text = _first_person(str(item["text"]))
        statements.append(
            _statement(f"ipip-{item['id']}", text, side, factor, facet, item["keyed"])
        )
    return statements


def load_anthropic_persona(path: Path) -> list[TraitStatement]:
    """Labelled persona statements: one file, or all known traits' files of a folder.

    Statements with the same content words share a facet across files, so that a repeated
    statement cannot fall on both sides of a split.
    """
    paths = [path]
    if path.is_dir():
        paths = [path / f"{trait}.jsonl" for trait in PERSONA_TRAITS]
        paths = [file for file in paths if file.is_file()]
        if not paths:
            raise InputError(path, "holds no persona file", f"{', '.join(PERSONA_TRAITS)} .jsonl")
    facets: dict[str, str] = {}
    statements = []
    for file in paths:
        _require(file, "file name", file.stem, tuple(PERSONA_TRAITS))
        factor, matching_is = file.stem, PERSONA_TRAITS[file.stem]
        for number, line in enumerate(_lines(file), start=1):
            place = f"{file}:{number}"
            item = _parse_json(line, place)
            for key in ("statement", "answer_matching_behavior"):
                _require_key(place, key, item)
            answer = str(item["answer_matching_behavior"]).strip()
            _require(place, "answer_matching_behavior", answer, ("Yes", "No"))
            side = matching_is if answer == "Yes" else _OPPOSITE[matching_is]
            text = str(item["statement"]).strip()
            text = text if text.endswith((".", "!", "?")) else f"{text}."
            id = f"persona-{factor}-{number:04d}"
            facet = facets.setdefault(_content_words(text), f"{factor}/{number:04d}")
            keying = "plus" if answer == "Yes" else "minus"
            statements.append(_statement(id, text, side, factor, facet, keying))
    return statements


def _lines(path: Path) -> list[str]:
    """Lines by line feed alone: JSON strings may hold other Unicode line separators."""
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1].strip() == "" else lines


def _first_person(text: str) -> str:
    """An item such as "Worry about things" as the sentence "I worry about things."."""
    text = text.strip().rstrip(".")
    if text and not re.match(r"I\b", text):
        text = f"I {text[0].lower()}{text[1:]}"
    return f"{text}." if text else ""


def _content_words(text: str) -> str:
    """The statement's content words, sorted: a cheap key for near-duplicates."""
    words = re.findall(r"[a-z']+", text.lower().replace("\u2019", "'"))
    content = sorted(set(words) - _FUNCTION_WORDS)
    return " ".join(content or words)


def _require(place: object, column: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(place, f"{column}: {value!r} is unknown", ", ".join(allowed))


def _require_key(place: str, key: str, item: Any) -> None:
    if not isinstance(item, dict) or key not in item:
        raise InputError(place, f"key {key!r} is missing", "every item needs one")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: The file is missing, not UTF-8 or not JSON; names the line.
    """
    return _parse_json(read_text(path), str(path))


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = place if error.lineno == 1 else f"{place}:{error.lineno}"
        raise InputError(at, f"is not JSON: {error.msg} at column {error.colno}") from None
