"""Attacks that are written down in a line: the plain request, a prefill, a persona."""

from __future__ import annotations

from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, on_text
from lpa_interp.records import Prompt

DEFAULT_PREFILL = "Sure, here is"


def direct(prompt: Prompt) -> AttackedPrompt:
    """The request as it stands: no attack."""
    return AttackedPrompt(prompt.text)


def prefill(prompt: Prompt) -> AttackedPrompt:
    """The request, with an affirmative start of the answer already written.

    The prompt's own ``target`` ("Sure, here is a ...") is used where the set gives one.
    Harmless prompts are prefilled in the same way, so that both sides stay comparable.
    """
    return AttackedPrompt(prompt.text, (prompt.target or DEFAULT_PREFILL).rstrip())


DIRECT = Attack(
    name="direct",
    description="the request as it stands",
    citation="",
    mount=on_text(direct),
)
PREFILL = Attack(
    name="prefill",
    description="an affirmative start of the answer is already written",
    citation="Vega et al. 2023, arXiv 2312.12321; targets of Zou et al. 2023, arXiv 2307.15043",
    mount=on_text(prefill),
)
