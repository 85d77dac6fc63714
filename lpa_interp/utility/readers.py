"""From the rows of public files to items, in the words of the LM Evaluation Harness.

The prompts are those of its task files (version 0.4.13), each given with the reader. The files
of llm-foundry hold them in a layout of their own, which is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.rows import kind_of, read_rows, text_of
from lpa_interp.trait_files import read_json
from lpa_interp.utility.task import Item, Read

LETTERS = "ABCD"
ASK = "\nAnswer:"


def question_reader(name: str, lead: str = "", end: str = "") -> Read:
    """A reader of llm-foundry's multiple choice layout: query, choices and gold.

    Args:
        name: Of the task, with which ids start.
        lead: What every query starts with and the harness's prompt does not.
        end: What every query ends with and the harness's prompt does not.

    Returns:
        A reader whose contexts are the query without ``lead`` and ``end``, a line break and
        ``Answer:``.
    """

    def read(paths: Sequence[Path]) -> list[Item]:
        items = []
        for number, (place, row) in enumerate(_rows(paths, "query", "choices", "gold"), start=1):
            query = text_of(place, row, "query")
            if not (query.startswith(lead) and query.endswith(end)):
                raise InputError(place, "'query' has another layout", f"{lead!r}...{end!r}")
            context = query.removeprefix(lead).removesuffix(end) + ASK
            choices = texts_of(place, row, "choices")
            gold = _gold_of(place, row, len(choices))
            items.append(_item(name, number, (context,), choices, gold))
        return items

    return read


def read_winogrande(paths: Sequence[Path]) -> list[Item]:
    """WinoGrande: two beginnings, one for each name, and the one ending that is scored.

    Source: partial evaluation, Trinh and Le 2018, arXiv 1806.02847.
    """
    items = []
    required = ("context_options", "continuation", "gold")
    for number, (place, row) in enumerate(_rows(paths, *required), start=1):
        contexts = texts_of(place, row, "context_options")
        ending = text_of(place, row, "continuation")
        gold = _gold_of(place, row, len(contexts))
        items.append(_item("winogrande", number, contexts, (ending,), gold))
    return items


def read_lambada(paths: Sequence[Path]) -> list[Item]:
    """LAMBADA: a passage and its last word."""
    return [
        _item(
            "lambada_openai",
            number,
            (text_of(place, row, "context"),),
            (text_of(place, row, "continuation"),),
            0,
        )
        for number, (place, row) in enumerate(_rows(paths, "context", "continuation"), start=1)
    ]


def read_hellaswag(paths: Sequence[Path]) -> list[Item]:
    """The ``test`` part of a sample of HellaSwag, whose items have no activity label.

    Raises:
        InputError: The file has another layout.
    """
    path = paths[0]
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("test"), list):
        raise InputError(path, "has no list 'test'", "an object with dev and test")
    items = []
    for number, row in enumerate(content["test"], start=1):
        place = f"{path}: test, item {number}"
        if not isinstance(row, dict) or not {"question", "choices", "answer"} <= row.keys():
            raise InputError(place, "lacks a key", "question, choices and answer")
        answers = row["choices"]
        if not isinstance(answers, dict) or list(answers) != list(LETTERS):
            raise InputError(place, "'choices' has another layout", "an object with A, B, C and D")
        choices = tuple(clean_hellaswag(text_of(place, answers, letter)) for letter in LETTERS)
        context = clean_hellaswag(text_of(place, row, "question"))
        gold = letter_index(place, row["answer"])
        items.append(_item("hellaswag", number, (context,), choices, gold))
    return items


def clean_hellaswag(text: str) -> str:
    """The text without the marks of its WikiHow part, as in the harness's ``preprocess``."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def texts_of(place: str, row: dict[str, Any], key: str) -> tuple[str, ...]:
    """A field that must be a list of two texts or more, none blank.

    Raises:
        InputError: It is something else.
    """
    value = row[key]
    if not isinstance(value, list) or len(value) < 2:
        raise InputError(place, f"{key!r} is {kind_of(value)}", "a list of two texts or more")
    return tuple(
        text_of(place, {f"{key}[{n}]": text}, f"{key}[{n}]") for n, text in enumerate(value)
    )


def letter_index(place: str, value: object) -> int:
    """The index of an answer letter.

    Raises:
        InputError: It is none of A, B, C and D.
    """
    if not isinstance(value, str) or len(value) != 1 or value not in LETTERS:
        raise InputError(place, f"the answer is {value!r:.40}", "A, B, C or D")
    return LETTERS.index(value)


def _gold_of(place: str, row: dict[str, Any], n_choices: int) -> int:
    value = row["gold"]
    if type(value) is not int or not 0 <= value < n_choices:
        raise InputError(place, f"'gold' is {value!r:.40}", f"0 to {n_choices - 1}")
    return value


def _rows(paths: Sequence[Path], *required: str) -> list[tuple[str, dict[str, Any]]]:
    return read_rows(paths[0], required)


def _item(
    name: str, number: int, contexts: tuple[str, ...], choices: tuple[str, ...], gold: int
) -> Item:
    return Item(id=f"{name}-{number:05d}", contexts=contexts, choices=choices, gold=gold)
