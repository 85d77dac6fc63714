"""Means and ratios of means over the same prompts, by one paired bootstrap.

A share of a gain is a ratio whose denominator is an estimate too. Where the gain may be zero the
share can be anything (Fieller's problem), so there it is not given. Prompts are resampled
together for numerator and denominator; where values are means over random draws of a control,
the draws are resampled as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from lpa_interp.errors import InputError

DEFAULT_RESAMPLES = 4000
SMALLEST_GAIN = 0.1
"""Nats: odds that change by a tenth. Rounding alone can make a tiny gain that is the same on every
prompt, and so has a narrow interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the bounds of its interval; all None where ``reason`` says it has none."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


class PairedBootstrap:
    """The same resamples of n prompts for every mean and ratio, so that they can be compared.

    Intervals are expanded percentile intervals: the percentiles are moved outwards so that the
    bootstrap of a small sample is not too narrow, as a t interval is wider than a normal one.

    Source: Efron and Tibshirani 1993, chapter 13; Hesterberg 2015, The American Statistician
    69:371 (the expanded percentile interval).
    """

    def __init__(
        self, n: int, n_resamples: int = DEFAULT_RESAMPLES, level: float = 0.95, seed: int = 0
    ) -> None:
        if n < 2:
            raise InputError("prompts", f"{n} of a side", "an interval needs two at least")
        if not 0 < level < 1:
            raise InputError("level", f"{level} is not allowed", "between 0 and 1, as 0.95")
        self.n, self.seed = n, seed
        generator = np.random.default_rng(seed)
        self.weights = generator.multinomial(n, np.full(n, 1 / n), n_resamples) / n
        t = stats.t.ppf(0.5 + level / 2, n - 1)
        self.tail = float(stats.norm.cdf(-t * np.sqrt(n / (n - 1))))

    def mean(self, values: Float64[np.ndarray, "*draws n"]) -> tuple[float, float, float]:
        """Mean over prompts (and draws) with its interval."""
        low, high = np.quantile(self._resampled(values), [self.tail, 1 - self.tail])
        return float(values.mean()), float(low), float(high)

    def ratio(
        self, numerator: Float64[np.ndarray, "*draws n"], denominator: Float64[np.ndarray, " n"]
    ) -> Estimate:
        """Mean of the numerator over mean of the denominator, which must be clearly positive.

        Clearly: at least `SMALLEST_GAIN`, with a lower bound of a tenth of it or more. Nearer to
        zero the interval runs off towards infinity before the ratio stops to exist.

        The interval holds every ratio r that the bootstrap does not reject, that is for which
        the mean of numerator - r denominator is not clearly on one side of zero. Where all
        resampled denominators are positive this is the percentile interval of the ratios; where
        a few are not, the interval grows instead of taking their sign for granted.

        Source: Fieller 1954, J. R. Stat. Soc. B 16:175, with bootstrap percentiles.
        """
        value, low, high = self.mean(denominator)
        if value < SMALLEST_GAIN or low < value / 10:
            reason = f"no clear gain: {value:.2f} nats, {low:.2f} to {high:.2f}"
            return Estimate(None, None, None, reason)
        bounds = self._not_rejected(self._resampled(numerator), self._resampled(denominator))
        return Estimate(float(numerator.mean()) / value, *bounds)

    def _resampled(
        self, values: Float64[np.ndarray, "*draws n"]
    ) -> Float64[np.ndarray, " n_resamples"]:
        if values.ndim == 1:
            means: np.ndarray = self.weights @ values
            return means
        n_draws = len(values)
        generator = np.random.default_rng(self.seed).spawn(1)[0]  # the same draws for each mean
        chosen = generator.multinomial(n_draws, np.full(n_draws, 1 / n_draws), len(self.weights))
        both: np.ndarray = ((chosen / n_draws @ values) * self.weights).sum(axis=1)
        return both

    def _not_rejected(
        self,
        numerator: Float64[np.ndarray, " n_resamples"],
        denominator: Float64[np.ndarray, " n_resamples"],
    ) -> tuple[float, float]:
        """Smallest and largest r for which neither sign of numerator - r denominator is rare."""
        usable = denominator != 0
        ratios = numerator[usable] / denominator[usable]
        order = np.argsort(ratios)
        ratios, signs = ratios[order], np.sign(denominator[usable][order])
        # Share of resamples with a positive difference just above each ratio: all those with a
        # positive denominator far below, then one fewer (or more) as each ratio is passed.
        above = ((signs > 0).sum() - np.cumsum(signs)) / len(ratios)
        low = ratios[np.argmax(above <= 1 - self.tail)]
        high = ratios[len(ratios) - 1 - np.argmax(above[::-1] >= self.tail)]
        return float(low), float(high)
