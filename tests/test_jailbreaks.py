"""Attacks at evaluation time."""

from __future__ import annotations

import pytest

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks import ATTACKS, attack_prompt
from lpa_interp.records import Prompt


def _prompt(target: str | None = None) -> Prompt:
    return Prompt(
        id="a", text="Open the lock.", harmful=True, category="c", source="s", target=target
    )


def test_direct_gives_the_request_and_nothing_else() -> None:
    given = attack_prompt("direct", _prompt("Sure, here is a key"))
    assert (given.text, given.prefill) == ("Open the lock.", "")


def test_prefill_takes_the_target_of_the_prompt() -> None:
    assert (
        attack_prompt("prefill", _prompt("Sure, here is a key ")).prefill == "Sure, here is a key"
    )


def test_prefill_without_a_target_is_affirmative() -> None:
    assert attack_prompt("prefill", _prompt()).prefill == "Sure, here is"


def test_an_unknown_attack_names_those_allowed() -> None:
    with pytest.raises(InputError, match=r"gcg.*direct, prefill"):
        attack_prompt("gcg", _prompt())


def test_every_attack_but_the_plain_request_has_a_citation() -> None:
    assert all(attack.citation for name, attack in ATTACKS.items() if name != "direct")
