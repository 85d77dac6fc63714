"""Cross-validation over groups: held-out scores and measures of them, within folds.

A probe's scores have an offset that depends on which labels were left out. Pooling scores over
folds would compare the offsets of different probes, which biases AUROC below 0.5 under the
null; so pairs are compared within a fold, and each fold has its own threshold.

Source: Parker, Günter and Bedo 2007, BMC Bioinformatics 8:326 (averaging over pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from lpa_interp.errors import InputError
from probes.methods import Examples, unit_direction

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the training and of the test rows."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Scores of rows by probes that did not see their group.

    ``scores`` [n] are projections on the unit direction minus the midpoint of the projected
    class means of the training rows: above 0 is a call for the positive side. ``strata`` [n]
    number the fold; scores compare within a stratum only. Rows in no fold have stratum -1.
    """

    scores: np.ndarray
    strata: np.ndarray


def group_folds(
    labels: Bool[np.ndarray, " n"], codes: Int[np.ndarray, " n"], n_folds: int, seed: int
) -> list[Fold]:
    """Folds that keep groups whole and the sides in proportion, as far as groups allow.

    Raises:
        InputError: A side has fewer groups than folds.
    """
    fewest = min(len(np.unique(codes[labels])), len(np.unique(codes[~labels])))
    if fewest < n_folds:
        raise InputError("n_folds", f"{n_folds} folds, but a side has {fewest} groups")
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels, codes))


def row_folds(labels: Bool[np.ndarray, " n"], n_folds: int, seed: int) -> list[Fold]:
    """Folds of single rows, whatever their group: for control tasks only.

    Raises:
        InputError: A side has fewer rows than folds.
    """
    fewest = int(min(labels.sum(), (~labels).sum()))
    if fewest < n_folds:
        raise InputError("n_folds", f"{n_folds} folds, but a side has {fewest} rows")
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels))


def held_out(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    folds: Sequence[Fold],
    methods: Sequence[str],
) -> list[HeldOut]:
    """Fits each method on the training rows of each fold and scores the test rows.

    What methods have in common is computed once per fold.
    """
    scores = np.zeros((len(methods), len(labels)))
    strata = np.full(len(labels), -1)
    for number, (train, test) in enumerate(folds):
        examples = Examples(values[train], labels[train])
        directions = np.stack([unit_direction(examples, method) for method in methods])
        scores[:, test] = directions @ values[test].T - _midpoints(examples, directions)[:, None]
        strata[test] = number
    return [HeldOut(row, strata) for row in scores]


def _midpoints(
    examples: Examples, directions: Float64[np.ndarray, "k d_model"]
) -> Float64[np.ndarray, " k"]:
    """The middle between the projected class means."""
    means = np.stack([examples.features[side].mean(0) for side in examples.sides])
    middle: np.ndarray = directions @ means.mean(0)
    return middle


def pair_counts(
    held: HeldOut, labels: Bool[np.ndarray, " n"], codes: Int[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "n_groups n_groups"], Float64[np.ndarray, "n_groups n_groups"]]:
    """Counts pairs within strata by their groups.

    Returns:
        ``wins`` and ``pairs``: for groups g and h, how many (positive of g, negative of h)
        pairs of the same stratum are ranked correctly (ties count a half), and how many
        there are.
    """
    size = (int(codes.max()) + 1,) * 2
    wins, pairs = np.zeros(size), np.zeros(size)
    for stratum in range(int(held.strata.max()) + 1):
        inside = held.strata == stratum
        positive, negative = np.flatnonzero(inside & labels), np.flatnonzero(inside & ~labels)
        difference = held.scores[positive][:, None] - held.scores[negative][None, :]
        places = np.ix_(codes[positive], codes[negative])
        np.add.at(wins, places, (difference > 0) + 0.5 * (difference == 0))
        np.add.at(pairs, places, 1.0)
    return wins, pairs


def auroc(wins: np.ndarray, pairs: np.ndarray) -> float:
    """The share of within-stratum pairs that are ranked correctly.

    Raises:
        InputError: No test fold holds both sides.
    """
    if pairs.sum() == 0:
        raise InputError("n_folds", "no test fold holds both sides", "use fewer folds")
    return float(wins.sum() / pairs.sum())


def stratified_auroc(held: HeldOut, labels: Bool[np.ndarray, " n"]) -> float:
    """The share of within-stratum pairs that are ranked correctly, where groups do not matter.

    Raises:
        InputError: No stratum holds both sides.
    """
    wins, pairs = 0.0, 0
    for stratum in range(int(held.strata.max()) + 1):
        inside = held.strata == stratum
        positive, negative = held.scores[inside & labels], held.scores[inside & ~labels]
        difference = positive[:, None] - negative[None, :]
        wins += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
        pairs += difference.size
    return auroc(np.array(wins), np.array(pairs))


def hit_counts(
    held: HeldOut, labels: Bool[np.ndarray, " n"], codes: Int[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "n_groups 2"], Float64[np.ndarray, "n_groups 2"]]:
    """Counts correct calls by group and side.

    Returns:
        ``hits`` and ``rows``: how many rows of group g on side s (0 negative, 1 positive) fall
        on the right side of their fold's threshold (on it counts a half), and how many there
        are.
    """
    inside = held.strata >= 0
    right = np.where(labels, held.scores, -held.scores)[inside]
    places = (codes[inside], labels[inside].astype(int))
    hits, rows = (np.zeros((int(codes.max()) + 1, 2)) for _ in range(2))
    np.add.at(hits, places, (right > 0) + 0.5 * (right == 0))
    np.add.at(rows, places, 1.0)
    return hits, rows


def balanced_accuracy(hits: np.ndarray, rows: np.ndarray) -> float:
    """Mean over the two sides of the share of rows called correctly."""
    return float((hits.sum(0) / rows.sum(0)).mean())


def group_draws(
    labels: Bool[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "n_bootstrap n_groups"]:
    """How often each group is drawn in each resample, drawn within sides.

    The numbers of positive and negative groups are part of the design, not chance.
    """
    n_groups = int(codes.max()) + 1
    sides = [
        (labels[codes == group].any(), labels[codes == group].all()) for group in range(n_groups)
    ]
    counts = np.zeros((n_bootstrap, n_groups))
    for side in set(sides):
        members = np.array([group for group in range(n_groups) if sides[group] == side])
        shares = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), shares, size=n_bootstrap)
    return counts


def resampled_auroc(
    wins: np.ndarray, pairs: np.ndarray, draws: Float64[np.ndarray, "n_bootstrap n_groups"]
) -> Float64[np.ndarray, " n_bootstrap"]:
    """AUROC of each resample of groups, probes held fixed; NaN where it holds no pair."""
    won, counted = (((draws @ counts) * draws).sum(1) for counts in (wins, pairs))
    return _ratio(won, counted)


def resampled_balanced_accuracy(
    hits: np.ndarray, rows: np.ndarray, draws: Float64[np.ndarray, "n_bootstrap n_groups"]
) -> Float64[np.ndarray, " n_bootstrap"]:
    """Balanced accuracy of each resample of groups; NaN where it lacks a side."""
    mean: np.ndarray = _ratio(draws @ hits, draws @ rows).mean(1)
    return mean


def _ratio(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def central_band(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The central 95 % of the values that exist.

    Raises:
        InputError: None exists.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).any():
        raise InputError("resamples", "none holds both sides", "more groups of each side")
    low, high = np.percentile(array[np.isfinite(array)], [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure as three steps: counts by group, the value, the value in each resample."""

    count: Callable[[HeldOut, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    value: Callable[[np.ndarray, np.ndarray], float]
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


MEASURES = {
    "auroc": Measure(pair_counts, auroc, resampled_auroc),
    "balanced_accuracy": Measure(hit_counts, balanced_accuracy, resampled_balanced_accuracy),
}
"""Measures of held-out scores by name; 0.5 is chance for each."""
