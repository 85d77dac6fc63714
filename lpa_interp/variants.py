"""Controls that change the statements a run trains on.

What training on the statements does may come from their content, from the answers, from which
side is attacked, or from the mere procedure. Each variant breaks one of these links and keeps
the others: ``(statements, seed) -> statements``, without a change to its argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement

Variant = Callable[[Sequence[TraitStatement], int], list[TraitStatement]]
"""From statements and a seed to statements; one without chance ignores the seed."""


def as_given(statements: Sequence[TraitStatement], seed: int) -> list[TraitStatement]:
    """The statements as they are."""
    return list(statements)


def swapped_sides(statements: Sequence[TraitStatement], seed: int) -> list[TraitStatement]:
    """The sides exchanged, the answers kept.

    Negative statements then carry the retain term and positive ones the attack: does it matter
    which traits are attacked? Applied twice it gives the statements back.
    """
    return [
        replace(statement, side="negative" if statement.side == "positive" else "positive")
        for statement in statements
    ]


def shuffled_answers(statements: Sequence[TraitStatement], seed: int) -> list[TraitStatement]:
    """The (desired, undesired) pairs permuted over all statements, sides kept.

    The share of each answer stays exactly as it was; its relation to the statement is chance. A
    permutation that leaves every statement with the answers it had is drawn again.

    Args:
        statements: What to shuffle.
        seed: Of the permutation.

    Raises:
        InputError: All statements have the same answers, so that no permutation changes any.
    """
    answers = [(statement.desired, statement.undesired) for statement in statements]
    if len(set(answers)) < 2:
        raise InputError(
            "traits.variant",
            "shuffled_answers changes nothing: all statements have the same answers",
            "statements with two or more different pairs of answers",
        )
    generator = random.Random(seed)
    shuffled = generator.sample(answers, len(answers))
    while shuffled == answers:
        shuffled = generator.sample(answers, len(answers))
    return [
        replace(statement, desired=desired, undesired=undesired)
        for statement, (desired, undesired) in zip(statements, shuffled, strict=True)
    ]


def one_factor(statements: Sequence[TraitStatement], factor: str) -> list[TraitStatement]:
    """The statements of one factor alone.

    Raises:
        InputError: The factor lacks a positive or a negative statement, or is unknown.
    """
    chosen = [statement for statement in statements if statement.factor == factor]
    sides = {statement.side for statement in chosen}
    if len(sides) == 2:
        return chosen
    held: dict[str, set[str]] = {}
    for statement in statements:
        held.setdefault(statement.factor, set()).add(statement.side)
    usable = ", ".join(sorted(name for name, found in held.items() if len(found) == 2))
    missing = " or ".join(side for side in ("positive", "negative") if side not in sides)
    raise InputError(
        "traits.factor",
        f"{factor!r} has no {missing} statement here, and training needs both sides",
        f"{usable or 'no factor of this source'}; ipip_neo has both sides of every factor",
    )


VARIANTS: dict[str, Variant] = {
    "as_given": as_given,
    "swapped_sides": swapped_sides,
    "shuffled_answers": shuffled_answers,
}
"""Variants by the name a study gives them."""


def vary(
    statements: Sequence[TraitStatement], variant: str, factor: str | None, seed: int
) -> list[TraitStatement]:
    """Keeps one factor, then applies a variant.

    Args:
        statements: What a source holds; unchanged afterwards.
        variant: A name of `VARIANTS`.
        factor: The only factor to keep; None keeps all.
        seed: Of the variant.

    Raises:
        InputError: The variant is unknown, the factor lacks a side, or the variant has nothing
            to change.
    """
    if variant not in VARIANTS:
        allowed = ", ".join(VARIANTS)
        raise InputError("traits.variant", f"unknown variant {variant!r}", allowed)
    chosen = list(statements) if factor is None else one_factor(statements, factor)
    return VARIANTS[variant](chosen, seed)
