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
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    if fewest_groups(labels, codes) < 2:
        raise InputError("groups", "a side has fewer than two groups", "two make two halves")
    rng = np.random.default_rng(seed)
    permuted = permuted_labels(labels, groups, n_permutations, rng, min_groups=2)
    rows = [_cosines(values, row, codes, method, n_splits, rng) for row in (labels, *permuted)]
    null = np.array([row.mean() for row in rows[1:]])
    return SplitHalf(rows[0], null, one_sided_p(float(rows[0].mean()), null))


def _cosines(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    method: str,
    n_splits: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, " n_splits"]:
    cosines = np.empty(n_splits)
    for split in range(n_splits):
        first = _half(labels, codes, rng)
        one, two = (
            unit_direction(Examples(values[rows], labels[rows]), method) for rows in (first, ~first)
        )
        cosines[split] = one @ two
    return cosines


def _half(
    labels: Bool[np.ndarray, " n"], codes: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """Rows of a random half of the groups, dealt apart by the sides that groups hold.

    Halves of odd numbers are one larger in turn, so that the halves stay of one size.
    """
    n_groups = int(codes.max()) + 1
    kinds = [(labels[codes == g].any(), labels[codes == g].all()) for g in range(n_groups)]
    in_first = np.zeros(n_groups, dtype=bool)
    larger = bool(rng.integers(2))
    for kind in sorted(set(kinds)):
        members = rng.permutation([g for g in range(n_groups) if kinds[g] == kind])
        n_first = (len(members) + larger) // 2
        in_first[members[:n_first]] = True
        larger = larger != bool(len(members) % 2)
    return in_first[codes]


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
    found = [
        split_half_cosine(activations.at(*place), labels, groups, method, **counts)
        for place in places
    ]
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
