"""Does the other half of the facets give the same direction?

A direction that depends on which facets were written down is not a direction of the trait. The
facets are halved at random, each half gives a direction, and their cosine is compared with that
of the same halves under permuted labels: anisotropic activations make any two contrasts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import DirectionStability, ModelLabel
from lpa_interp.stats import benjamini_hochberg
from probes.activations import Activations
from probes.crossval import central_band
from probes.groups import fewest_groups, one_sided_p, permuted_labels
from probes.methods import Examples, unit_direction
from probes.nulls import require_variation, unit_rows


@dataclass(frozen=True, slots=True)
class SplitHalf:
    """Cosines of directions from two halves of the groups.

    ``cosines`` [n_splits] under the true labels; ``null`` [n_permutations] the mean over the
    splits under each permutation of the labels; ``p_value`` one-sided, of the mean.
    """

    cosines: np.ndarray
    null: np.ndarray
    p_value: float

    @property
    def mean(self) -> float:
        """Mean cosine over the splits."""
        return float(self.cosines.mean())


def split_half_cosine(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    method: str = "mean_difference",
    n_splits: int = 20,
    n_permutations: int = 100,
    seed: int = 0,
) -> SplitHalf:
    """Cosine between the directions of random halves of the groups, and its null.

    Args:
        values: Activations at one hook point and position.
        labels: True for the positive side.
        groups: One name per row. Whole groups are dealt to the halves, within the sides they
            hold, so that each half has both sides.
        method: A name from `probes.methods.METHODS`.
        n_splits: Random halvings.
        n_permutations: Label permutations by group, each with as many halvings.
        seed: Of halvings and permutations.

    Raises:
        InputError: A side has fewer than two groups, or a half of one has too few rows.
    """
    halvings = _halvings(labels, groups, n_splits, n_permutations, seed)
    return _split_half(values, halvings, method)


@dataclass(frozen=True, slots=True)
class _Halving:
    """Labels, true or permuted, and the rows of the first half in each split [n_splits, n]."""

    labels: np.ndarray
    first: np.ndarray


def _halvings(
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    n_splits: int,
    n_permutations: int,
    seed: int,
) -> list[_Halving]:
    """The true labels and their permutations, each with its halves of the groups."""
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    if fewest_groups(labels, codes) < 2:
        raise InputError("groups", "a side has fewer than two groups", "two make two halves")
    rng = np.random.default_rng(seed)
    permuted = permuted_labels(labels, groups, n_permutations, rng, min_groups=2)
    return [_Halving(row, _halves(row, codes, n_splits, rng)) for row in (labels, *permuted)]


def _halves(
    labels: Bool[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    n_splits: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "n_splits n"]:
    """Rows of random halves of the groups, dealt apart by the sides that groups hold.

    Halves of odd numbers are one larger in turn, so that the halves stay of one size.
    """
    n_groups = int(codes.max()) + 1
    kinds = [(labels[codes == g].any(), labels[codes == g].all()) for g in range(n_groups)]
    members = [[g for g in range(n_groups) if kinds[g] == kind] for kind in sorted(set(kinds))]
    in_first = np.zeros((n_splits, n_groups), dtype=bool)
    for split in in_first:
        larger = bool(rng.integers(2))
        for dealt in map(rng.permutation, members):
            split[dealt[: (len(dealt) + larger) // 2]] = True
            larger = larger != bool(len(dealt) % 2)
    return in_first[:, codes]


def _split_half(
    values: Float[np.ndarray, "n d_model"], halvings: Sequence[_Halving], method: str
) -> SplitHalf:
    cosines = _mean_difference_cosines if method == "mean_difference" else _fitted_cosines
    rows = cosines(values, halvings, method)
    null = rows[1:].mean(axis=1)
    return SplitHalf(rows[0], null, one_sided_p(float(rows[0].mean()), null))


def _mean_difference_cosines(
    values: Float[np.ndarray, "n d_model"], halvings: Sequence[_Halving], method: str
) -> Float64[np.ndarray, "n_halvings n_splits"]:
    """All halves at once: a mean difference is a product with weights."""
    require_variation(values, "activations")
    wide = values.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    found = []
    for halving in halvings:
        one, two = (
            unit_rows(_weights(halving.labels, half) @ centred)
            for half in (halving.first, ~halving.first)
        )
        found.append((one * two).sum(axis=1))
    return np.stack(found)


def _weights(
    labels: Bool[np.ndarray, " n"], half: Bool[np.ndarray, "n_splits n"]
) -> Float64[np.ndarray, "n_splits n"]:
    """Rows w with w @ x = mean difference of the rows of x in a half."""
    positive, negative = half & labels, half & ~labels
    counts = positive.sum(axis=1, keepdims=True), negative.sum(axis=1, keepdims=True)
    if not min(count.min() for count in counts):
        raise InputError("labels", "a half has one side only", "more groups of each side")
    weights: np.ndarray = positive / counts[0] - negative / counts[1]
    return weights


def _fitted_cosines(
    values: Float[np.ndarray, "n d_model"], halvings: Sequence[_Halving], method: str
) -> Float64[np.ndarray, "n_halvings n_splits"]:
    cosines = np.empty((len(halvings), len(halvings[0].first)))
    for row, halving in enumerate(halvings):
        for split, first in enumerate(halving.first):
            one, two = (
                unit_direction(Examples(values[half], halving.labels[half]), method)
                for half in (first, ~first)
            )
            cosines[row, split] = one @ two
    return cosines


def stability_rows(
    activations: Activations,
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    *,
    model: ModelLabel,
    target: str = "trait",
    method: str = "mean_difference",
    n_splits: int = 20,
    n_permutations: int = 100,
    seed: int = 0,
) -> list[DirectionStability]:
    """`split_half_cosine` at every hook point and position, as rows.

    Raises:
        InputError: As `split_half_cosine`.
    """
    places = list(product(activations.hook_names, activations.positions))
    counts = {"n_splits": n_splits, "n_permutations": n_permutations, "seed": seed}
    halvings = _halvings(labels, groups, **counts)
    found = [_split_half(activations.at(*place), halvings, method) for place in places]
    adjusted = benjamini_hochberg([half.p_value for half in found])
    rows = []
    for (hook_name, position), half, p_adjusted in zip(places, found, adjusted, strict=True):
        (low, high), (null_low, null_high) = central_band(half.cosines), central_band(half.null)
        rows.append(
            DirectionStability(
                model=model,
                target=target,
                method=method,
                hook_name=hook_name,
                layer=layer_of(hook_name),
                position=position,
                cosine=half.mean,
                low=low,
                high=high,
                null_mean=float(half.null.mean()),
                null_low=null_low,
                null_high=null_high,
                p_value=half.p_value,
                p_adjusted=float(p_adjusted),
                n=len(labels),
                n_groups=len(set(groups)),
                **counts,
            )
        )
    return rows
