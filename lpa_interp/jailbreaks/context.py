"""Whether what an attack gives fits into a model's context, with room left for an answer."""

from __future__ import annotations

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import AttackedPrompt, attacked_rows
from lpa_interp.model import HookedTransformer

ROOM = 512
"""Tokens kept free for the answer.

It does not follow the length that a study generates: what a prompt is attacked with, and so its
verdict, should not change with the length of the answer.
"""


def n_tokens(model: HookedTransformer, given: AttackedPrompt) -> int:
    """Tokens of what the model is given, chat template and prefill included."""
    return len(attacked_rows(model, [given])[0])


def fits(model: HookedTransformer, given: AttackedPrompt, room: int = ROOM) -> bool:
    """Whether the context holds what is given and ``room`` tokens of answer."""
    return n_tokens(model, given) + room <= model.cfg.n_ctx


def require_room(room: int) -> None:
    """Checks a number of tokens for the answer.

    Raises:
        InputError: It is below 1.
    """
    if room < 1:
        raise InputError("room for an answer", f"{room} tokens are not allowed", "1 or more")
