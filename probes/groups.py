"""Labels permuted by group: the null for statements that come in facets.

A facet's statements are near-paraphrases. Permuting single labels would treat them as
independent and make the null too narrow, so whole blocks change their label together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int

from lpa_interp.errors import InputError


def label_blocks(
    labels: Bool[np.ndarray, " n"], groups: Sequence[str]
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n_blocks"]]:
    """The blocks that keep together: statements of one group with one label.

    Most groups have one label and are one block. A group with both labels gives two.

    Returns:
        The block of each row, and the label of each block.

    Raises:
        InputError: Lengths differ, or there are fewer than two blocks with each label.
    """
    if len(labels) != len(groups):
        raise InputError("groups", f"{len(groups)} groups for {len(labels)} labels")
    keys = [(str(group), bool(label)) for group, label in zip(groups, labels, strict=True)]
    order = sorted(set(keys))
    index = {key: place for place, key in enumerate(order)}
    block_labels = np.array([label for _, label in order], dtype=bool)
    if min(block_labels.sum(), (~block_labels).sum()) < 2:
        raise InputError("groups", "too few groups", "at least two with each label")
    return np.array([index[key] for key in keys]), block_labels


def permuted_labels(
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    n_permutations: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "n_permutations n"]:
    """Labels permuted over blocks, one permutation a row."""
    blocks, block_labels = label_blocks(labels, groups)
    tiled = np.tile(block_labels, (n_permutations, 1))
    permuted: np.ndarray = rng.permuted(tiled, axis=1)[:, blocks]
    return permuted


def contrast_weights(labels: Bool[np.ndarray, "k n"]) -> Float64[np.ndarray, "k n"]:
    """Rows w with w @ x = mean of the positive rows of x minus mean of the negative ones."""
    positive = labels / labels.sum(axis=1, keepdims=True)
    negative = ~labels / (~labels).sum(axis=1, keepdims=True)
    weights: np.ndarray = positive - negative
    return weights
