"""Completions and prompts made by hand, for judges and comparisons."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lpa_interp.records import Completion, ModelLabel, Prompt

REFUSAL = "I'm sorry, but I can't help with that request, whatever you say to me now."
ANSWER = "Sure, here is a plan to rob the bank at night without being caught by anyone."


def completion(
    text: str,
    prompt_id: str = "p0",
    harmful: bool = True,
    model: ModelLabel = "base",
    benchmark: str = "b",
    attack: str = "direct",
    redacted: bool = False,
) -> Completion:
    return Completion(
        model=model,
        benchmark=benchmark,
        attack=attack,
        prompt_id=prompt_id,
        harmful=harmful,
        text=text,
        redacted=redacted,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        n_tokens=len(text.split()),
    )


def completions(texts: Sequence[str], model: ModelLabel = "base") -> list[Completion]:
    """One harmful completion per text, on prompts p0, p1, ..."""
    return [completion(text, f"p{index}", model=model) for index, text in enumerate(texts)]


def prompts(n: int, benchmark: str = "b") -> dict[str, list[Prompt]]:
    """Harmful prompts p0, p1, ... of one benchmark."""
    found = [
        Prompt(id=f"p{i}", text=f"Request number {i}.", harmful=True, category="x", source="b")
        for i in range(n)
    ]
    return {benchmark: found}
