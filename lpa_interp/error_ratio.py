"""How many times as often one model errs as another on the same prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lpa_interp.paired import pair
from lpa_interp.stats import N_RESAMPLES, Array


@dataclass(frozen=True, slots=True)
class ErrorRatio:
    """Errors of the first over errors of the second, with what stands behind it.

    ``value`` is None where the ratio is undefined, and a bound is None where there is none;
    ``reason`` says why. ``n`` counts prompts.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    first_errors: int
    second_errors: int
    method: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Bounds of a ratio; infinity is kept until the caller says what it means."""

    low: float
    high: float
    method: str


def error_rate_ratio(
    first: ArrayLike, second: ArrayLike, seed: int = 0, level: float = 0.95
) -> ErrorRatio:
    """Error rate of the first model over that of the second, on the same prompts.

    The interval is a percentile bootstrap over prompts. Where no resample could move it (the
    first made no error, or both erred on the same prompts), it is Bonett and Price's interval.

    Where the second made no error the ratio is undefined: ``value`` and ``high`` are None, and
    ``low`` is Bonett and Price's lower bound, or None where the first made none either. Where
    so many resamples hold no error of the second that their quantile is infinite, ``high`` is
    None too.

    Args:
        first: 1 for an error and 0 for none, one value per prompt.
        second: The same for the other model, in the same order.
        seed: Of the bootstrap.
        level: Of the interval.

    Source: arXiv 2605.08496 reports such a ratio (2.6) without an interval; Bonett and Price
    2006, Statistics in Medicine 25:3039.

    Raises:
        ValueError: Lengths differ, there are no prompts, or a value is not 0 or 1.
    """
    one, two = pair(first, second, at_least=1)
    if not np.isin(np.concatenate([one, two]), (0, 1)).all():
        raise ValueError("errors are 0 or 1")
    n, errors, others = one.size, int(one.sum()), int(two.sum())
    if not errors and not others:
        reason = "neither made an error"
        return ErrorRatio(None, None, None, n, 0, 0, "none", reason)
    both = int((one * two).sum())
    bounds = _bounds((both, errors - both, others - both), n, seed, level)
    high = None if math.isinf(bounds.high) else bounds.high
    reason = "" if high is not None else "too few errors of the second for an upper bound"
    if not others:
        reason = "the second made no error"
    value = errors / others if others else None
    return ErrorRatio(value, bounds.low, high, n, errors, others, bounds.method, reason)


def _bounds(table: tuple[int, int, int], n: int, seed: int, level: float) -> _Bounds:
    both, only_first, only_second = table
    if not both + only_first or not both + only_second or not only_first + only_second:
        return _bonett_price(table, level)
    return _bootstrap(table, n, seed, level)


def _bootstrap(table: tuple[int, int, int], n: int, seed: int, level: float) -> _Bounds:
    """Quantiles of the resampled ratio; a resample without errors counts as both extremes."""
    # Resampling prompts is drawing the four kinds of prompt from a multinomial.
    kinds = np.array([*table, n - sum(table)]) / n
    drawn = np.random.default_rng(seed).multinomial(n, kinds, size=N_RESAMPLES)
    above, below = drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = above / below
    tail = 0.5 - level / 2
    low = np.quantile(np.where(np.isnan(ratio), 0.0, ratio), tail, method="lower")
    high = np.quantile(np.where(np.isnan(ratio), np.inf, ratio), 1 - tail, method="higher")
    return _Bounds(float(low), float(high), "paired percentile bootstrap")


def _bonett_price(table: tuple[int, int, int], level: float) -> _Bounds:
    """Bonett and Price's bounds: Wilson's of both rates, at a level that joins them."""
    both, only_first, only_second = table
    some, first, second = sum(table), both + only_first, both + only_second
    spread = math.sqrt((only_first + only_second + 2) / ((first + 1) * (second + 1)))
    parts = [math.sqrt((1 - (k + 1) / (some + 2)) / (k + 1)) for k in (first, second)]
    z = float(stats.norm.ppf(0.5 + level / 2)) * spread / sum(parts)
    alpha = 2 * float(stats.norm.sf(z))
    ends = [proportion_confint(k, some, alpha=alpha, method="wilson") for k in (first, second)]
    (low_first, high_first), (low_second, high_second) = ends
    high = float(high_first / low_second) if second else math.inf
    return _Bounds(max(float(low_first / high_second), 0.0), high, "Bonett-Price")
