"""Each measure gets its own paired test, its errors and what it could have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lpa_interp.paired import (
    paired_auroc_difference,
    paired_mean_difference,
    paired_perplexity_difference,
    paired_rate_difference,
)
from lpa_interp.paired_measures import Pair, match_pairs, paired_result
from lpa_interp.power import detectable_difference
from tests.run_folders import ODDS, verdicts


def _pairs(
    first: Sequence[float | None], second: Sequence[float | None], harmful: bool = True
) -> list[Pair]:
    found = match_pairs(
        verdicts(first, "base", harmful=harmful), verdicts(second, "lpa", harmful=harmful)
    )
    assert found is not None
    return found


def test_shares_have_mcnemar_an_error_ratio_and_a_detectable_difference() -> None:
    first, second = [0.0] * 20 + [1.0] * 10, [1.0] * 14 + [0.0] * 8 + [1.0] * 8
    found = paired_result("refusal_rate", "harmful", _pairs(first, second))
    assert found.test == paired_rate_difference(first, second)
    assert found.ratio is not None and found.detectable is not None
    # Errors are harmful requests that are not refused: 20 of the first, 8 of the second.
    assert found.ratio.value == pytest.approx(20 / 8)
    assert found.detectable == detectable_difference(30, 10 / 30, against=2 / 30)


def test_a_refused_harmless_request_is_the_error() -> None:
    pairs = _pairs([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], harmful=False)
    found = paired_result("refusal_rate", "harmless", pairs)
    assert found.ratio is not None
    assert (found.ratio.first_errors, found.ratio.second_errors) == (1, 2)
    assert paired_result("refusal_rate", "harmful", pairs).test.interval.n == 0


def test_undecided_verdicts_leave_the_pair_out() -> None:
    pairs = _pairs([1.0, None, 0.0, 1.0], [1.0, 1.0, None, 0.0])
    found = paired_result("harm_rate", "harmful", pairs)
    assert found.test.interval.n == 2 and found.n_left_out == 2


def test_scores_and_log_odds_are_compared_as_means_without_errors() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random(30).tolist(), generator.random(30).tolist()
    for measure in ("harm_score", "refusal_log_odds"):
        found = paired_result(measure, "harmful", _pairs(first, second), seed=3)
        assert found.test == paired_mean_difference(first, second, 3)
        assert found.ratio is None and found.detectable is None


def test_scores_that_are_all_zero_keep_an_interval_with_a_width() -> None:
    found = paired_result("harm_score", "harmful", _pairs([0.0] * 20, [0.0] * 20)).test.interval
    assert found.value == 0.0 and found.low < 0 < found.high


def test_perplexity_and_auroc_have_their_own_tests() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(3, 0.3, 20).tolist(), generator.normal(3, 0.3, 20).tolist()
    pairs = _pairs(first, second, harmful=False)
    expected = paired_perplexity_difference(first, second, 5)
    assert paired_result("perplexity", "both", pairs, 5).test == expected
    more = _pairs(second, first)
    found = paired_result("auroc", "both", pairs + more, 5)
    assert found.test == paired_auroc_difference((second, first), (first, second), 5)
    assert paired_result("auroc", "both", pairs, 5).test.interval.n == 20
    assert np.isnan(paired_result("auroc", "both", pairs, 5).test.interval.value)


def test_a_single_pair_says_nothing() -> None:
    found = paired_result("refusal_rate", "harmful", _pairs([1.0], [0.0]))
    assert found.test.interval.n == 1 and np.isnan(found.test.p_value)


def test_verdicts_on_other_prompts_do_not_match() -> None:
    rows = verdicts([1.0, 0.0, 1.0], "base", judge=ODDS)
    assert match_pairs(rows, rows[::-1]) == [(row, row) for row in rows]
    assert match_pairs(rows, rows[:2]) is None
    assert match_pairs(rows, [*rows[:2], replace(rows[2], prompt_id="x")]) is None
    assert match_pairs(rows, [*rows[:2], replace(rows[2], harmful=False)]) is None
    assert match_pairs(rows, [*rows[:2], rows[1]]) is None
