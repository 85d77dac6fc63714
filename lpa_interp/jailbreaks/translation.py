"""The request in another language, from translations that the user brings.

Source: Yong et al. 2023, arXiv 2310.02446 (low-resource languages). What differs: there the
requests are translated by a machine and the answers translated back into English before they
are judged. Nothing here translates. The answer may be in that language too, which the built-in
judges, all of them English, cannot read: a refusal in Zulu counts as an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, Mounted, Progress
from lpa_interp.model import HookedTransformer
from lpa_interp.prompt_sets.rows import Row, read_rows, text_of
from lpa_interp.records import Prompt

FORMAT = (
    "a csv, JSON or JSONL file with the columns translation, language, and prompt_id or text "
    "(the request in English) or both"
)
_NAMED = 3
"""Prompts that a message names before it only counts."""


@dataclass(frozen=True, slots=True)
class Translations:
    """The translations of one language, by prompt id or by the request's text.

    ``texts`` holds the requests that rows with an id also give, to be compared.
    """

    language: str
    by_id: Mapping[str, str]
    by_text: Mapping[str, str]
    texts: Mapping[str, str]


def translation_attack(path: Path | str, language: str | None = None) -> Attack:
    """The request in another language, alone.

    Every prompt needs its translation: to leave out those that have none would measure other
    prompts under this attack than under the rest, and pairs would be lost.

    Args:
        path: The user's translations, see `FORMAT`. Rows of prompts that are not measured are
            passed over.
        language: Which of the file's languages; None where it holds one.

    Raises:
        InputError: The file is missing or not in the format, a prompt is translated twice, the
            language is not in it, or it holds several and none is named. When mounted: prompts
            have no translation, or the file has another text for a prompt's id.
    """
    translations = load_translations(Path(path), language)

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        yield Mounted(tuple(map(AttackedPrompt, translated(translations, prompts))))

    return Attack(
        name=f"translation:{translations.language}",
        description=f"the request in another language ({translations.language}); the answer may "
        "be in it too, which the keyword judge and the word list cannot read: their rates say "
        "nothing here",
        citation="Yong et al. 2023, arXiv 2310.02446; translations from the user",
        mount=mount,
    )


def load_translations(path: Path, language: str | None = None) -> Translations:
    """Reads the translations of one language.

    Raises:
        InputError: As `translation_attack`.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InputError(f"translations {path}", "no such file", FORMAT)
    rows = read_rows(path, ("translation", "language"))
    language = _language(path, rows, language)
    by_id: dict[str, str] = {}
    by_text: dict[str, str] = {}
    texts: dict[str, str] = {}
    for place, row in rows:
        if text_of(place, row, "language").strip() != language:
            continue
        prompt_id, text = _key(place, row)
        known, key = (by_id, prompt_id) if prompt_id is not None else (by_text, text or "")
        if key in known:
            raise InputError(place, f"{key!r:.60} is translated twice", "once in a language")
        known[key] = text_of(place, row, "translation")
        if prompt_id is not None and text is not None:
            texts[prompt_id] = text
    return Translations(language, by_id, by_text, texts)


def translated(translations: Translations, prompts: Sequence[Prompt]) -> list[str]:
    """The translation of each prompt: that of its id, else that of its text.

    Raises:
        InputError: Prompts have none, or the file has another text for a prompt's id.
    """
    found: list[str] = []
    missing: list[str] = []
    for prompt in prompts:
        known = translations.texts.get(prompt.id)
        if known is not None and known.strip() != prompt.text.strip():
            raise InputError(
                f"translations into {translations.language}",
                f"the text of prompt {prompt.id} is not the benchmark's",
                "translate this benchmark's text, or leave the column text out",
            )
        text = translations.by_id.get(prompt.id, translations.by_text.get(prompt.text.strip()))
        if text is None:
            missing.append(prompt.id)
        else:
            found.append(text)
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise InputError(
            f"translations into {translations.language}",
            f"{len(missing)} of {len(prompts)} prompts have none: {named}",
            "every prompt needs one: add them, or measure a set of the translated prompts alone "
            "(path:FILE)",
        )
    return found


def _language(path: Path, rows: Sequence[Row], wanted: str | None) -> str:
    """The language asked for, or the only one of the file."""
    languages = sorted({text_of(place, row, "language").strip() for place, row in rows})
    if wanted is None and len(languages) > 1:
        raise InputError(path, "holds several languages and none is named", ", ".join(languages))
    if wanted is not None and wanted not in languages:
        raise InputError(path, f"holds no {wanted!r}", ", ".join(languages))
    return wanted if wanted is not None else languages[0]


def _key(place: str, row: dict[str, object]) -> tuple[str | None, str | None]:
    """The prompt's id and its text; a row may leave out one of them."""
    values = []
    for column in ("prompt_id", "text"):
        blank = row.get(column) is None or row[column] == ""
        values.append(None if blank else text_of(place, row, column).strip())
    if values == [None, None]:
        raise InputError(place, "names neither prompt_id nor text", FORMAT)
    return values[0], values[1]
