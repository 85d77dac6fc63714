"""Does a probe of one set of texts read another? Every set against every set.

A direction that separates the statements it was fitted to may have learned their words. One
that separates other texts, from another source and in another form, has learned something that
the two share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import ModelLabel, ProbeTransfer
from lpa_interp.stats import benjamini_hochberg
from probes.activations import Activations
from probes.crossval import (
    HeldOut,
    auroc,
    central_band,
    group_draws,
    group_folds,
    pair_counts,
    resampled_auroc,
    stratified_auroc,
)
from probes.groups import MAX_TRIES, fewest_groups, one_sided_p, permuted_labels
from probes.methods import Examples, unit_direction

ProbeSet = tuple[Activations, np.ndarray, Sequence[str]]
"""Activations of texts, their labels (True for the positive side) and their groups."""


@dataclass(frozen=True, slots=True)
class _Side:
    """A set at the wanted place, its groups numbered alike in both sets of a cell."""

    values: np.ndarray
    labels: np.ndarray
    groups: list[str]
    codes: np.ndarray


def transfer_matrix(
    train_sets: Mapping[str, ProbeSet],
    test_sets: Mapping[str, ProbeSet] | None = None,
    *,
    model: ModelLabel,
    hook_name: str,
    position: int | Mapping[str, int] = -1,
    method: str = "mean_difference",
    n_folds: int = 5,
    n_permutations: int = 200,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[ProbeTransfer]:
    """AUROC of a probe fitted on each training set and read on each test set.

    No text is scored by a direction that saw its group: where a test set shares groups with the
    training set (all of them on the diagonal), the test groups are dealt into folds, each
    fold's groups are left out of the training set, and pairs compare within folds. Give the
    same group the same name in every set.

    Args:
        train_sets: Activations, labels and groups by name. Let labels mean the same end of the
            scale in all sets (desirable or not), or an AUROC below 0.5 says nothing.
        test_sets: Defaults to ``train_sets``. A name that is in both is the same set.
        model: Label of the model that was read.
        hook_name: Where all sets were read.
        position: One position, or one for each set's name.
        method: A name from `probes.methods.METHODS`.
        n_folds: Folds where groups are shared, or as many as the test side with fewer groups
            has; the rows say how many.
        n_permutations: Permutations of the test labels by group, shared groups and others
            apart. A training row whose group and label are in the test set takes the permuted
            label too, and directions are fitted again.
        n_bootstrap: Resamples of the test groups.
        seed: Of folds, permutations and resamples.

    Returns:
        A row per pair of sets, with Benjamini-Hochberg over those off the diagonal.

    Raises:
        InputError: A set was not read there, or a side has too few groups to test or fold.
    """
    tests = train_sets if test_sets is None else test_sets
    common: dict[str, Any] = {"model": model, "method": method, "hook_name": hook_name}
    common |= {"layer": layer_of(hook_name), "n_permutations": n_permutations, "seed": seed}
    cells, found = [(train, test) for train in train_sets for test in tests], []
    for train, test in cells:
        places = [position if isinstance(position, int) else position[n] for n in (train, test)]
        one, two = _numbered(train_sets[train], tests[test], hook_name, places)
        cell = _Cell(train=one, test=two, method=method, most_folds=n_folds, seed=seed)
        found.append(_fields(cell, n_permutations, n_bootstrap) | {"position": places[0]})
    off = [index for index, (train, test) in enumerate(cells) if train != test]
    adjusted = dict(zip(off, _adjusted([found[i]["p_value"] for i in off]), strict=True))
    return [
        ProbeTransfer(train=train, test=test, p_adjusted=adjusted.get(i), **fields, **common)
        for i, ((train, test), fields) in enumerate(zip(cells, found, strict=True))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """One training and one test set."""

    train: _Side
    test: _Side
    method: str
    most_folds: int
    seed: int

    @property
    def n_folds(self) -> int:
        """Folds of the test set: one where no group is shared."""
        fewest = fewest_groups(self.test.labels, self.test.codes)
        return min(self.most_folds, fewest) if self.shared else 1

    @property
    def shared(self) -> set[str]:
        """Groups that are in both sets."""
        return set(self.train.groups) & set(self.test.groups)


def _fields(cell: _Cell, n_permutations: int, n_bootstrap: int) -> dict[str, Any]:
    """Value, interval, p and sizes of one cell."""
    rng = np.random.default_rng(cell.seed)
    labels, codes = cell.test.labels, np.unique(cell.test.codes, return_inverse=True)[1]
    held = _scored(cell, cell.train.labels, labels)
    counts = pair_counts(held, labels, codes)
    value = auroc(*counts)
    low, high = central_band(resampled_auroc(*counts, group_draws(labels, codes, n_bootstrap, rng)))
    null = _null(cell, held, n_permutations, rng)
    return {
        "auroc": value,
        "low": low,
        "high": high,
        "p_value": one_sided_p(abs(value - 0.5), np.abs(np.array(null) - 0.5)),
        "n_train": len(cell.train.labels),
        "n_test": len(labels),
        "n_test_groups": len(set(cell.test.groups)),
        "n_shared_groups": len(cell.shared),
        "n_folds": cell.n_folds,
    }


def _scored(cell: _Cell, train_labels: np.ndarray, test_labels: np.ndarray) -> HeldOut:
    """Scores of the test rows, each by a direction that did not see its group."""
    train, test, n = cell.train, cell.test, len(test_labels)
    folds = [np.arange(n)]
    if cell.shared:
        parts = group_folds(test_labels, test.codes, cell.n_folds, cell.seed)
        folds = [part for _, part in parts]
    scores, strata = np.zeros(n), np.zeros(n, dtype=np.int64)
    for number, rows in enumerate(folds):
        seen = ~np.isin(train.codes, test.codes[rows])
        examples = Examples(train.values[seen], train_labels[seen])
        direction = unit_direction(examples, cell.method)
        scores[rows], strata[rows] = test.values[rows] @ direction, number
    return HeldOut(scores, strata)


def _null(cell: _Cell, held: HeldOut, n_permutations: int, rng: np.random.Generator) -> list[float]:
    """AUROC under permuted test labels; those that leave a fold without a side are drawn again."""
    null: list[float] = []
    for _ in range(MAX_TRIES):
        for permuted in _permuted(cell, n_permutations - len(null), rng):
            try:
                if cell.shared:
                    held = _scored(cell, _carried_over(cell, permuted), permuted)
                null.append(stratified_auroc(held, permuted))
            except InputError:
                continue
        if len(null) >= n_permutations:
            return null
    raise InputError("probe sets", "too few groups for permuted labels", "fewer folds")


def _permuted(
    cell: _Cell, n_permutations: int, rng: np.random.Generator
) -> Bool[np.ndarray, "n_permutations n"]:
    """Test labels permuted by group, shared groups and others apart: training keeps its sides."""
    test = cell.test
    permuted = np.tile(test.labels, (n_permutations, 1))
    in_both = np.isin(test.codes, cell.train.codes)
    moved = False
    for part in (in_both, ~in_both):
        groups = [test.groups[index] for index in np.flatnonzero(part)]
        sides = [set(test.codes[part & side]) for side in (test.labels, ~test.labels)]
        if min(map(len, sides)) > 1:
            permuted[:, part] = permuted_labels(test.labels[part], groups, n_permutations, rng)
            moved = True
    if not moved:
        raise InputError("probe sets", "too few groups to permute", "two of each side")
    return permuted


def _carried_over(cell: _Cell, permuted: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " m"]:
    """Training labels where the blocks that are also in the test set take the permuted label."""
    test = zip(cell.test.groups, cell.test.labels.tolist(), permuted.tolist(), strict=True)
    moved = {(group, label): new for group, label, new in test}
    train = zip(cell.train.groups, cell.train.labels.tolist(), strict=True)
    return np.array([moved.get((group, label), label) for group, label in train], dtype=bool)


def _numbered(
    train: ProbeSet, test: ProbeSet, hook_name: str, places: Sequence[int]
) -> tuple[_Side, _Side]:
    names = sorted({*train[2], *test[2]})
    index = {name: code for code, name in enumerate(names)}
    sides = []
    for (activations, labels, groups), position in zip((train, test), places, strict=True):
        values = activations.at(hook_name, position)
        if not len(values) == len(labels) == len(groups):
            mistake = f"{len(labels)} labels and {len(groups)} groups for {len(values)} texts"
            raise InputError("probe sets", mistake)
        codes = np.array([index[name] for name in groups])
        sides.append(_Side(values, np.asarray(labels, dtype=bool), list(groups), codes))
    return sides[0], sides[1]


def _adjusted(p_values: Sequence[float]) -> list[float]:
    return [float(p) for p in benjamini_hochberg(p_values)] if p_values else []
