"""Whether a test keeps its level: how often it finds something where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest


def keeps_its_level(p_values: Sequence[float], levels: Sequence[float] = (0.05, 0.5)) -> bool:
    """Whether p falls below each level as often as the level says, within 99.9 % tolerance."""
    found = np.array(p_values)
    rates = [binomtest(int((found <= level).sum()), len(found), level) for level in levels]
    return all(rate.pvalue > 0.001 for rate in rates)


def false_positive_rate(p_values: Sequence[float], level: float = 0.05) -> float:
    """The share of p-values at or below a level."""
    return float((np.array(p_values) <= level).mean())
