"""What a number of prompts could have shown: the smallest difference of two rates it finds.

A result without a detectable difference says little where n could only have found a large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.proportion import power_proportions_2indep


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest rise and fall from ``base_rate`` that a test finds with the given power.

    Both are positive shares; None where not even a change of all prompts is found so often.
    """

    rise: float | None
    fall: float | None
    n: int
    base_rate: float
    power: float
    alpha: float
    method: str


def detectable_difference(
    n: int,
    base_rate: float,
    power: float = 0.8,
    alpha: float = 0.05,
    paired: bool = True,
    against: float = 0.0,
) -> Detectable:
    """The smallest difference of two rates that n prompts find with the given power.

    Args:
        n: Prompts; of each model where they are not paired.
        base_rate: Rate of the first model.
        power: Share of repetitions in which the test is to reject; more than ``alpha``.
        alpha: Level of the two-sided test, before any correction for multiple tests.
        paired: Exact McNemar test on the same prompts, its power computed exactly; otherwise
            the z-test of two proportions on different prompts, its power as in statsmodels.
        against: Paired only: share of prompts that change the other way. 0 is the best case,
            in which n shows most.

    Raises:
        ValueError: n is below 1, or a share is outside its range.
    """
    if n < 1 or not 0 <= base_rate <= 1 or not 0 < alpha < power < 1:
        raise ValueError("n is 1 or more, base_rate from 0 to 1, power above alpha")
    if not 0 <= against <= 1 or (against and not paired):
        raise ValueError("against is a share of prompts, of paired models only")
    # A prompt changes the other way only from the side on which it starts.
    down, up = min(against, base_rate), min(against, 1 - base_rate)
    rise = _smallest(
        lambda change: _power(n, base_rate, change, down, alpha, paired),
        1 - base_rate - down,
        power,
    )
    fall = _smallest(
        lambda change: _power(n, base_rate, -change, up, alpha, paired), base_rate - up, power
    )
    method = "exact McNemar" if paired else "z-test of two proportions"
    return Detectable(rise, fall, n, base_rate, power, alpha, method)


def mcnemar_power(n: int, gained: float, lost: float, alpha: float = 0.05) -> float:
    """Exact power of the exact McNemar test with n prompts.

    The number of prompts that change is binomial, and so is their split; the test rejects
    where the smaller part is in the lower tail of a fair coin.

    Args:
        n: Prompts.
        gained: Probability that a prompt counts for the second model alone.
        lost: Probability that it counts for the first alone.
        alpha: Level of the two-sided test.
    """
    changing = gained + lost
    if changing == 0:
        return 0.0
    counts = np.arange(1, n + 1)
    largest = stats.binom.ppf(alpha / 2, counts, 0.5)
    largest -= stats.binom.cdf(largest, counts, 0.5) > alpha / 2
    share = gained / changing
    rejects = stats.binom.cdf(largest, counts, share)
    rejects += stats.binom.sf(counts - largest - 1, counts, share)
    return float((stats.binom.pmf(counts, n, min(changing, 1.0)) * rejects).sum())


def _power(
    n: int, base_rate: float, change: float, against: float, alpha: float, paired: bool
) -> float:
    if paired:
        gained, lost = max(change, 0.0) + against, max(-change, 0.0) + against
        return mcnemar_power(n, gained, lost, alpha)
    if change == 0:
        return alpha
    # statsmodels takes the rate of the second group and the difference of the first from it.
    return float(power_proportions_2indep(change, base_rate, n, alpha=alpha, return_results=False))


def _smallest(power_at: Callable[[float], float], most: float, wanted: float) -> float | None:
    most *= 1 - 1e-9  # the z-test has no variance where both rates are certain
    if most <= 0 or power_at(most) < wanted:
        return None
    return float(optimize.brentq(lambda change: power_at(change) - wanted, 0.0, most))
