"""Attacks and a defence by example: answered, or refused, requests stand before the request.

``in_context_attack`` (a few shots) and ``many_shot`` show an assistant that answers harmful
requests, ``in_context_defence`` one that refuses them. The shots are earlier turns of the chat.

Sources: Wei et al. 2023, arXiv 2310.06387 (attack and defence); Anil et al. 2024, Many-shot
jailbreaking, NeurIPS. What differs: the shipped answers agree to help and then say nothing that
could be used, where the papers' answers are harmful texts, so the attack is likely weaker than
theirs (`after_turns` takes other demonstrations); and Anil et al. go to hundreds of shots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, Mount, Mounted, Progress, Turn
from lpa_interp.jailbreaks.context import ROOM, n_tokens, require_room
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from lpa_interp.tables import read_csv, shipped_file

IN_CONTEXT_SHOTS = 5
MANY_SHOTS = 16
DEFENCE_SHOTS = 2

_WEI = "Wei et al. 2023, arXiv 2310.06387"
_COLUMNS = ("id", "level", "request", "answer", "refusal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A request, an answer that agrees and says nothing of use, and a refusal of it.

    ``level`` rises from 1 (mischief) to 4 (names a serious harm).
    """

    id: str
    level: int
    request: str
    answer: str
    refusal: str


def load_demonstrations() -> tuple[Demonstration, ...]:
    """The shipped demonstrations, from the most harmless to the most harmful."""
    rows = read_csv(shipped_file("demonstrations.csv"), _COLUMNS)
    return tuple(
        Demonstration(
            id=row["id"],
            level=int(row["level"]),
            request=row["request"],
            answer=row["answer"],
            refusal=row["refusal"],
        )
        for _, row in rows
    )


def in_context_attack(shots: int = IN_CONTEXT_SHOTS, room: int = ROOM) -> Attack:
    """The request after a few requests that were answered.

    The ``shots`` most harmful demonstrations are taken, the most harmful last. The attack is
    called ``in_context_attack`` for the default number and ``in_context_attack:SHOTS`` else.

    Args:
        shots: Demonstrations, 1 or more.
        room: Tokens of the context kept free for the answer.

    Source: Wei et al. 2023, arXiv 2310.06387, In-Context Attack.

    Raises:
        InputError: There are not so many demonstrations, or ``room`` is below 1. When mounted:
            the context does not hold them with a prompt; says how many it holds.
    """
    return _by_answers("in_context_attack", shots, IN_CONTEXT_SHOTS, room, _WEI)


def many_shot(shots: int = MANY_SHOTS, room: int = ROOM) -> Attack:
    """The request after many requests that were answered, from harmless to harmful.

    As `in_context_attack`, with more of the same demonstrations.

    Source: Anil et al. 2024, Many-shot jailbreaking, NeurIPS.

    Raises:
        InputError: As `in_context_attack`.
    """
    citation = "Anil et al. 2024, Many-shot jailbreaking, NeurIPS"
    return _by_answers("many_shot", shots, MANY_SHOTS, room, citation)


def in_context_defence(shots: int = DEFENCE_SHOTS, room: int = ROOM) -> Attack:
    """The request after a few harmful requests that were refused: no attack but a defence.

    The ``shots`` most harmful demonstrations are taken, with their refusals. With more than the
    levels 3 and 4 hold, mere mischief is refused too, which invites over-refusal.

    Source: Wei et al. 2023, arXiv 2310.06387, In-Context Defense.

    Raises:
        InputError: As `in_context_attack`.
    """
    name = _named("in_context_defence", shots, DEFENCE_SHOTS)
    taken = _last(name, shots)
    return Attack(
        name=name,
        description=f"a defence: {_counted(shots, 'refused')} before the request",
        citation=_WEI,
        mount=after_turns(name, [(one.request, one.refusal) for one in taken], room),
    )


def after_turns(name: str, turns: Sequence[Turn], room: int = ROOM) -> Mount:
    """An attack that puts earlier turns before every request; for demonstrations of one's own.

    Args:
        name: Of the attack, for messages.
        turns: What the user said and what the assistant answered, in order.
        room: Tokens of the context kept free for the answer.

    Raises:
        InputError: ``room`` is below 1. When mounted: the context does not hold the turns with
            the longest prompt; says how many it holds.
    """
    require_room(room)
    earlier = tuple(turns)

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        given = tuple(AttackedPrompt(prompt.text, turns=earlier) for prompt in prompts)
        sizes = [n_tokens(model, one) for one in given]
        longest = max(range(len(given)), key=sizes.__getitem__, default=None)
        if longest is not None and sizes[longest] + room > model.cfg.n_ctx:
            held = _held(model, given[longest], room)
            raise InputError(
                f"attack {name}",
                f"{len(earlier)} demonstrations do not fit into the context with prompt "
                f"{prompts[longest].id}",
                f"{held if held is not None else 'not even 0'} fit: the context holds "
                f"{model.cfg.n_ctx} tokens, of which {room} are for the answer",
            )
        yield Mounted(given)

    return mount


def _by_answers(name: str, shots: int, default: int, room: int, citation: str) -> Attack:
    name = _named(name, shots, default)
    taken = _last(name, shots)
    return Attack(
        name=name,
        description=f"{_counted(shots, 'answered')} before the request",
        citation=f"{citation}; demonstrations of our own",
        mount=after_turns(name, [(one.request, one.answer) for one in taken], room),
    )


def _last(name: str, shots: int) -> tuple[Demonstration, ...]:
    shipped = load_demonstrations()
    if not 1 <= shots <= len(shipped):
        allowed = f"1 to {len(shipped)}: so many demonstrations are shipped"
        raise InputError(f"attack {name}", f"{shots} shots are not allowed", allowed)
    return shipped[-shots:]


def _held(model: HookedTransformer, given: AttackedPrompt, room: int) -> int | None:
    """The most of the last turns that the context holds with this prompt; None if not even 0."""
    for count in range(len(given.turns) - 1, -1, -1):
        turns = given.turns[len(given.turns) - count :]
        if n_tokens(model, AttackedPrompt(given.text, turns=turns)) + room <= model.cfg.n_ctx:
            return count
    return None


def _named(name: str, shots: int, default: int) -> str:
    return name if shots == default else f"{name}:{shots}"


def _counted(shots: int, what: str) -> str:
    return f"{shots} {what} request{'s' if shots > 1 else ''}"
