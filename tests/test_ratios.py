from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from lpa_interp.errors import InputError
from probes.ratios import SMALLEST_GAIN, PairedBootstrap


def test_ratio_intervals_are_percentiles_where_all_resampled_gains_are_positive() -> None:
    rng = np.random.default_rng(0)
    gain, drop = rng.normal(5, 1, 30), rng.normal(2, 1, 30)
    boot = PairedBootstrap(30, 2000)
    found = boot.ratio(drop, gain)
    ratios = (boot.weights @ drop) / (boot.weights @ gain)
    assert found.value == pytest.approx(drop.mean() / gain.mean())
    expected = np.quantile(ratios, [boot.tail, 1 - boot.tail])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=2e-3)
    assert 0.01 < boot.tail < 0.025  # a little wider than the plain percentiles


def test_the_control_interval_grows_with_the_spread_of_its_draws() -> None:
    rng = np.random.default_rng(0)
    gain = rng.normal(5, 1, 40)
    boot = PairedBootstrap(40, 2000)
    equal, spread = (
        boot.ratio((0.2 + size * rng.standard_normal((8, 1))) * gain, gain) for size in (0.0, 0.3)
    )
    assert equal.high is not None and equal.low is not None
    assert spread.high is not None and spread.low is not None
    assert equal.high - equal.low < 0.01 < 0.2 < spread.high - spread.low


def test_control_intervals_hold_the_mean_of_all_draws_at_their_level() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        gain = 3 + 2 * rng.standard_normal(24)
        own = 0.5 * gain + rng.standard_normal(24)
        draws = rng.normal(0.1, 0.3, (8, 1)) * gain + rng.standard_normal((8, 24))
        found = PairedBootstrap(24, 1000, seed=seed).ratio(own - draws, gain)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.4 <= found.high
    low, high = binom.ppf([0.001, 0.999], 200, 0.95)
    assert low <= held <= high


def test_means_of_few_prompts_are_held_at_their_level() -> None:
    held = 0
    for seed in range(400):
        values = np.random.default_rng(seed).standard_normal(10)
        _, low, high = PairedBootstrap(10, 500, seed=seed).mean(values)
        held += low <= 0 <= high
    low, high = binom.ppf([0.001, 0.999], 400, 0.95)
    assert low <= held <= high


def test_a_tiny_gain_that_is_the_same_on_every_prompt_has_no_ratio() -> None:
    boot = PairedBootstrap(10)
    rounding = np.full(10, SMALLEST_GAIN / 1e5)
    found = boot.ratio(np.ones(10), rounding)
    assert found.value is found.low is found.high is None
    assert found.reason.startswith("no clear gain: 0.00 nats")
    assert boot.ratio(np.ones(10), -np.ones(10)).value is None
    assert boot.ratio(np.ones(10), np.full(10, 2.0)).value == 0.5


def test_too_few_prompts_and_impossible_levels_are_refused() -> None:
    with pytest.raises(InputError, match="two at least"):
        PairedBootstrap(1)
    with pytest.raises(InputError, match="level"):
        PairedBootstrap(5, level=95)
