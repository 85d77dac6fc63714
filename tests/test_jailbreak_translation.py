"""Requests in another language: whose translation a prompt gets, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.translation import translation_attack
from lpa_interp.records import Prompt
from tests.tiny import tiny_model

OPEN = Prompt(id="a", text="Open the lock.", harmful=True, category="c", source="s")
PAINT = Prompt(id="b", text="Paint the lock.", harmful=False, category="c", source="s")
ROWS = [
    {"prompt_id": "a", "language": "zu", "translation": "Vula ingidi."},
    {"text": "Paint the lock.", "language": "zu", "translation": "Penda ingidi."},
    {"prompt_id": "a", "language": "gd", "translation": "Fosgail a' ghlas."},
    {"prompt_id": "other", "language": "zu", "translation": "Okunye."},
]


def _file(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "translations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _texts(path: Path, prompts: list[Prompt], language: str | None = None) -> list[str]:
    with translation_attack(path, language).mount(tiny_model(), prompts, None) as mounted:
        assert all(not (one.prefill or one.system or one.turns) for one in mounted.given)
        return [one.text for one in mounted.given]


def test_a_prompt_gets_the_translation_of_its_id_or_else_of_its_text(tmp_path: Path) -> None:
    path = _file(tmp_path, ROWS)
    assert _texts(path, [PAINT, OPEN], "zu") == ["Penda ingidi.", "Vula ingidi."]
    assert _texts(path, [OPEN], "gd") == ["Fosgail a' ghlas."]


def test_a_csv_file_of_one_language_needs_no_language_named(tmp_path: Path) -> None:
    path = tmp_path / "gd.csv"
    path.write_text(
        "prompt_id,text,language,translation\na,Open the lock.,gd,Fosgail\nb,,gd,Peant\n"
    )
    assert _texts(path, [OPEN, PAINT]) == ["Fosgail", "Peant"]
    assert translation_attack(path).name == "translation:gd"
    assert "keyword judge" in translation_attack(path).description


def test_missing_translations_are_counted_and_named_never_skipped(tmp_path: Path) -> None:
    path = _file(tmp_path, ROWS)
    message = r"into gd: 4 of 5 prompts have none: b, p0, p1, \.\.\. \(every prompt needs one"
    more = [Prompt(id=f"p{n}", text=str(n), harmful=True, category="c", source="s") for n in "012"]
    with pytest.raises(InputError, match=message):
        _texts(path, [OPEN, PAINT, *more], "gd")


def test_a_translation_of_another_text_is_an_input_error(tmp_path: Path) -> None:
    row = {"prompt_id": "a", "text": "Close it.", "language": "gd", "translation": "Dùin e."}
    with pytest.raises(InputError, match="text of prompt a is not the benchmark's"):
        _texts(_file(tmp_path, [row]), [OPEN])


@pytest.mark.parametrize(
    ("rows", "language", "message"),
    [
        (ROWS, None, r"holds several languages and none is named \(gd, zu\)"),
        (ROWS, "cy", r"holds no 'cy' \(gd, zu\)"),
        ([*ROWS, ROWS[0]], "zu", r":5: 'a' is translated twice"),
        ([{"language": "zu", "translation": "x"}], None, ":1: names neither prompt_id nor text"),
        ([{"prompt_id": "a", "translation": "x"}], None, ":1: key 'language' is missing"),
        ([{**ROWS[0], "translation": " "}], None, ":1: 'translation' is empty"),
    ],
)
def test_a_mistake_in_the_file_names_the_place(
    tmp_path: Path, rows: list[dict[str, str]], language: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        translation_attack(_file(tmp_path, rows), language)


def test_an_absent_file_says_what_it_must_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file .*translation, language, and prompt"):
        translation_attack(tmp_path / "zulu.csv")
