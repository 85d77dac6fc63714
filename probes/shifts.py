"""Features that differ between two groups of prompts, and what two contrasts share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import hypergeom
from statsmodels.stats.multitest import multipletests

from lpa_interp.errors import InputError
from lpa_interp.records import FeatureOverlap, FeatureShift, ModelLabel
from probes.groups import contrast_weights, permuted_labels

CHUNK = 64
"""Permutations per matrix product."""


def feature_shifts(
    first: Float[np.ndarray, "n n_features"],
    second: Float[np.ndarray, "m n_features"],
    *,
    contrast: str,
    model: ModelLabel,
    hook_name: str,
    groups: tuple[Sequence[str], Sequence[str]] | None = None,
    paired: bool = False,
    top_k: int = 20,
    n_permutations: int = 500,
    seed: int = 0,
) -> list[FeatureShift]:
    """The features with the largest standardised difference between two groups of prompts.

    The null permutes labels by group, or, for pairs, swaps the members of pairs (of all pairs
    of a group together); its statistic is the difference of means. Features that are active on
    no prompt are not tested.

    Args:
        first: Feature activations, one prompt a row, from `content_features`.
        second: The same of the other prompts; for pairs, in the same order.
        contrast: ``traits``, ``requests`` or ``training``.
        model: Label of the model that was read; ``lpa`` for ``training``.
        hook_name: The SAE's hook point.
        groups: Names of the groups of both sides' prompts, such as facets; none where every
            prompt stands for itself.
        paired: Row i of both sides belongs together: one request and its twin, or one prompt
            on two models.
        top_k: Rows to return; fewer where fewer features are active.
        n_permutations: The smallest possible p is 1 / (n + 1).
        seed: Of the permutations.

    Raises:
        InputError: A side has fewer than two prompts, or pairs do not match.
    """
    if min(len(first), len(second)) < 2 or (paired and len(first) != len(second)):
        raise InputError(f"contrast {contrast!r}", f"{len(first)} and {len(second)} prompts")
    active = active_features(first, second)
    if not active.any():
        return []
    one, two = (side[:, active].astype(np.float64) for side in (first, second))
    effect = standardised_difference(one, two)
    p_value = _permutation_p(one, two, groups, paired, n_permutations, seed)
    p_adjusted = multipletests(p_value, method="fdr_bh")[1]
    order = np.argsort(-np.abs(effect), kind="stable")[:top_k]
    names, places = np.flatnonzero(active), enumerate(order, start=1)
    return [
        FeatureShift(
            contrast=contrast,
            model=model,
            hook_name=hook_name,
            feature=int(names[place]),
            rank=rank,
            mean_first=float(one[:, place].mean()),
            mean_second=float(two[:, place].mean()),
            effect=float(effect[place]),
            p_value=float(p_value[place]),
            p_adjusted=float(p_adjusted[place]),
            n_first=len(one),
            n_second=len(two),
            seed=seed,
        )
        for rank, place in places
    ]


def active_features(*sides: Float[np.ndarray, "_ n_features"]) -> Bool[np.ndarray, " n_features"]:
    """Which features are active on any prompt."""
    active: np.ndarray = np.any([(side > 0).any(axis=0) for side in sides], axis=0)
    return active


def standardised_difference(
    first: Float64[np.ndarray, "n k"], second: Float64[np.ndarray, "m k"]
) -> Float64[np.ndarray, " k"]:
    """Difference of means divided by the pooled standard deviation; 0 where nothing varies."""
    sums = first.var(axis=0) * len(first) + second.var(axis=0) * len(second)
    deviation = np.sqrt(sums / (len(first) + len(second) - 2))
    difference = first.mean(axis=0) - second.mean(axis=0)
    safe = np.where(deviation > 0, deviation, 1.0)
    effect: np.ndarray = np.where(deviation > 0, difference / safe, 0.0)
    return effect


def _permutation_p(
    first: Float64[np.ndarray, "n k"],
    second: Float64[np.ndarray, "m k"],
    groups: tuple[Sequence[str], Sequence[str]] | None,
    paired: bool,
    n_permutations: int,
    seed: int,
) -> Float64[np.ndarray, " k"]:
    """Two-sided add-one p of each feature's difference of means."""
    rng = np.random.default_rng(seed)
    names = groups or ([f"a{i}" for i in range(len(first))], [f"b{i}" for i in range(len(second))])
    if paired:
        values = first - second
        codes = np.unique(np.asarray(names[0]), return_inverse=True)[1]
        signs = rng.choice([-1.0, 1.0], size=(n_permutations, codes.max() + 1))
        weights = signs[:, codes] / len(values)
    else:
        values = np.concatenate([first, second])
        labels = np.arange(len(values)) < len(first)
        both = [*names[0], *names[1]]
        weights = contrast_weights(permuted_labels(labels, both, n_permutations, rng))
    observed = np.abs(first.mean(axis=0) - second.mean(axis=0))
    # Rounding must not decide whether a permutation that repeats the labels counts.
    threshold = observed - 1e-9 * np.abs(values).max(axis=0)
    extreme = np.zeros(values.shape[1])
    for start in range(0, n_permutations, CHUNK):
        extreme += (np.abs(weights[start : start + CHUNK] @ values) >= threshold).sum(axis=0)
    p_value: np.ndarray = (1 + extreme) / (1 + n_permutations)
    return p_value


def feature_overlaps(shifts: Sequence[FeatureShift], n_active: int) -> list[FeatureOverlap]:
    """How many top features each two contrasts share, against sets drawn at random.

    Args:
        shifts: Rows of several contrasts, each with the same number of rows.
        n_active: Features active on any prompt of any of the contrasts: those that could have
            been drawn.

    Raises:
        InputError: A contrast comes from two models, or contrasts differ in their top k.
    """
    tops: dict[str, set[int]] = {}
    for contrast in dict.fromkeys(row.contrast for row in shifts):
        rows = [row for row in shifts if row.contrast == contrast]
        if len({row.model for row in rows}) > 1:
            raise InputError(f"contrast {contrast!r}", "comes from more than one model")
        tops[contrast] = {row.feature for row in rows}
    if len({len(top) for top in tops.values()}) > 1:
        sizes = ", ".join(f"{name} {len(top)}" for name, top in tops.items())
        raise InputError("shifts", f"contrasts differ in their number of features: {sizes}")
    names = list(tops)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    return [_overlap(first, second, tops[first], tops[second], n_active) for first, second in pairs]


def _overlap(
    first: str, second: str, one: set[int], two: set[int], n_active: int
) -> FeatureOverlap:
    shared = len(one & two)
    null = hypergeom(n_active, len(one), len(two))
    return FeatureOverlap(
        first=first,
        second=second,
        top_k=len(one),
        shared=shared,
        expected=float(null.mean()),
        p_value=float(null.sf(shared - 1)),
        n_active=n_active,
    )
