"""Controls on the statements: what each one breaks, and what it leaves alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement
from lpa_interp.trait_files import AGREE
from lpa_interp.traits import load_traits
from lpa_interp.variants import (
    VARIANTS,
    as_given,
    one_factor,
    shuffled_answers,
    swapped_sides,
    vary,
)
from tests.statements import STATEMENTS

SHIPPED = load_traits()


def _answers(statements: list[TraitStatement]) -> list[tuple[str, str]]:
    return [(statement.desired, statement.undesired) for statement in statements]


def _relation(statements: list[TraitStatement]) -> float:
    """Correlation of being positive with wanting agreement."""
    positive = [statement.side == "positive" for statement in statements]
    agree = [statement.desired == AGREE for statement in statements]
    return float(np.corrcoef(positive, agree)[0, 1])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_pure_function_of_statements_and_seed(name: str) -> None:
    given = list(SHIPPED)
    first = VARIANTS[name](given, 3)
    assert given == SHIPPED and first is not given
    assert first == VARIANTS[name](given, 3)
    kept = [(s.id, s.text, s.factor, s.facet, s.keying) for s in first]
    assert kept == [(s.id, s.text, s.factor, s.facet, s.keying) for s in SHIPPED]


def test_as_given_changes_nothing() -> None:
    assert as_given(SHIPPED, 0) == SHIPPED


def test_swapping_exchanges_every_side_and_keeps_the_answers() -> None:
    swapped = swapped_sides(SHIPPED, 0)
    assert all(a.side != b.side for a, b in zip(swapped, SHIPPED, strict=True))
    assert _answers(swapped) == _answers(SHIPPED)
    assert _relation(swapped) == pytest.approx(-1.0)


def test_swapping_twice_gives_the_statements_back() -> None:
    assert swapped_sides(swapped_sides(SHIPPED, 0), 1) == SHIPPED


def test_shuffling_keeps_the_share_of_each_answer_and_the_sides() -> None:
    shuffled = shuffled_answers(SHIPPED, 5)
    assert Counter(_answers(shuffled)) == Counter(_answers(SHIPPED))
    assert [s.side for s in shuffled] == [s.side for s in SHIPPED]


def test_shuffling_follows_its_seed() -> None:
    assert shuffled_answers(SHIPPED, 1) != shuffled_answers(SHIPPED, 2)


def test_shuffling_destroys_the_relation_of_answer_to_side_on_average() -> None:
    assert _relation(SHIPPED) == pytest.approx(1.0)
    found = [_relation(shuffled_answers(SHIPPED, seed)) for seed in range(400)]
    # Under permutation the correlation has mean 0 and standard deviation 1 / sqrt(n - 1).
    expected = 1 / np.sqrt(len(SHIPPED) - 1)
    assert abs(np.mean(found)) < 4 * expected / np.sqrt(len(found))
    assert np.std(found) == pytest.approx(expected, rel=0.15)


def test_a_shuffle_that_would_change_nothing_is_drawn_again() -> None:
    two = [STATEMENTS[0], STATEMENTS[3]]
    for seed in range(20):
        assert _answers(shuffled_answers(two, seed)) == _answers(two)[::-1]


def test_statements_with_one_answer_cannot_be_shuffled() -> None:
    with pytest.raises(InputError, match="all statements have the same answers"):
        shuffled_answers(STATEMENTS[:3], 0)


def test_one_factor_keeps_that_factor_with_both_sides() -> None:
    chosen = one_factor(SHIPPED, "agreeableness")
    assert {s.factor for s in chosen} == {"agreeableness"}
    assert {s.side for s in chosen} == {"positive", "negative"}
    assert chosen == [s for s in SHIPPED if s.factor == "agreeableness"]


def test_a_factor_with_one_side_names_those_with_both() -> None:
    message = (
        r"traits\.factor: 'openness' has no negative statement here.*"
        r"\(agreeableness, conscientiousness, neuroticism; "
        r"ipip_neo has both sides of every factor\)"
    )
    with pytest.raises(InputError, match=message):
        one_factor(SHIPPED, "openness")
    with pytest.raises(InputError, match="'openness' has no positive statement here"):
        one_factor(swapped_sides(SHIPPED, 0), "openness")
    with pytest.raises(InputError, match="'wit' has no positive or negative statement here"):
        one_factor(SHIPPED, "wit")
    with pytest.raises(InputError, match=r"\(no factor of this source; ipip_neo"):
        one_factor(STATEMENTS[:3], "agreeableness")


def test_vary_takes_the_factor_before_the_variant() -> None:
    factor = "agreeableness"
    wanted = shuffled_answers(one_factor(SHIPPED, factor), 7)
    assert vary(SHIPPED, "shuffled_answers", factor, 7) == wanted
    shares = Counter(_answers(one_factor(SHIPPED, factor)))
    assert Counter(_answers(wanted)) == shares
    assert vary(SHIPPED, "as_given", None, 0) == SHIPPED


def test_an_unknown_variant_names_those_there_are() -> None:
    message = r"unknown variant 'upside_down' \(as_given, swapped_sides, shuffled_answers\)"
    with pytest.raises(InputError, match=message):
        vary(SHIPPED, "upside_down", None, 0)
