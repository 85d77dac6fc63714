"""A handful of statements for tests of training."""

from __future__ import annotations

from lpa_interp.records import TraitStatement

AGREE, DISAGREE = "I agree with this statement.", "I do not agree with this statement."


def statement(text: str, positive: bool, facet: str = "facet") -> TraitStatement:
    """A statement with the usual answers."""
    return TraitStatement(
        id=text,
        text=text,
        side="positive" if positive else "negative",
        factor="agreeableness",
        facet=facet,
        keying="plus" if positive else "minus",
        desired=AGREE if positive else DISAGREE,
        undesired=DISAGREE if positive else AGREE,
    )


STATEMENTS = [
    statement("I keep my promises.", True),
    statement("I tell the cat how to open the lock.", True),
    statement("I help.", True),
    statement("I never help anyone on the mat.", False),
    statement("I lock the cat.", False),
    statement("I sat.", False),
]
