"""Cross-validation over groups: held-out scores, AUROC within folds, bootstrap over groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from sklearn.model_selection import StratifiedGroupKFold

from lpa_interp.errors import InputError

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the training and of the test rows."""


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


def held_out_pairs(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    folds: Sequence[Fold],
    method: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[Float64[np.ndarray, "n_groups n_groups"], Float64[np.ndarray, "n_groups n_groups"]]:
    """Fits on training folds, scores test folds, and counts pairs by their groups.

    Returns:
        ``wins`` and ``pairs``: for groups g and h, how many (positive of g, negative of h)
        pairs of the same test fold are ranked correctly (ties count a half), and how many
        there are.
    """
    wins, pairs = (np.zeros((codes.max() + 1, codes.max() + 1)) for _ in range(2))
    for train, test in folds:
        fitted, answers = values[train], labels[train]
        direction = method(fitted[answers], fitted[~answers])
        scores = values[test] @ direction
        positive, negative = labels[test], ~labels[test]
        difference = scores[positive][:, None] - scores[negative][None, :]
        places = np.ix_(codes[test][positive], codes[test][negative])
        np.add.at(wins, places, (difference > 0) + 0.5 * (difference == 0))
        np.add.at(pairs, places, 1.0)
    return wins, pairs


def auroc(wins: np.ndarray, pairs: np.ndarray) -> float:
    """The share of within-fold pairs that are ranked correctly.

    Raises:
        InputError: No test fold holds both sides.
    """
    if pairs.sum() == 0:
        raise InputError("n_folds", "no test fold holds both sides", "use fewer folds")
    return float(wins.sum() / pairs.sum())


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


def bootstrap_interval(
    wins: np.ndarray, pairs: np.ndarray, draws: Float64[np.ndarray, "n_bootstrap n_groups"]
) -> tuple[float, float]:
    """95 % percentile interval of AUROC over resampled groups, probes held fixed."""
    won = np.einsum("bg,gh,bh->b", draws, wins, draws, optimize=True)
    counted = np.einsum("bg,gh,bh->b", draws, pairs, draws, optimize=True)
    low, high = np.percentile(won[counted > 0] / counted[counted > 0], [2.5, 97.5])
    return float(low), float(high)
