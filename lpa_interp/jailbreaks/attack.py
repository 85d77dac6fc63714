"""What an attack at evaluation time is: prompts -> what the model is given, and hooks on it.

An attack is *mounted* on a model for a list of prompts. While it is mounted the model may be
changed (weights, open hooks); afterwards it is as it was. Attacks on the text alone change
nothing but the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from lpa_interp.chat import Row, format_chat, tokenize, tokenizer_of
from lpa_interp.generation import RowHooks
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt

Turn = tuple[str, str]
"""An earlier exchange: what the user said and what the assistant answered."""


@dataclass(frozen=True, slots=True)
class AttackedPrompt:
    """What the model is given: the messages, and the start of its answer, ``prefill``.

    ``turns`` are exchanges before the user's ``text``. Without ``system`` the chat template's
    own default system message applies, if it has one.
    """

    text: str
    prefill: str = ""
    system: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """What an attack may spend on one prompt.

    ``queries`` counts answers of the model under attack that the attacker sees before the one
    that is judged, ``steps`` optimisation steps (with gradients, on the prompt or, where
    ``shared``, once for all prompts).
    """

    queries: int = 0
    steps: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mounted attack: what is given for each prompt, in their order, and hooks if it has any."""

    given: tuple[AttackedPrompt, ...]
    hooks: RowHooks | None = None


Progress = Callable[[int, int], None]
"""Called with the prompts or steps done and their number."""
Mount = Callable[
    [HookedTransformer, Sequence[Prompt], Progress | None], AbstractContextManager[Mounted]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """An attack with its name, what it does, where it comes from and what it may spend.

    ``harmful_only`` attacks are given harmful prompts alone: a search for a suffix that brings
    out an answer says nothing about a prompt that is answered anyway.
    """

    name: str
    description: str
    citation: str
    mount: Mount
    budget: Budget = Budget()
    harmful_only: bool = False


def on_text(rewrite: Callable[[Prompt], AttackedPrompt]) -> Mount:
    """An attack that needs nothing but the prompt's words."""

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        yield Mounted(tuple(rewrite(prompt) for prompt in prompts))

    return mount


def attacked_rows(model: HookedTransformer, given: Sequence[AttackedPrompt]) -> list[Row]:
    """Token rows of attacked prompts, ending where the model goes on."""
    # The plain template ends without a space, which a prefill needs.
    lead = "" if tokenizer_of(model).chat_template else " "
    rows = []
    for one in given:
        prefill = lead + one.prefill if one.prefill else ""
        rows.append(tokenize(model, format_chat(model, one.text, one.system, prefill, one.turns)))
    return rows
