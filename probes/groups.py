"""Labels permuted by group: the null for statements that come in facets.

A facet's statements are near-paraphrases. Permuting single labels would treat them as
independent and make the null too narrow, so whole blocks change their label together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int

from lpa_interp.errors import InputError

MAX_TRIES = 100
"""Draws per wanted permutation before groups count as too few."""


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
    min_groups: int = 1,
) -> Bool[np.ndarray, "n_permutations n"]:
    """Labels permuted over blocks, one permutation a row.

    Args:
        labels: True for the positive side.
        groups: One name per row.
        n_permutations: Rows wanted.
        rng: Source of the permutations.
        min_groups: Permutations in which a side has fewer groups are drawn again: where groups
            hold both sides, some cannot be folded. Among the labels that can be, which hold the
            true ones, all stay equally likely under the null.

    Raises:
        InputError: Too few groups.
    """
    blocks, block_labels = label_blocks(labels, groups)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    found: list[np.ndarray] = []
    for _ in range(MAX_TRIES):
        tiled = np.tile(block_labels, (n_permutations - len(found), 1))
        drawn = rng.permuted(tiled, axis=1)[:, blocks]
        found += [row for row in drawn if fewest_groups(row, codes) >= min_groups]
        if len(found) >= n_permutations:
            return np.array(found, dtype=bool).reshape(n_permutations, len(labels))
    allowed = f"a side needs {min_groups} in most permutations of the labels"
    raise InputError("groups", "too few groups", allowed)


def fewest_groups(labels: Bool[np.ndarray, " n"], codes: Int[np.ndarray, " n"]) -> int:
    """Groups that the side with fewer of them has."""
    return min(len(np.unique(codes[side])) for side in (labels, ~labels))


def control_task_labels(
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    n_tasks: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "n_tasks n"]:
    """Control tasks: each group gets a random label, as many positive groups as there are.

    Unlike a permutation, a task is a function of the group alone, also where groups hold both
    sides: a probe can only learn it by telling the groups apart.

    Source: Hewitt and Liang 2019, arXiv 1909.03368, section 2.1 (groups are their word types).

    Raises:
        InputError: No group has two rows, so that no task could be learned and tested.
    """
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) == len(labels):
        allowed = "groups of two or more rows; use the shuffled control"
        raise InputError("groups", "every row is a group of its own", allowed)
    share = np.mean([labels[codes == code].mean() for code in range(len(names))])
    n_positive = int(np.clip(round(float(share) * len(names)), 1, len(names) - 1))
    tiled = np.tile(np.arange(len(names)) < n_positive, (n_tasks, 1))
    tasks: np.ndarray = rng.permuted(tiled, axis=1)[:, codes]
    return tasks


def contrast_weights(labels: Bool[np.ndarray, "k n"]) -> Float64[np.ndarray, "k n"]:
    """Rows w with w @ x = mean of the positive rows of x minus mean of the negative ones."""
    positive = labels / labels.sum(axis=1, keepdims=True)
    negative = ~labels / (~labels).sum(axis=1, keepdims=True)
    weights: np.ndarray = positive - negative
    return weights


def one_sided_p(value: float, null: Sequence[float] | np.ndarray) -> float:
    """Share of the null at least as high, counting the observed value itself.

    Source: Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39 (add one, never zero).
    """
    # A permutation that repeats the true labels differs in the last bits only.
    extreme = np.asarray(null) >= value - 1e-12
    return float((1 + extreme.sum()) / (1 + len(null)))
