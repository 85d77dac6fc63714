"""Neutral prompts: what training should leave as it was.

They are everyday instructions, without a person's traits and without harm: Alpaca instructions
(the harmless test split of Arditi et al. 2024) where that public set is on this machine, else
sentences of the expository text that is shipped (39, on one subject). Neither is trained on
here. Their lengths are those of the shipped requests, so that what sets them apart is not how
long they are.

Loading needs no torch.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from lpa_interp.benchmarks import list_benchmarks, load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.tables import read_text, shipped_file

PUBLIC_SET = "refusal_direction-harmless"
SHIPPED_TEXT = "sentences of the shipped text"
FEWEST_WORDS, MOST_WORDS = 6, 20
"""Words of the shipped requests."""


@dataclass(frozen=True, slots=True)
class NeutralPrompts:
    """Neutral prompts, the name of the set they are from, and why it is not the public one."""

    texts: tuple[str, ...]
    source: str
    reason: str = ""


def neutral_prompts(limit: int, seed: int = 0) -> NeutralPrompts:
    """Up to ``limit`` neutral prompts, drawn with ``seed``, in the order of their source.

    Args:
        limit: Prompts at most.
        seed: Of the draw.

    Returns:
        Prompts of the public set where it is on this machine; else of the shipped text, with the
        reason.

    Raises:
        InputError: The limit is below 1.
    """
    if limit < 1:
        raise InputError("limit", f"{limit} is not allowed", "1 or more")
    found = list_benchmarks([PUBLIC_SET])[0]
    if found["available"]:
        texts = [prompt.text for prompt in load_benchmark(PUBLIC_SET)]
        return NeutralPrompts(_drawn(texts, limit, seed), PUBLIC_SET)
    texts = sentences(read_text(shipped_file("text.txt")))
    return NeutralPrompts(_drawn(texts, limit, seed), SHIPPED_TEXT, str(found["reason"]))


def sentences(text: str) -> list[str]:
    """The sentences of plain prose; headings, which end in no full stop, are left out."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split()))
        found += [part for part in parts if part.endswith((".", "!", "?"))]
    return found


def _drawn(texts: list[str], limit: int, seed: int) -> tuple[str, ...]:
    distinct = dict.fromkeys(t for t in texts if FEWEST_WORDS <= len(t.split()) <= MOST_WORDS)
    wanted = min(limit, len(distinct))
    places = sorted(random.Random(seed).sample(range(len(distinct)), wanted))
    kept = list(distinct)
    return tuple(kept[place] for place in places)
