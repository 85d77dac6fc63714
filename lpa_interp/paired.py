"""Paired tests of two models on the same items: a difference, its interval and a p-value.

Every function refuses NaN, empty input and pairs that do not match. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from lpa_interp.stats import (
    N_RESAMPLES,
    Array,
    Interval,
    checked,
    mean_interval,
    pair_wins,
    resampled_auroc,
)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The interval of a paired difference (second minus first) and its two-sided p-value."""

    interval: Interval
    p_value: float


def paired_mean_difference(
    first: ArrayLike, second: ArrayLike, seed: int = 0, level: float = 0.95
) -> PairedTest:
    """Mean of second minus first: BCa bootstrap over pairs, p from random sign flips.

    Source: Efron and Tibshirani 1993, chapters 14 and 15, as in `scipy.stats`.

    Raises:
        ValueError: Lengths differ, fewer than two pairs, or a value that is not finite.
    """
    before, after = pair(first, second, at_least=2)
    difference = after - before
    interval = mean_interval(difference, seed, level)
    if np.ptp(difference) == 0 and difference[0] == 0:
        return PairedTest(interval, 1.0)
    method = f"paired {interval.method}, sign-flip p"
    return PairedTest(replace(interval, method=method), _sign_flip_p(difference, seed))


def paired_perplexity_difference(
    first: ArrayLike, second: ArrayLike, seed: int = 0, level: float = 0.95
) -> PairedTest:
    """exp(mean of second) - exp(mean of first) for negative log-likelihoods in nats.

    Percentile bootstrap over pairs of blocks; p from random sign flips of the differences in
    nats, whose null is the same.

    Raises:
        ValueError: Lengths differ, fewer than two pairs, or a value that is not finite.
    """
    before, after = pair(first, second, at_least=2)
    difference = after - before
    value = float(np.exp(after.mean()) - np.exp(before.mean()))
    if not difference.any():
        return PairedTest(Interval(0.0, 0.0, 0.0, before.size, "identical pairs"), 1.0)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(before.size, size=(N_RESAMPLES, before.size))
    draws = np.exp(after[drawn].mean(1)) - np.exp(before[drawn].mean(1))
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    method = "paired percentile bootstrap, sign-flip p"
    interval = Interval(value, float(low), float(high), before.size, method)
    return PairedTest(interval, _sign_flip_p(difference, seed))


def _sign_flip_p(difference: Array, seed: int) -> float:
    result = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=N_RESAMPLES,
        batch=500,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def paired_rate_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> PairedTest:
    """Difference of two shares on the same items: exact McNemar p, Tango score interval.

    The score interval stays honest where no item changes, where a bootstrap has width 0.

    Source: McNemar 1947, exact binomial form; Tango 1998, Statistics in Medicine 17:891.

    Raises:
        ValueError: Lengths differ, there are no pairs, or a value is not 0 or 1.
    """
    before, after = pair(first, second, at_least=1)
    if not np.isin(np.concatenate([before, after]), (0, 1)).all():
        raise ValueError("shares need values of 0 or 1")
    n = before.size
    gained, lost = int((after > before).sum()), int((after < before).sum())
    both = int(((before == 1) & (after == 1)).sum())
    table = [[both, lost], [gained, n - both - gained - lost]]
    p_value = float(mcnemar(table, exact=True).pvalue) if gained + lost else 1.0
    low, high = _tango_bounds(gained, lost, n, float(stats.norm.ppf(0.5 + level / 2)))
    value = (gained - lost) / n
    return PairedTest(Interval(value, low, high, n, "Tango score, exact McNemar p"), p_value)


def _tango_bounds(gained: int, lost: int, n: int, z: float) -> tuple[float, float]:
    """Where the score statistic of a paired difference equals -z and z."""

    def statistic(delta: float) -> float:
        # The nuisance probability is its maximum-likelihood value at the given difference.
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        q = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return float((gained - lost - n * delta) / np.sqrt(max(variance, 1e-300)))

    value, edge = (gained - lost) / n, 1 - 1e-9
    low, high = -1.0, 1.0
    if statistic(-edge) > z:
        low = optimize.brentq(lambda delta: statistic(delta) - z, -edge, value)
    if statistic(edge) < -z:
        high = optimize.brentq(lambda delta: statistic(delta) + z, value, edge)
    return float(low), float(high)


def paired_auroc_difference(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    seed: int = 0,
    level: float = 0.95,
) -> PairedTest:
    """AUROC of second minus first on the same items, each given as (positive, negative).

    Items are resampled within their side, the same ones for both; p is twice the smaller tail
    of the resampled differences, with the add-one correction.

    Raises:
        ValueError: Lengths differ, a side has fewer than two items, or a value is not finite.
    """
    sides = [pair(first[side], second[side], at_least=2) for side in (0, 1)]
    above = np.stack([pair_wins(sides[0][model], sides[1][model]) for model in (0, 1)])
    value = float(above[1].mean() - above[0].mean())
    n = sum(above.shape[1:])
    draws = resampled_auroc(above, seed)
    difference = draws[1] - draws[0]
    low, high = np.quantile(difference, [0.5 - level / 2, 0.5 + level / 2])
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    p_value = min(1.0, 2 * float(tail + 1) / (difference.size + 1))
    method = "paired stratified percentile bootstrap"
    return PairedTest(Interval(value, float(low), float(high), n, method), p_value)


def pair(first: ArrayLike, second: ArrayLike, at_least: int) -> tuple[Array, Array]:
    """Two arrays of equal length, checked.

    Raises:
        ValueError: Lengths differ, there are fewer than ``at_least``, or one is not finite.
    """
    before, after = checked(first, at_least), checked(second, at_least)
    if before.size != after.size:
        raise ValueError(f"pairs need equal lengths, not {before.size} and {after.size}")
    return before, after
