from __future__ import annotations

import numpy as np
import pytest

from lpa_interp.errors import InputError
from probes.activations import Activations
from probes.groups import permuted_labels
from probes.methods import METHODS, mean_difference
from probes.stability import _halves, split_half_cosine, stability_rows
from tests.planted import HOOK, grouped_data


@pytest.mark.parametrize("method", list(METHODS))
def test_a_planted_direction_comes_back_from_both_halves(method: str) -> None:
    activations, labels, groups, _ = grouped_data(0, strength=1.5, n_groups=40, d_model=8)
    sizes = {"n_splits": 5, "n_permutations": 19}
    found = split_half_cosine(activations.at(HOOK), labels, groups, method, **sizes)
    assert found.mean > 0.6 and found.p_value == pytest.approx(1 / 20)
    assert abs(found.null.mean()) < 0.2


def test_labels_that_mean_nothing_are_unstable_and_the_test_keeps_its_level() -> None:
    means, p_values = [], []
    for seed in range(40):
        activations, labels, groups, _ = grouped_data(seed, strength=0.0, d_model=8)
        values = activations.at(HOOK)
        values = values * np.array([10.0, *np.ones(7)])  # anisotropic, as activations are
        sizes = {"n_splits": 4, "n_permutations": 19, "seed": seed}
        found = split_half_cosine(values, labels, groups, **sizes)
        means.append(found.mean)
        p_values.append(found.p_value)
    assert np.mean(means) == pytest.approx(0.0, abs=0.2)
    assert np.mean(np.array(p_values) <= 0.1) < 0.25  # 0.1 and three standard errors


def test_halves_keep_groups_whole_and_both_sides_in_each() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(7), 3)
    labels = codes < 3  # three positive and four negative groups
    for first in _halves(labels, codes, 20, rng):
        assert not set(codes[first]) & set(codes[~first])
        for half in (first, ~first):
            assert 0 < labels[half].sum() < half.sum()
            assert len(set(codes[half])) in (3, 4)


def test_rows_hold_every_place_with_its_null() -> None:
    activations, labels, groups, _ = grouped_data(0, strength=3.0, d_model=16)
    noise = np.random.default_rng(0).standard_normal((60, 1, 16)).astype(np.float32)
    both = Activations({**activations.values, "blocks.1.hook_resid_pre": noise}, (-1,))
    sizes = {"n_splits": 5, "n_permutations": 39}
    rows = stability_rows(both, labels, groups, model="base", **sizes)
    planted, nothing = rows
    assert (planted.layer, nothing.layer, planted.n, planted.n_groups) == (0, 1, 60, 20)
    assert planted.low <= planted.cosine <= planted.high and planted.cosine > planted.null_high
    assert planted.p_adjusted == pytest.approx(2 / 40) and nothing.p_adjusted > 0.05
    assert rows == stability_rows(both, labels, groups, model="base", **sizes)


def test_a_side_with_one_group_cannot_be_halved() -> None:
    labels = np.array([True, True, False, False, False, False])
    with pytest.raises(InputError, match="fewer than two groups"):
        split_half_cosine(np.eye(6), labels, list("aabbcc"))


def test_all_mean_differences_at_once_are_those_of_each_half_by_itself() -> None:
    activations, labels, groups, _ = grouped_data(3, strength=0.5, d_model=8)
    values = activations.at(HOOK)
    found = split_half_cosine(values, labels, groups, n_splits=6, n_permutations=1)
    codes = np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    permuted_labels(labels, groups, 1, rng, min_groups=2)  # the same stream of draws
    for first, cosine in zip(_halves(labels, codes, 6, rng), found.cosines, strict=True):
        one, two = (
            mean_difference(values[half & labels], values[half & ~labels])
            for half in (first, ~first)
        )
        assert cosine == pytest.approx(one @ two, abs=1e-9)
