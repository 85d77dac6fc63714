"""The score of "the best layer", honest: the layer is chosen without the texts that score it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import ModelLabel, ProbeScore
from probes.activations import Activations
from probes.crossval import (
    Fold,
    HeldOut,
    auroc,
    central_band,
    group_draws,
    group_folds,
    held_out,
    pair_counts,
    resampled_auroc,
    stratified_auroc,
)
from probes.groups import MAX_TRIES, one_sided_p, permuted_labels


@dataclass(frozen=True, slots=True)
class NestedScores:
    """What nested cross-validation found.

    ``rows`` are the score with its control; ``chosen`` holds the hook point and position
    chosen in each outer fold.
    """

    rows: list[ProbeScore]
    chosen: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class _Fold:
    """An outer fold and the folds inside its training rows."""

    train: np.ndarray
    test: np.ndarray
    inner: list[Fold]


def nested_score(
    activations: Activations,
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    method: str = "mean_difference",
    *,
    model: ModelLabel,
    target: str = "trait",
    n_folds: int = 5,
    n_inner_folds: int = 4,
    n_permutations: int = 100,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> NestedScores:
    """AUROC of a probe at the layer and position that inner folds choose.

    For each outer fold, every hook point and position is scored by cross-validation over the
    groups of the training rows; the best (ties go to the earlier) is fitted on all of them and
    scores the test rows. The highest score of a sweep is the best of many and so biased
    upwards; this one is not.

    Source: Cawley and Talbot 2010, Journal of Machine Learning Research 11:2079, section 5.

    Args:
        activations: Of the statements, at the hook points and positions to choose from.
        labels: True for the positive side.
        groups: One name per statement; never split, in outer or inner folds.
        method: A name from `probes.methods.METHODS`.
        model: Label of the model that was read.
        target: What the labels mean.
        n_folds: Outer folds.
        n_inner_folds: Inner folds.
        n_permutations: Label permutations by group, each followed by the whole procedure.
            Permutations that cannot be folded are drawn again.
        n_bootstrap: Resamples of the groups.
        seed: Of folds, permutations and resamples.

    Returns:
        Two rows with ``measure="auroc_nested"`` and ``hook_name="chosen"``: ``none`` with a
        bootstrap interval (probes held fixed) and the one-sided permutation p, ``shuffled``
        with the mean and central 95 % of the permutations.

    Raises:
        InputError: A side has fewer groups than folds, outer or inner.
    """
    places = list(product(activations.hook_names, activations.positions))
    values = [activations.at(*place) for place in places]
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    sizes = (n_folds, n_inner_folds, seed)
    held, picks = _nested(values, labels, _folds(labels, codes, *sizes), method)
    null = []
    for row, folds in _foldable(labels, groups, codes, sizes, n_permutations, rng):
        null.append(stratified_auroc(_nested(values, row, folds, method)[0], row))
    counts = pair_counts(held, labels, codes)
    draws = group_draws(labels, codes, n_bootstrap, rng)
    value, chosen = auroc(*counts), [places[pick] for pick in picks]
    common = _common(chosen) | {"model": model, "target": target, "method": method, "seed": seed}
    common |= {"n": len(labels), "n_groups": int(codes.max()) + 1, "n_folds": n_folds}
    fitted = _row("none", value, resampled_auroc(*counts, draws), one_sided_p(value, null), common)
    shuffled = _row("shuffled", float(np.mean(null)), np.array(null), None, common)
    return NestedScores([fitted, shuffled], chosen)


def _nested(
    values: Sequence[np.ndarray],
    labels: Bool[np.ndarray, " n"],
    folds: Sequence[_Fold],
    method: str,
) -> tuple[HeldOut, list[int]]:
    """Held-out scores, and which of ``values`` each outer fold chose."""
    scores, strata, picks = np.zeros(len(labels)), np.full(len(labels), -1), []
    for number, fold in enumerate(folds):
        inside = labels[fold.train]
        inner = [
            stratified_auroc(held_out(array[fold.train], inside, fold.inner, [method])[0], inside)
            for array in values
        ]
        picks.append(int(np.argmax(inner)))
        outer = held_out(values[picks[-1]], labels, [(fold.train, fold.test)], [method])[0]
        scores[fold.test], strata[fold.test] = outer.scores[fold.test], number
    return HeldOut(scores, strata), picks


def _folds(
    labels: Bool[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    n_folds: int,
    n_inner_folds: int,
    seed: int,
) -> list[_Fold]:
    return [
        _Fold(train, test, group_folds(labels[train], codes[train], n_inner_folds, seed))
        for train, test in group_folds(labels, codes, n_folds, seed)
    ]


def _foldable(
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    codes: Int[np.ndarray, " n"],
    sizes: tuple[int, int, int],
    n_permutations: int,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, list[_Fold]]]:
    """Permuted labels with their folds; those that cannot be folded are drawn again."""
    found: list[tuple[np.ndarray, list[_Fold]]] = []
    for _ in range(MAX_TRIES):
        for row in permuted_labels(labels, groups, n_permutations - len(found), rng, sizes[0]):
            try:
                found.append((row, _folds(row, codes, *sizes)))
            except InputError:
                continue
        if len(found) >= n_permutations:
            return found
    raise InputError("n_inner_folds", "too few groups for permuted labels", "fewer folds")


def _common(chosen: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The place of a row: the one chosen most often, the first of those chosen equally often."""
    (hook_name, position), _ = Counter(chosen).most_common(1)[0]
    return {"hook_name": "chosen", "layer": layer_of(hook_name), "position": position}


def _row(
    control: str,
    value: float,
    resamples: Float64[np.ndarray, " k"],
    p_value: float | None,
    common: dict[str, Any],
) -> ProbeScore:
    low, high = central_band(resamples)
    fields: dict[str, Any] = {"control": control, "measure": "auroc_nested", "p_value": p_value}
    return ProbeScore(value=value, low=low, high=high, **fields, **common)
