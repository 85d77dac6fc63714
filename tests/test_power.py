"""What a number of prompts could have shown, against simulation and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportions_ztest

from lpa_interp.paired import paired_rate_difference
from lpa_interp.power import detectable_difference, mcnemar_power


def test_six_prompts_that_all_change_are_the_fewest_that_show_anything() -> None:
    # Two-sided exact p of k changes one way: 2 / 2**k, at most 0.05 from k = 6 on.
    assert mcnemar_power(5, 1.0, 0.0) == 0.0
    assert mcnemar_power(6, 1.0, 0.0) == 1.0
    assert mcnemar_power(6, 0.9, 0.0) == pytest.approx(0.9**6)
    assert detectable_difference(5, 0.0).rise is None
    assert detectable_difference(6, 0.0).rise == pytest.approx(0.8 ** (1 / 6))


def test_the_power_without_a_difference_stays_below_the_level() -> None:
    for n in (20, 50, 150):
        assert mcnemar_power(n, 0.2, 0.2) <= 0.05
    assert mcnemar_power(50, 0.0, 0.0) == 0.0


@pytest.mark.parametrize(("n", "against"), [(60, 0.0), (96, 0.05)])
def test_the_paired_difference_is_found_as_often_as_promised(n: int, against: float) -> None:
    found = detectable_difference(n, 0.3, against=against).rise
    assert found is not None
    chances = [found + against, against, 1 - found - 2 * against]
    counts = np.random.default_rng(0).multinomial(n, chances, size=4000)
    p = np.minimum(1, 2 * stats.binom.cdf(counts[:, :2].min(1), counts[:, :2].sum(1), 0.5))
    assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=0.025)
    # The p-value simulated is that of the test in use.
    gained, lost, neither = counts[0]
    pairs = [0] * gained + [1] * lost + [0] * neither, [1] * gained + [0] * lost + [0] * neither
    assert paired_rate_difference(*pairs).p_value == pytest.approx(p[0])


def test_the_unpaired_difference_is_found_as_often_as_promised() -> None:
    found = detectable_difference(150, 0.3, paired=False)
    assert found.rise is not None and found.fall is not None
    generator = np.random.default_rng(0)
    for rate in (0.3 + found.rise, 0.3 - found.fall):
        first, second = generator.binomial(150, 0.3, 1500), generator.binomial(150, rate, 1500)
        rejected = [
            proportions_ztest([a, b], [150, 150])[1] <= 0.05
            for a, b in zip(first, second, strict=True)
        ]
        assert np.mean(rejected) == pytest.approx(0.8, abs=0.035)


def test_more_prompts_pairing_and_less_power_show_smaller_differences() -> None:
    def rise(n: int = 100, **settings: object) -> float:
        value = detectable_difference(n, 0.3, **settings).rise  # type: ignore[arg-type]
        assert value is not None
        return value

    assert rise(400) < rise(200) < rise(100)
    assert rise(power=0.5) < rise(power=0.8) < rise(power=0.95)
    assert rise() < rise(against=0.05) < rise(against=0.1)
    assert rise() < rise(paired=False)
    assert rise(alpha=0.1) < rise(alpha=0.01)


def test_rises_and_falls_mirror_each_other() -> None:
    for paired in (True, False):
        low, high = (detectable_difference(80, rate, paired=paired) for rate in (0.2, 0.8))
        assert low.rise == pytest.approx(high.fall) and low.fall == pytest.approx(high.rise)


def test_no_room_is_no_difference() -> None:
    assert detectable_difference(100, 1.0).rise is None
    assert detectable_difference(100, 0.0, paired=False).fall is None
    assert detectable_difference(100, 0.1, against=0.1).fall is None


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 0}, {"base_rate": 1.2}, {"power": 0.04}, {"alpha": 0.0}, {"against": -0.1},
        {"against": 0.1, "paired": False},
    ],
)  # fmt: skip
def test_shares_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|n is 1 or more"):
        detectable_difference(**{"n": 50, "base_rate": 0.5, **settings})  # type: ignore[arg-type]
