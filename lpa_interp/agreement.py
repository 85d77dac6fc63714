"""Whether two judges of the same completions agree, beyond what chance gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from lpa_interp.records import Agreement, Verdict
from lpa_interp.stats import N_RESAMPLES, Array, wilson_interval

Key = tuple[str, str, str, str, bool]
"""Model, benchmark, attack, prompt and side: one completion."""

_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class _Kappa:
    value: float | None
    low: float | None
    high: float | None
    method: str


@dataclass(frozen=True, slots=True)
class _Matched:
    """Both verdicts of each completion that both judges saw, and how many only one saw."""

    keys: list[Key]
    first: list[int | None]
    second: list[int | None]
    n_unmatched: int


def agreement(
    verdicts_a: Sequence[Verdict],
    verdicts_b: Sequence[Verdict],
    threshold: float | None = None,
    seed: int = 0,
) -> Agreement:
    """Cohen's kappa of two judges with a 95 % interval, beside their raw agreement.

    Where each prompt was judged once, the interval is a large-sample one: the standard error of
    statsmodels on Fisher's scale (arctanh). Where prompts occur more than once (several models
    or attacks), it is a percentile bootstrap over prompts, for answers to one prompt resemble
    each other. Where the judges always or never agree, neither would have a width: the bounds
    are then Wilson's of the raw agreement, with the prompts as n, at the chance agreement found.

    Kappa is low where one verdict is rare, however well two judges agree; the share of verdicts
    of 1 is therefore given for both.

    Args:
        verdicts_a: Verdicts of one judge, of any models, benchmarks and attacks.
        verdicts_b: Verdicts of the other.
        threshold: Value from which a score counts as 1; needed where values are not 0 or 1.
        seed: Of the bootstrap.

    Source: Cohen 1960; Fleiss, Cohen and Everitt 1969, as in
    `statsmodels.stats.inter_rater.cohens_kappa`.

    Raises:
        ValueError: A side is empty or holds two judges, a completion has two verdicts of one
            judge, a value is neither 0 nor 1 and there is no threshold, or the judges have no
            completion in common.
    """
    found = _matched(_by_key(verdicts_a, threshold), _by_key(verdicts_b, threshold))
    clusters = _clusters(found)
    both, only_first, only_second, neither = (int(count) for count in clusters.sum(0))
    n = both + only_first + only_second + neither
    kappa = _kappa_interval(clusters, seed)
    return Agreement(
        first=verdicts_a[0].judge,
        second=verdicts_b[0].judge,
        benchmark=_one_or_all(key[1] for key in found.keys),
        attack=_one_or_all(key[2] for key in found.keys),
        agreement=(both + neither) / n if n else None,
        kappa=kappa.value,
        low=kappa.low,
        high=kappa.high,
        n=n,
        n_prompts=len(clusters),
        n_undecided_first=found.first.count(None),
        n_undecided_second=found.second.count(None),
        n_unmatched=found.n_unmatched,
        first_share=(both + only_first) / n if n else None,
        second_share=(both + only_second) / n if n else None,
        level=_LEVEL,
        method=kappa.method,
        seed=seed,
    )


def _by_key(verdicts: Sequence[Verdict], threshold: float | None) -> dict[Key, int | None]:
    judges = {verdict.judge for verdict in verdicts}
    if len(judges) != 1:
        raise ValueError(f"one judge on each side, not {', '.join(sorted(judges)) or 'none'}")
    found: dict[Key, int | None] = {}
    for verdict in verdicts:
        key = (
            verdict.model, verdict.benchmark, verdict.attack, verdict.prompt_id, verdict.harmful
        )  # fmt: skip
        if key in found:
            raise ValueError(f"{verdict.judge} has two verdicts on {', '.join(map(str, key))}")
        found[key] = _binary(verdict, threshold)
    return found


def _binary(verdict: Verdict, threshold: float | None) -> int | None:
    if verdict.value is None:
        return None
    if threshold is not None:
        return int(verdict.value >= threshold)
    if verdict.value not in (0, 1):
        raise ValueError(f"{verdict.judge} gives scores: a threshold must say from where 1 counts")
    return int(verdict.value)


def _matched(first: dict[Key, int | None], second: dict[Key, int | None]) -> _Matched:
    shared = [key for key in first if key in second]
    if not shared:
        raise ValueError("the two judges have no completion in common")
    alone = len(first) + len(second) - 2 * len(shared)
    return _Matched(shared, [first[k] for k in shared], [second[k] for k in shared], alone)


def _clusters(found: _Matched) -> Array:
    """Counts of (both 1, first alone, second alone, neither) for each prompt, shape (n, 4)."""
    counts: dict[tuple[str, str], Array] = {}
    for key, a, b in zip(found.keys, found.first, found.second, strict=True):
        if a is not None and b is not None:
            # A benchmark's two sides have prompts of their own, with ids of their own.
            row = counts.setdefault((key[1], key[3]), np.zeros(4))
            row[2 * (1 - a) + (1 - b)] += 1
    return np.array(list(counts.values())).reshape(-1, 4)


def _one_or_all(values: Iterable[str]) -> str:
    found = set(values)
    return found.pop() if len(found) == 1 else "all"


def _kappa_interval(clusters: Array, seed: int) -> _Kappa:
    table = clusters.sum(0)
    if not table.sum():
        return _Kappa(None, None, None, "no completion decided by both")
    first, second = table[0] + table[1], table[0] + table[2]
    constant = [share in (0, table.sum()) for share in (first, second)]
    if all(constant) and first == second:
        return _Kappa(None, None, None, "undefined: both judges gave the same verdict throughout")
    if any(constant):
        return _Kappa(0.0, None, None, "0 whatever the other says: one judge gave one verdict")
    value = float(_kappas(table[None])[0])
    if 0 in (table[1] + table[2], table[0] + table[3]):
        n = len(clusters)
        chance = float(_chance(table[None])[0])
        agreed = wilson_interval(n if table[0] + table[3] else 0, n, _LEVEL)
        low, high = ((end - chance) / (1 - chance) for end in (agreed.low, agreed.high))
        return _Kappa(value, low, high, "Wilson of the raw agreement")
    if (clusters.sum(1) == 1).all():
        # On this scale the interval is within -1 and 1, and covers better near them.
        spread = float(cohens_kappa(table.reshape(2, 2)).std_kappa) / (1 - value**2)
        reach = float(stats.norm.ppf(0.5 + _LEVEL / 2)) * spread
        low, high = (float(np.tanh(np.arctanh(value) + side)) for side in (-reach, reach))
        return _Kappa(value, low, high, "large-sample interval, Fisher scale")
    low, high = _bootstrap(clusters, seed)
    return _Kappa(value, low, high, "percentile bootstrap over prompts")


def _kappas(tables: Array) -> Array:
    """Cohen's kappa of each row of counts; NaN where it is undefined."""
    observed = (tables[:, 0] + tables[:, 3]) / tables.sum(1)
    chance = _chance(tables)
    with np.errstate(invalid="ignore"):
        kappas: Array = (observed - chance) / (1 - chance)
    return kappas


def _chance(tables: Array) -> Array:
    n = tables.sum(1)
    first, second = (tables[:, 0] + tables[:, 1]) / n, (tables[:, 0] + tables[:, 2]) / n
    chance: Array = first * second + (1 - first) * (1 - second)
    return chance


def _bootstrap(clusters: Array, seed: int) -> tuple[float, float]:
    """Quantiles over resampled prompts; a resample without kappa counts as both extremes."""
    n = len(clusters)
    weights = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=N_RESAMPLES)
    kappas = _kappas(weights @ clusters)
    tail = 0.5 - _LEVEL / 2
    low = np.quantile(np.nan_to_num(kappas, nan=-1.0), tail)
    high = np.quantile(np.nan_to_num(kappas, nan=1.0), 1 - tail)
    return float(low), float(high)
