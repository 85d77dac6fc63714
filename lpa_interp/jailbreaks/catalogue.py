"""The names of the attacks, what they are and where they come from. Needs no torch.

A study names an attack as ``name`` or ``name:argument``; the whole name stands on every number
that the attack produced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lpa_interp.errors import InputError

ARDITI = "Arditi et al. 2024, arXiv 2406.11717, section 2.4"
CASPER = "Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549"
QI = "Qi et al. 2023, arXiv 2310.03693"
WEI = "Wei et al. 2023, arXiv 2310.06387"


@dataclass(frozen=True, slots=True)
class Listed:
    """An attack as `lpa attacks` shows it.

    ``argument`` is what may follow the name and ``default`` its value where nothing does; a
    default of None makes the argument necessary. ``needs`` is what a run must have for it.
    """

    summary: str
    citation: str
    argument: str = ""
    default: str | None = ""
    needs: str = ""


ATTACKS = {
    "direct": Listed("the request as it stands", ""),
    "prefill": Listed(
        "an affirmative start of the answer is already written",
        "Vega et al. 2023, arXiv 2312.12321; targets of Zou et al. 2023, arXiv 2307.15043",
    ),
    "persona": Listed(
        "a system prompt gives the assistant a persona that does not refuse",
        "Shah et al. 2023, arXiv 2311.03348",
        "NAME",
        "never_declines",
    ),
    "template": Listed(
        "the request inside a published jailbreak template, one per request",
        "Yu et al. 2023, arXiv 2309.10253 (GPTFuzzer)",
        "NUMBER",
        needs="the file gptfuzzer",
    ),
    "wild": Listed(
        "the request inside or after a jailbreak prompt found in the wild, one per request",
        "Shen et al. 2023, arXiv 2308.03825",
        "NUMBER",
        needs="the file jailbreak_llms",
    ),
    "in_context_attack": Listed("after a few requests that were answered", WEI, "SHOTS", "5"),
    "many_shot": Listed(
        "after many requests that were answered",
        "Anil et al. 2024, Many-shot jailbreaking",
        "SHOTS",
        "16",
    ),
    "in_context_defence": Listed(
        "no attack but a defence: after harmful requests that were refused", WEI, "SHOTS", "2"
    ),
    "translation": Listed(
        "the request in another language; keyword judges cannot read the answer",
        "Yong et al. 2023, arXiv 2310.02446",
        "LANGUAGE",
        needs="evaluate.translations",
    ),
    "gcg": Listed(
        "a suffix searched by greedy coordinate gradient; harmful requests only",
        "Zou et al. 2023, arXiv 2307.15043, algorithm 1",
        "STEPS",
        "50",
    ),
    "latent_pgd": Listed(
        "a searched perturbation of the prompt's tokens inside the model", CASPER, "EPSILON", None
    ),
    "latent_random": Listed(
        "control: the same norms in random directions", CASPER, "EPSILON", None
    ),
    "ablate_own_refusal": Listed(
        "the model's own refusal direction cut out", ARDITI, needs="the refusal stage"
    ),
    "ablate_base_refusal": Listed(
        "the base model's refusal direction cut out", ARDITI, needs="the refusal stage"
    ),
    "ablate_random": Listed("control: a random direction cut out", ARDITI, "SEED", "0"),
    "fine_tuning_benign": Listed(
        "a short supervised run on the model's own answers to harmless requests", QI, "STEPS", "10"
    ),
    "fine_tuning_identity": Listed(
        "a short supervised run on ten examples of an obedient agent", QI, "STEPS", "10"
    ),
    "pair": Listed(
        "prompts rewritten by an attacker model that sees the answers; harmful requests only",
        "Chao et al. 2023, arXiv 2310.08419",
        "STREAMSxITERATIONS",
        "30x3",
        "LPA_ATTACKER_URL",
    ),
    "autodan": Listed(
        "a template evolved with an attacker model's rephrasings; harmful requests only",
        "Liu et al. 2023, arXiv 2310.04451",
        "STEPS",
        "100",
        "LPA_ATTACKER_URL",
    ),
}
NEED_DIRECTIONS = ("ablate_own_refusal", "ablate_base_refusal")
"""Attacks that need the refusal directions of the models."""


def split_name(name: str) -> tuple[str, str]:
    """The attack and its argument, the default where none is given.

    Raises:
        InputError: No such attack, or an argument that it does not take or cannot do without.
    """
    kind, colon, argument = name.partition(":")
    if kind not in ATTACKS:
        raise InputError(f"attack {name!r}", "unknown name", ", ".join(ATTACKS))
    listed = ATTACKS[kind]
    if argument and not listed.argument:
        raise InputError(f"attack {name!r}", "takes no argument", kind)
    if (colon and not argument) or (not colon and listed.default is None):
        raise InputError(f"attack {name!r}", "needs its argument", f"{kind}:{listed.argument}")
    given = argument or listed.default or ""
    read = _READERS.get(listed.argument)
    if given and read is not None:
        try:
            read(given)
        except ValueError:
            raise InputError(
                f"attack {name!r}", f"{given!r} is not allowed", f"{kind}:{listed.argument}"
            ) from None
    return kind, given


def positive(text: str) -> float:
    """A finite number above 0.

    Raises:
        ValueError: It is not one.
    """
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def streams(text: str) -> tuple[int, int]:
    """``30x3`` as two whole numbers of at least 1.

    Raises:
        ValueError: It is not of this form.
    """
    first, second = (int(part) for part in text.split("x"))
    if min(first, second) < 1:
        raise ValueError(text)
    return first, second


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_READERS: dict[str, Callable[[str], object]] = {
    "NUMBER": _whole,
    "SHOTS": _whole,
    "STEPS": _whole,
    "SEED": _whole,
    "EPSILON": positive,
    "STREAMSxITERATIONS": streams,
}
