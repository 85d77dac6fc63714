"""Intervals and adjusted p-values: thin, checked calls of statsmodels and SciPy.

Every function refuses NaN and empty input, and returns its value with n, an interval and the
method's name. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

N_RESAMPLES = 4999
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the bounds of its interval, the number of observations and the method."""

    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class SpreadOverSeeds:
    """How a value moves from seed to seed: a property of the training, not of the prompts.

    ``sd`` has n - 1 in its denominator and is None for a single seed, of which no spread is
    known. ``low`` and ``high`` are the smallest and the largest value, not an interval.
    """

    n_seeds: int
    mean: float
    sd: float | None
    low: float
    high: float


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """A share with its Wilson score interval.

    Source: Wilson 1927, as in `statsmodels.stats.proportion.proportion_confint`.

    Raises:
        ValueError: n is 0, or there are more successes than n or fewer than 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a share")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return Interval(successes / n, max(float(low), 0.0), min(float(high), 1.0), n, "Wilson")


def mean_interval(
    values: ArrayLike,
    seed: int = 0,
    level: float = 0.95,
    method: Literal["percentile", "BCa"] = "BCa",
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """A mean with its bootstrap interval, by `scipy.stats.bootstrap`.

    Data that are constant up to rounding give an interval of width 0, said in ``method``.

    Raises:
        ValueError: Fewer than two values, or one that is not finite.
    """
    data = checked(values, at_least=2)
    mean = float(data.mean())
    if np.ptp(data) <= 1e-12 * np.abs(data).max():
        return Interval(mean, mean, mean, data.size, "constant data")
    result = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=n_resamples,
        batch=500,
        vectorized=True,
        confidence_level=level,
        method=method,
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    return Interval(mean, low, high, data.size, f"{method} bootstrap")


def bounded_mean_interval(values: ArrayLike, seed: int = 0, level: float = 0.95) -> Interval:
    """A mean of scores from 0 to 1 with its BCa bootstrap interval.

    Where every score is 0, or every one 1, a bootstrap has no width: the interval is then
    Wilson's, which holds since a mean of m makes a score of exactly 0 no likelier than 1 - m.

    Raises:
        ValueError: Fewer than two scores, or one that is not within 0 and 1.
    """
    data = checked(values, at_least=2)
    if data.min() < 0 or data.max() > 1:
        raise ValueError("scores lie between 0 and 1")
    if data.max() == 0 or data.min() == 1:
        interval = wilson_interval(int(data.sum()), data.size, level)
        return replace(interval, method="Wilson, constant scores")
    return mean_interval(data, seed, level)


def seed_spread(values_by_seed: Mapping[int, float]) -> SpreadOverSeeds:
    """Mean, standard deviation and range of one value over seeds.

    It is shown beside the interval over prompts and never pooled into it: more prompts do not
    make seeds agree, and more seeds do not make a prompt set larger.

    Raises:
        ValueError: There is no seed, or a value is not finite.
    """
    data = checked(list(values_by_seed.values()), at_least=1)
    sd = float(data.std(ddof=1)) if data.size > 1 else None
    low, high = float(data.min()), float(data.max())
    return SpreadOverSeeds(data.size, float(data.mean()), sd, low, high)


def auroc_interval(
    positive: ArrayLike, negative: ArrayLike, seed: int = 0, level: float = 0.95
) -> Interval:
    """Probability that a positive scores above a negative, ties counting half.

    The interval is a percentile bootstrap, stratified: each side is resampled within itself.
    At perfect separation, where every resample is perfect too, it is Newcombe's score interval.
    A constant score gives 0.5 with width 0, said in ``method``.

    Source: Newcombe 2006, Statistics in Medicine 25:559, method 5.

    Raises:
        ValueError: A side has fewer than two scores, or one that is not finite.
    """
    above = pair_wins(checked(positive, at_least=2), checked(negative, at_least=2))
    n_positive, n_negative = above.shape
    value, n = float(above.mean()), n_positive + n_negative
    if np.ptp(above) == 0:
        if value == 0.5:
            return Interval(value, value, value, n, "constant data")
        z = float(stats.norm.ppf(0.5 + level / 2))
        reach = _separation_bound(n_positive, n_negative, z)
        low, high = (reach, 1.0) if value == 1 else (0.0, 1 - reach)
        return Interval(value, low, high, n, "Newcombe score")
    draws = resampled_auroc(above[None], seed)[0]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high), n, "stratified percentile bootstrap")


def holm(p_values: ArrayLike) -> Array:
    """p-values adjusted for the family-wise error rate (Holm 1979)."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """p-values adjusted for the false discovery rate (Benjamini and Hochberg 1995)."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: ArrayLike, method: str) -> Array:
    values = checked(p_values, at_least=1)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("p-values lie between 0 and 1")
    adjusted: Array = np.asarray(multipletests(values, method=method)[1], dtype=np.float64)
    return adjusted


def pair_wins(positive: Array, negative: Array) -> Array:
    """1 where a positive scores above a negative, 0.5 at ties, 0 below."""
    return (np.sign(positive[:, None] - negative[None, :]) + 1) / 2


def resampled_auroc(above: Array, seed: int) -> Array:
    """AUROC of stratified resamples: multinomial counts weigh rows and columns of wins."""
    generator = np.random.default_rng(seed)
    rows, columns = above.shape[1:]
    weights = [generator.multinomial(k, [1 / k] * k, N_RESAMPLES) / k for k in (rows, columns)]
    return np.stack([((weights[0] @ wins) * weights[1]).sum(1) for wins in above])


def _separation_bound(n_positive: int, n_negative: int, z: float) -> float:
    """Lower score bound of an AUROC observed at 1."""
    extra = (n_positive + n_negative) / 2 - 1

    def gap(theta: float) -> float:
        spread = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (1 - theta) - z**2 * theta * spread / (n_positive * n_negative)

    return float(optimize.brentq(gap, 0.0, 1.0))


def checked(values: ArrayLike, at_least: int) -> Array:
    """Values as a flat float64 array.

    Raises:
        ValueError: There are fewer than ``at_least``, or one is not finite.
    """
    data: Array = np.asarray(values, dtype=np.float64).ravel()
    if data.size < at_least:
        raise ValueError(f"{data.size} values are too few: {at_least} or more")
    if not np.isfinite(data).all():
        raise ValueError("values hold NaN or infinity")
    return data


def perplexity_interval(losses: ArrayLike, seed: int = 0) -> Interval:
    """Perplexity from the mean losses of blocks of equal length, nats per token."""
    mean = mean_interval(losses, seed, method="percentile")
    value, low, high = (math.exp(bound) for bound in (mean.value, mean.low, mean.high))
    return Interval(value, low, high, mean.n, f"{mean.method} over blocks or targets")
