"""Intervals and paired tests against published examples and planted data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from lpa_interp.paired import (
    paired_auroc_difference,
    paired_mean_difference,
    paired_perplexity_difference,
    paired_rate_difference,
)
from lpa_interp.stats import (
    auroc_interval,
    benjamini_hochberg,
    bounded_mean_interval,
    holm,
    mean_interval,
    seed_spread,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "bounds"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_newcombes_published_bounds(
    successes: int, n: int, bounds: tuple[float, float]
) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I.
    found = wilson_interval(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == bounds
    assert found.value == successes / n and found.n == n
    low, high = proportion_confint(successes, n, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high))


def test_wilson_bounds_solve_the_score_equation() -> None:
    found = wilson_interval(7, 40)
    for bound in (found.low, found.high):
        z = (7 / 40 - bound) / np.sqrt(bound * (1 - bound) / 40)
        assert abs(z) == pytest.approx(1.959964, abs=1e-5)


def test_the_wilson_interval_covers_a_planted_rate() -> None:
    for rate in (0.05, 0.3, 0.9):
        counts = np.random.default_rng(0).binomial(60, rate, 2000)
        bounds = [wilson_interval(int(count), 60) for count in counts]
        assert 0.92 <= np.mean([b.low <= rate <= b.high for b in bounds]) <= 0.99


@pytest.mark.parametrize("successes", [0, 16])
def test_wilson_keeps_a_width_at_the_edges(successes: int) -> None:
    found = wilson_interval(successes, 16)
    assert 0 <= found.low < found.high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_a_share_of_nothing_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        wilson_interval(successes, n)


def test_the_bootstrap_of_a_mean_covers_the_planted_mean() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = mean_interval(generator.normal(1.0, 2.0, 40), n_resamples=499)
        covered += found.low <= 1.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_bootstrap_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    data = np.random.default_rng(0).normal(size=30)
    assert mean_interval(data, seed=1) == mean_interval(data, seed=1)
    assert mean_interval(data, seed=1).low != mean_interval(data, seed=2).low


def test_constant_data_give_an_interval_without_width() -> None:
    found = mean_interval([2.0, 2.0, 2.0])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert found.method == "constant data"


@pytest.mark.parametrize("data", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_empty_single_and_nan_values_are_refused(data: list[float]) -> None:
    with pytest.raises(ValueError, match=r"too few|NaN"):
        mean_interval(data)


def test_auroc_equals_scikit_learn_with_ties() -> None:
    generator = np.random.default_rng(0)
    positive, negative = generator.integers(2, 9, 30), generator.integers(0, 7, 40)
    labels = [1] * 30 + [0] * 40
    expected = roc_auc_score(labels, np.concatenate([positive, negative]))
    found = auroc_interval(positive, negative)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high and found.n == 70


def test_a_model_that_always_refuses_has_an_auroc_of_one_half() -> None:
    found = auroc_interval([5.0] * 20, [5.0] * 20)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_perfect_separation_keeps_a_width_that_shrinks_with_n() -> None:
    small = auroc_interval(np.arange(10) + 100.0, np.arange(10.0))
    large = auroc_interval(np.arange(100) + 1000.0, np.arange(100.0))
    assert small.high == large.high == 1.0
    assert 0.6 < small.low < large.low < 1.0
    mirrored = auroc_interval(np.arange(10.0), np.arange(10) + 100.0)
    assert mirrored.low == 0.0 and mirrored.high == pytest.approx(1 - small.low)


def test_the_auroc_interval_covers_the_planted_value() -> None:
    generator = np.random.default_rng(1)
    truth = float(scipy_stats.norm.cdf(1 / np.sqrt(2)))
    covered = 0
    for seed in range(50):
        found = auroc_interval(generator.normal(1, 1, 40), generator.normal(0, 1, 40), seed)
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 50 <= 1.0


def _pairs(both: int, lost: int, gained: int, neither: int) -> tuple[list[int], list[int]]:
    first = [1] * both + [1] * lost + [0] * gained + [0] * neither
    second = [1] * both + [0] * lost + [1] * gained + [0] * neither
    return first, second


def test_mcnemar_gives_the_exact_binomial_p_value_of_a_worked_example() -> None:
    found = paired_rate_difference(*_pairs(both=20, lost=2, gained=10, neither=8))
    # 12 discordant pairs, 2 of them one way: 2 * (1 + 12 + 66) / 2**12.
    assert found.p_value == pytest.approx(2 * 79 / 4096)
    assert found.interval.value == pytest.approx(0.2)


def test_the_rate_interval_agrees_with_agrestis_approval_ratings() -> None:
    # Agresti, Categorical Data Analysis, section on matched pairs: 794, 150, 86, 570 of 1600.
    found = paired_rate_difference(*_pairs(794, 150, 86, 570)).interval
    assert found.value == pytest.approx(-0.04)
    assert (found.low, found.high) == pytest.approx((-0.059, -0.021), abs=1e-3)


def test_no_change_leaves_an_interval_with_the_width_of_the_score_test() -> None:
    found = paired_rate_difference([1] * 10 + [0] * 20, [1] * 10 + [0] * 20)
    z = 1.959964
    assert found.p_value == 1.0
    assert found.interval.high == pytest.approx(z**2 / (30 + z**2), abs=1e-4)
    assert found.interval.low == pytest.approx(-found.interval.high, abs=1e-6)


def test_a_complete_change_is_bounded_by_one() -> None:
    found = paired_rate_difference([0] * 12, [1] * 12).interval
    assert found.value == found.high == 1.0 and 0.4 < found.low < 1.0


def test_the_rate_interval_covers_a_planted_difference() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        before = generator.random(40) < 0.3
        after = np.where(before, generator.random(40) < 0.9, generator.random(40) < 0.2)
        found = paired_rate_difference(before, after).interval
        covered += found.low <= 0.3 * 0.9 + 0.7 * 0.2 - 0.3 <= found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_a_planted_shift_is_found_and_its_absence_is_not() -> None:
    generator = np.random.default_rng(3)
    before = generator.normal(size=50)
    noise = generator.normal(scale=0.5, size=50)
    shifted = paired_mean_difference(before, before + noise + 1)
    still = paired_mean_difference(before, before + noise - noise.mean())
    assert shifted.p_value < 0.01 and shifted.interval.low > 0
    assert still.p_value > 0.5 and still.interval.low < 0 < still.interval.high


def test_identical_evaluations_do_not_differ() -> None:
    values = np.random.default_rng(4).normal(size=20)
    assert paired_mean_difference(values, values).p_value == 1.0
    assert paired_perplexity_difference(values, values).p_value == 1.0
    assert paired_auroc_difference((values, -values), (values, -values)).p_value == 1.0


def test_a_shift_of_all_scores_leaves_the_auroc_difference_at_zero() -> None:
    generator = np.random.default_rng(5)
    positive, negative = generator.normal(1, 1, 30), generator.normal(0, 1, 30)
    found = paired_auroc_difference((positive, negative), (positive + 9, negative + 9))
    assert (found.interval.value, found.interval.low, found.interval.high) == (0, 0, 0)


def test_a_better_separation_is_found() -> None:
    generator = np.random.default_rng(6)
    positive, negative = generator.normal(0.2, 1, 60), generator.normal(0, 1, 60)
    found = paired_auroc_difference((positive, negative), (positive + 1.5, negative))
    assert found.interval.low > 0.1 and found.p_value < 0.01


def test_perplexity_differences_are_differences_of_exponentials() -> None:
    losses = np.random.default_rng(7).normal(3, 0.2, 40)
    found = paired_perplexity_difference(losses, losses + 0.1)
    expected = np.exp(losses.mean()) * (np.exp(0.1) - 1)
    assert found.interval.value == pytest.approx(expected)
    assert found.interval.low < expected < found.interval.high and found.p_value < 0.01


def test_pairs_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        paired_mean_difference([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="0 or 1"):
        paired_rate_difference([0.5], [1.0])


def test_adjusted_p_values_follow_a_worked_example() -> None:
    p_values = [0.01, 0.04, 0.03]
    assert holm(p_values).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg(p_values).tolist() == pytest.approx([0.03, 0.04, 0.04])
    with pytest.raises(ValueError, match="NaN"):
        holm([0.1, float("nan")])


def test_mcnemar_agrees_with_statsmodels_and_with_the_binomial_test() -> None:
    found = paired_rate_difference(*_pairs(both=59, lost=6, gained=16, neither=80))
    assert found.p_value == pytest.approx(mcnemar([[59, 6], [16, 80]], exact=True).pvalue)
    assert found.p_value == pytest.approx(scipy_stats.binomtest(6, 22).pvalue)


def test_holm_over_benchmarks_controls_the_family_wise_error_rate() -> None:
    p_values = np.random.default_rng(8).random((4000, 6))
    # Holm rejects something exactly where it rejects the smallest: statsmodels' own call
    # collects garbage each time, so that the many families take the rule by hand.
    smallest = np.minimum(1, 6 * p_values.min(1))
    assert (smallest <= 0.05).mean() == pytest.approx(0.05, abs=0.012)
    assert (p_values <= 0.05).any(1).mean() > 0.2  # uncorrected
    for row in p_values[:2]:
        found = holm(row)
        assert found.min() == pytest.approx(min(1, 6 * row.min()))
        assert found.tolist() == pytest.approx(multipletests(row, method="holm")[1].tolist())


def test_the_spread_over_seeds_is_the_sample_standard_deviation_and_the_range() -> None:
    found = seed_spread({0: 0.4, 1: 0.5, 7: 0.9})
    assert (found.n_seeds, found.low, found.high) == (3, 0.4, 0.9)
    assert found.mean == pytest.approx(0.6) and found.sd == pytest.approx(0.07**0.5)


def test_one_seed_has_no_spread_and_none_is_refused() -> None:
    assert seed_spread({3: 0.4}).sd is None
    with pytest.raises(ValueError, match="too few"):
        seed_spread({})
    with pytest.raises(ValueError, match="NaN"):
        seed_spread({0: float("nan")})


def test_the_spread_over_seeds_is_not_that_of_the_prompts() -> None:
    # Seeds differ by 0.1; each is measured on 200 prompts, which add 0.035 of their own.
    generator = np.random.default_rng(9)
    found = []
    for _ in range(300):
        rates = np.clip(generator.normal(0.5, 0.1, 5), 0, 1)
        found.append(seed_spread(dict(enumerate(generator.binomial(200, rates) / 200))).sd)
    planted = np.sqrt(0.1**2 + 0.25 / 200)
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(planted, rel=0.08)


def test_bounded_means_are_bootstrapped_and_keep_a_width_at_the_ends() -> None:
    generator = np.random.default_rng(10)
    data = generator.random(30)
    assert bounded_mean_interval(data, 1) == mean_interval(data, 1)
    zero, one = bounded_mean_interval([0.0] * 20), bounded_mean_interval([1.0] * 20)
    assert (zero.value, zero.low) == (0.0, 0.0) and zero.high == pytest.approx(1 - one.low)
    assert zero.high == pytest.approx(wilson_interval(0, 20).high)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bounded_mean_interval([0.2, 1.2])


def test_the_bounded_interval_covers_a_planted_mean_of_mostly_zeros() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for seed in range(200):
        data = np.where(generator.random(60) < 0.1, generator.choice([0.5, 1.0], 60), 0.0)
        found = bounded_mean_interval(data, seed)
        covered += found.low <= 0.075 <= found.high
    assert 0.88 <= covered / 200 <= 1.0


def test_data_that_are_constant_up_to_rounding_have_no_width() -> None:
    values = np.array([1.0, np.nextafter(1.0, 2.0), 1.0])
    assert np.ptp(values) > 0
    found = mean_interval(values)
    assert found.low == found.high and found.method == "constant data"
