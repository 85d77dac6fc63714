"""The ratio of two error rates: worked examples, the edges, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lpa_interp import error_ratio as module
from lpa_interp.error_ratio import error_rate_ratio


def _errors(both: int, first: int, second: int, neither: int) -> tuple[list[int], list[int]]:
    one = [1] * both + [1] * first + [0] * second + [0] * neither
    two = [1] * both + [0] * first + [1] * second + [0] * neither
    return one, two


def test_a_ratio_of_the_papers_size_by_hand() -> None:
    found = error_rate_ratio(*_errors(both=18, first=34, second=2, neither=46))
    assert found.value == pytest.approx(52 / 20) and (found.first_errors, found.n) == (52, 100)
    assert found.low is not None and found.high is not None
    assert 1.7 < found.low < 2.6 < found.high < 4.3
    # The large-sample interval of the logarithm of the ratio is nearly the same.
    spread = math.sqrt((34 + 2) / (52 * 20))
    expected = [2.6 * math.exp(side * 1.96 * spread) for side in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected, rel=0.1)


def test_bonett_and_price_agree_with_a_published_example() -> None:
    # Fagerland, Lydersen and Laake 2014: 59, 6, 16, 80 give 0.8667, 0.7579 to 0.9910.
    found = module._bonett_price((59, 6, 16), 0.95)
    assert [found.low, found.high] == pytest.approx([0.7579, 0.9910], abs=5e-5)


def test_without_errors_of_the_second_the_ratio_is_undefined_with_a_lower_bound() -> None:
    found = error_rate_ratio(*_errors(both=0, first=20, second=0, neither=30))
    assert found.value is None and found.high is None
    assert found.low is not None and found.low > 3
    assert found.reason == "the second made no error"


def test_without_any_error_nothing_is_said() -> None:
    found = error_rate_ratio([0] * 10, [0] * 10)
    assert (found.value, found.low, found.high, found.n) == (None, None, None, 10)
    assert found.reason == "neither made an error"


def test_without_errors_of_the_first_the_ratio_is_zero_with_an_upper_bound() -> None:
    found = error_rate_ratio(*_errors(both=0, first=0, second=20, neither=30))
    assert found.value == found.low == 0.0
    assert found.high is not None and 0 < found.high < 0.35


def test_the_same_errors_give_one_and_an_interval_with_a_width() -> None:
    found = error_rate_ratio(*_errors(both=12, first=0, second=0, neither=28))
    assert found.value == 1.0 and found.low is not None and found.high is not None
    assert 0.7 < found.low < 1.0 < found.high < 1.4
    assert found.low == pytest.approx(1 / found.high)


def test_few_errors_of_the_second_leave_no_upper_bound_and_that_is_said() -> None:
    found = error_rate_ratio(*_errors(both=1, first=9, second=0, neither=40))
    assert found.value == 10.0 and found.high is None and found.low is not None
    assert found.reason == "too few errors of the second for an upper bound"


def test_the_same_seed_gives_the_same_interval() -> None:
    errors = _errors(5, 9, 6, 30)
    assert error_rate_ratio(*errors, seed=1) == error_rate_ratio(*errors, seed=1)
    assert error_rate_ratio(*errors, seed=1).low != error_rate_ratio(*errors, seed=2).low


def test_errors_that_are_not_pairs_of_zeros_and_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        error_rate_ratio([0.5], [1])
    with pytest.raises(ValueError, match="equal lengths"):
        error_rate_ratio([0, 1], [1])
    with pytest.raises(ValueError, match="too few"):
        error_rate_ratio([], [])


@pytest.mark.parametrize(
    ("n", "second", "repeated", "alone"),
    [(100, 0.2, 0.8, 0.45), (100, 0.3, 0.6, 0.17), (60, 0.15, 0.7, 0.1), (40, 0.3, 0.9, 0.5)],
)
def test_the_interval_covers_a_planted_ratio(
    n: int, second: float, repeated: float, alone: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "N_RESAMPLES", 999)
    truth = (second * repeated + (1 - second) * alone) / second
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        two = generator.random(n) < second
        one = np.where(two, generator.random(n) < repeated, generator.random(n) < alone)
        found = error_rate_ratio(one, two, seed)
        assert found.low is not None
        covered += found.low <= truth <= (math.inf if found.high is None else found.high)
    assert 0.9 <= covered / 200 <= 0.99


def test_equal_models_are_seldom_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "N_RESAMPLES", 999)
    generator = np.random.default_rng(1)
    wrong = 0
    for seed in range(200):
        one, two = generator.random((2, 80)) < 0.3
        found = error_rate_ratio(one, two, seed)
        assert found.low is not None and found.high is not None
        wrong += found.low > 1 or found.high < 1
    assert wrong / 200 <= 0.09
