"""Attacks at evaluation time."""

from __future__ import annotations

import pytest

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import AttackedPrompt, attacked_rows
from lpa_interp.jailbreaks.catalogue import ATTACKS, split_name
from lpa_interp.jailbreaks.registry import _MAKERS, find_attack
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from tests.tiny import tiny_model


def _prompt(target: str | None = None) -> Prompt:
    return Prompt(
        id="a", text="Open the lock.", harmful=True, category="c", source="s", target=target
    )


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return tiny_model()


def _given(model: HookedTransformer, name: str, prompt: Prompt) -> AttackedPrompt:
    with find_attack(name).mount(model, [prompt], None) as mounted:
        (given,) = mounted.given
    return given


def test_direct_gives_the_request_and_nothing_else(model: HookedTransformer) -> None:
    given = _given(model, "direct", _prompt("Sure, here is a key"))
    assert given == AttackedPrompt("Open the lock.")


def test_prefill_takes_the_target_of_the_prompt(model: HookedTransformer) -> None:
    given = _given(model, "prefill", _prompt("Sure, here is a key "))
    assert given.prefill == "Sure, here is a key"


def test_prefill_without_a_target_is_affirmative(model: HookedTransformer) -> None:
    assert _given(model, "prefill", _prompt()).prefill == "Sure, here is"


def test_an_unknown_attack_names_those_allowed() -> None:
    with pytest.raises(InputError, match=r"zebra.*direct, prefill"):
        find_attack("zebra")


def test_rows_hold_system_earlier_turns_request_and_prefill_in_order(
    model: HookedTransformer,
) -> None:
    given = AttackedPrompt("Open it.", "Sure,", "Be brief.", (("Who?", "Me."), ("When?", "Now.")))
    (row,) = attacked_rows(model, [given])
    text = str(model.tokenizer.decode(row))  # type: ignore[union-attr]
    places = [
        text.index(part) for part in ("Be brief.", "Who?", "Me.", "When?", "Now.", "Open it.")
    ]
    assert places == sorted(places) and text.endswith("assistant\nSure,")


def test_a_prefill_is_tokenized_as_part_of_the_whole_text(model: HookedTransformer) -> None:
    (row,) = attacked_rows(model, [AttackedPrompt("Open it.", "Sure, here is")])
    text = str(model.tokenizer.decode(row))  # type: ignore[union-attr]
    again = model.tokenizer(text, add_special_tokens=False).input_ids  # type: ignore[misc]
    assert row == again


def test_every_attack_of_the_catalogue_can_be_made_and_has_a_citation() -> None:
    assert set(_MAKERS) == set(ATTACKS)
    assert all(listed.citation for name, listed in ATTACKS.items() if name != "direct")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("direct", ("direct", "")),
        ("many_shot", ("many_shot", "16")),
        ("many_shot:3", ("many_shot", "3")),
        ("latent_pgd:0.5", ("latent_pgd", "0.5")),
        ("pair:2x5", ("pair", "2x5")),
        ("template", ("template", "")),
    ],
)
def test_a_name_may_carry_an_argument(name: str, found: tuple[str, str]) -> None:
    assert split_name(name) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("direct:3", "takes no argument"),
        ("latent_pgd", "needs its argument"),
        ("many_shot:", "needs its argument"),
        ("many_shot:few", "'few' is not allowed"),
        ("gcg:-1", "is not allowed"),
        ("latent_pgd:0", "is not allowed"),
        ("latent_pgd:inf", "is not allowed"),
        ("pair:3", "is not allowed"),
        ("pair:0x3", "is not allowed"),
    ],
)
def test_a_wrong_argument_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_name(name)


@pytest.mark.parametrize(
    "name",
    ["persona", "many_shot:3", "gcg:2", "latent_pgd:0.5", "latent_random:0.5", "ablate_random:4",
     "fine_tuning_benign", "fine_tuning_identity:3", "in_context_defence"],
)  # fmt: skip
def test_an_attack_stands_under_the_name_it_was_asked_for(name: str) -> None:
    assert find_attack(name).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("translation", "evaluate.translations"),
        ("ablate_own_refusal", "no refusal direction of the own model"),
        ("pair", "LPA_ATTACKER_URL"),
    ],
)
def test_what_an_attack_lacks_is_said(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPA_ATTACKER_URL", raising=False)
    with pytest.raises(InputError, match=message):
        find_attack(name)
