"""Moderation sets: labelled dialogues, of which the user's last turn becomes the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import RECALLED, Benchmark, pinned
from lpa_interp.prompt_sets.rows import kind_of, one_of, read_rows, text_of, unique_prompts
from lpa_interp.records import Prompt

ROLES = ("user", "assistant")
_RELEASE = (
    "dwks/latent-adversarial-training-personality",
    "596f0eb181df4dd06efe0f96c154d59f3cf3f369",
)


def parse_dialogues(paths: Sequence[Path], name: str, category: str | None = None) -> list[Prompt]:
    """The last user turn of each dialogue; ``label`` gives the side.

    Where the judged speaker is the user, that turn is the judged one and ends the dialogue;
    where it is the assistant, it is the turn that the judged reply answers.

    Args:
        paths: One JSONL file with ``id``, ``label``, ``conversation`` and perhaps ``target``.
        name: Of the set.
        category: Key of the category, blank for many rows; None where the set has none.
    """
    rows = []
    for place, row in read_rows(paths[0], ("id", "label", "conversation")):
        if not isinstance(row["label"], bool):
            raise InputError(place, f"'label' is {kind_of(row['label'])}", "true or false")
        prompt = Prompt(
            id=f"{name}-{text_of(place, row, 'id')}",
            text=_last_user_turn(place, row),
            harmful=row["label"],
            category=(row.get(category) or "none") if category else "none",
            source=name,
        )
        rows.append((place, prompt))
    return unique_prompts(rows)


def _last_user_turn(place: str, row: dict[str, Any]) -> str:
    turns = row["conversation"]
    if not isinstance(turns, list) or not turns:
        raise InputError(place, "'conversation' holds no turns", "a list of {role, content}")
    for turn in turns:
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise InputError(place, "a turn is not {role, content}", "a list of {role, content}")
        one_of(place, turn, "role", ROLES)
    judged = one_of(place, {"target": row.get("target", "user")}, "target", ROLES)
    if turns[-1]["role"] != judged:
        raise InputError(place, f"does not end with the judged {judged}'s turn", "the judged turn")
    users = [turn for turn in turns if turn["role"] == "user"]
    if not users:
        raise InputError(place, "holds no turn of the user", "one or more")
    return text_of(place, users[-1], "content")


def _set(
    name: str,
    file: str,
    sha256: str,
    *,
    licence: str,
    citation: str,
    note: str,
    category: str | None = None,
) -> Benchmark:
    return Benchmark(
        name=name,
        files=(pinned(file, sha256, *_RELEASE, f"dataset_test/{file}"),),
        parse=partial(parse_dialogues, name=name, category=category),
        source="as packed by GuardBench, from the release of arXiv 2605.08496",
        licence=licence,
        citation=f"{citation}; packed by Bassani and Sanchez 2024, GuardBench",
        note=note,
    )


DIALOGUE_SETS = (
    _set(
        "toxic_chat",
        "toxic-chat_test.jsonl",
        "25bc2ee4688bf1acdbde863c32f93e0c33d5893575c83ed088889e87c86abcfe",
        licence=f"CC-BY-NC-4.0 ({RECALLED})",
        citation="Lin et al. 2023, ToxicChat, arXiv 2310.17389",
        note="harmful: the user's message was judged toxic; it need not ask for harm",
    ),
    _set(
        "convabuse",
        "convabuse_test.jsonl",
        "0c160c4f24f2eaaa38a6279f784a17459ab18aabfc6478ea77b951ed51e4da1c",
        licence="not stated for the data; the repository is MIT",
        citation="Cercas Curry et al. 2021, ConvAbuse, arXiv 2109.09483",
        note="harmful: the user's last turn was judged abusive in its dialogue, which is left out; "
        "4 texts are on both sides",
    ),
    _set(
        "dices990",
        "dices990_test.jsonl",
        "ee7cd9284df47c105852c0b4708e16adc0740d44ad7835674a55559a19bbba45",
        licence=f"CC-BY-4.0 ({RECALLED})",
        citation="Aroyo et al. 2023, DICES, arXiv 2306.11247",
        note="the label judges the assistant's reply to the prompt, not the prompt itself; earlier "
        "turns are written into the prompt; 8 texts are on both sides",
        category="harm_type",
    ),
)
