from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpa_interp.errors import InputError
from lpa_interp.records import ProbeScore
from probes.crossval import HeldOut, balanced_accuracy, group_folds, held_out, hit_counts
from probes.groups import control_task_labels, one_sided_p, permuted_labels
from probes.linear import (
    METHODS,
    best_layer,
    probe_sweep,
)
from tests.planted import grouped_data, one_hook


def test_planted_traits_score_high_and_shuffled_labels_at_chance() -> None:
    activations, labels, groups, _ = grouped_data(1, strength=3.0, n_groups=30)
    rows = probe_sweep(
        activations,
        labels,
        groups,
        model="base",
        methods=list(METHODS),
        n_shuffles=20,
        n_bootstrap=200,
    )
    by = {(row.method, row.control): row for row in rows}
    for method in METHODS:
        real, shuffled = by[method, "none"], by[method, "shuffled"]
        assert real.value > 0.95 and real.low <= real.value <= real.high
        assert shuffled.value == pytest.approx(0.5, abs=0.1)
        assert shuffled.high < real.low
        assert (real.n, real.n_groups, real.n_folds) == (90, 30, 5)


def test_labels_that_mean_nothing_score_at_chance_although_facets_are_alike() -> None:
    scores = []
    for seed in range(40):
        activations, labels, groups, _ = grouped_data(seed, strength=0.0)
        rows = probe_sweep(
            activations,
            labels,
            groups,
            model="base",
            methods=("mean_difference",),
            n_shuffles=1,
            n_bootstrap=20,
            seed=seed,
        )
        scores.append(rows[0].value)
    # The standard error of a mean over 40 seeds is about 0.02.
    assert np.mean(scores) == pytest.approx(0.5, abs=0.06)


def test_splitting_by_statement_would_leak_what_splitting_by_facet_does_not() -> None:
    activations, labels, groups, _ = grouped_data(3, strength=0.0, n_groups=40, d_model=128)
    by_statement = [str(index) for index in range(len(labels))]
    leaky, honest = (
        probe_sweep(
            activations,
            labels,
            names,
            model="base",
            methods=("logistic",),
            n_shuffles=1,
            n_bootstrap=20,
        )[0].value
        for names in (by_statement, groups)
    )
    assert leaky > 0.8 and honest < 0.7


def test_no_facet_is_on_both_sides_of_a_split() -> None:
    _, labels, groups, _ = grouped_data(0, strength=0.0)
    codes = np.unique(groups, return_inverse=True)[1]
    for train, test in group_folds(labels, codes, 5, seed=0):
        assert not set(codes[train]) & set(codes[test])
    with pytest.raises(InputError, match="11 folds, but a side has 10 groups"):
        group_folds(labels, codes, 11, seed=0)


def test_permuted_labels_move_facets_as_blocks() -> None:
    labels = np.array([True] * 4 + [False] * 4 + [True, True, False, False])
    groups = [*"aabbccdd", *"eeee"]
    permuted = permuted_labels(labels, groups, 200, np.random.default_rng(0))
    for start in range(0, 12, 2):
        np.testing.assert_array_equal(permuted[:, start], permuted[:, start + 1])
    assert (permuted.sum(axis=1) == 6).all()
    assert 0.3 < permuted[:, 0].mean() < 0.7
    with pytest.raises(InputError, match="too few groups"):
        permuted_labels(
            labels, ["x" if label else "y" for label in labels], 3, np.random.default_rng(0)
        )


def test_everything_but_the_seed_is_deterministic() -> None:
    activations, labels, groups, _ = grouped_data(2, strength=1.0)
    first, again = (
        probe_sweep(activations, labels, groups, model="lpa", n_bootstrap=50, seed=4) for _ in "ab"
    )
    assert first == again


def test_best_layer_goes_by_the_held_out_score_of_mean_difference() -> None:
    activations, labels, groups, _ = grouped_data(1, strength=1.5)
    noise = one_hook(np.random.default_rng(0).standard_normal((60, 32)), "blocks.2.hook_resid_pre")
    both = type(activations)({**noise.values, **activations.values}, (-1,))
    rows = probe_sweep(both, labels, groups, model="base", n_shuffles=2, n_bootstrap=50)
    assert best_layer(rows) == 0
    with pytest.raises(InputError, match="no held-out"):
        best_layer([row for row in rows if row.control == "shuffled"])


def swept(seed: int, strength: float, d_model: int = 32, **arguments: object) -> list[ProbeScore]:
    activations, labels, groups, _ = grouped_data(seed, strength, d_model=d_model)
    settings: dict[str, Any] = {"model": "base", "n_shuffles": 5, "n_bootstrap": 100, "seed": seed}
    return probe_sweep(activations, labels, groups, **settings | arguments)


def test_balanced_accuracy_is_high_on_planted_traits_and_at_chance_under_the_null() -> None:
    arguments = {"measures": ("auroc", "balanced_accuracy"), "methods": ("mean_difference",)}
    planted = {(r.measure, r.control): r for r in swept(0, 3.0, **arguments)}
    assert planted["balanced_accuracy", "none"].value > 0.95
    assert planted["balanced_accuracy", "shuffled"].value == pytest.approx(0.5, abs=0.15)
    null = [swept(seed, 0.0, n_shuffles=1, **arguments)[2] for seed in range(40)]
    assert {(row.measure, row.control) for row in null} == {("balanced_accuracy", "none")}
    assert np.mean([row.value for row in null]) == pytest.approx(0.5, abs=0.06)


def test_the_threshold_is_the_midpoint_of_the_training_folds_class_means() -> None:
    values = np.array([[0.0], [1.0], [4.0], [9.0], [2.0], [5.0]])
    labels = np.array([False, False, True, True, False, True])
    folds = [(np.arange(4), np.array([4, 5]))]
    held = held_out(values, labels, folds, ["mean_difference"])[0]
    # Training means are 0.5 and 6.5: the midpoint is 3.5.
    np.testing.assert_allclose(held.scores[4:], [2.0 - 3.5, 5.0 - 3.5])
    np.testing.assert_array_equal(held.strata, [-1, -1, -1, -1, 0, 0])


def test_balanced_accuracy_weighs_the_sides_alike_and_counts_a_tie_as_half() -> None:
    labels = np.array([True, True, True, True, False, False])
    held = HeldOut(np.array([1.0, 1.0, 1.0, -1.0, 0.0, -1.0]), np.zeros(6, dtype=int))
    hits, rows = hit_counts(held, labels, np.array([0, 0, 1, 1, 2, 3]))
    np.testing.assert_array_equal(hits, [[0, 2], [0, 1], [0.5, 0], [1, 0]])
    assert balanced_accuracy(hits, rows) == pytest.approx((3 / 4 + 1.5 / 2) / 2)


def test_control_tasks_label_whole_groups_at_random_also_groups_that_hold_both_sides() -> None:
    labels = np.array([True, False] * 6)
    groups = [name for name in "abcdef" for _ in "xy"]
    tasks = control_task_labels(labels, groups, 200, np.random.default_rng(0))
    np.testing.assert_array_equal(tasks[:, ::2], tasks[:, 1::2])
    assert (tasks.sum(axis=1) == 6).all() and 0.35 < tasks[:, 0].mean() < 0.65
    with pytest.raises(InputError, match="group of its own"):
        control_task_labels(labels, list("abcdefghijkl"), 3, np.random.default_rng(0))


def test_control_tasks_are_learned_where_a_probe_can_tell_facets_apart() -> None:
    arguments = {"controls": ("shuffled", "control_task"), "methods": ("logistic",)}
    by = {(r.measure, r.control): r for r in swept(3, 0.0, d_model=128, **arguments)}
    assert by["auroc", "control_task"].value > 0.8 > by["auroc", "shuffled"].value + 0.1


def test_selectivity_is_high_for_a_planted_trait_and_zero_under_the_null() -> None:
    arguments = {"controls": ("control_task",), "methods": ("mean_difference",)}
    row = swept(0, 3.0, d_model=8, **arguments)[-1]
    assert (row.measure, row.control) == ("auroc_selectivity", "control_task")
    assert row.value > 0.15 and 0 < row.low <= row.value <= row.high
    # Under the null the true labels are one more control task.
    null = [swept(seed, 0.0, d_model=8, **arguments)[-1] for seed in range(40)]
    assert np.mean([row.value for row in null]) == pytest.approx(0.0, abs=0.05)
    assert np.mean([row.low <= 0 <= row.high for row in null]) > 0.8


def test_unknown_methods_measures_and_controls_are_refused() -> None:
    for names in ({"methods": ["x"]}, {"measures": ["x"]}, {"controls": ["x"]}):
        with pytest.raises(InputError, match="unknown name 'x'"):
            swept(0, 0.0, **names)


def test_permutations_that_cannot_be_folded_are_drawn_again() -> None:
    labels = np.array([True, False] * 6)
    groups = [name for name in "abcdef" for _ in "xy"]
    permuted = permuted_labels(labels, groups, 50, np.random.default_rng(0), min_groups=5)
    for row in permuted:
        assert min(len({groups[i] for i in np.flatnonzero(s)}) for s in (row, ~row)) >= 5
    assert len(permuted) == 50 and len(np.unique(permuted, axis=0)) > 10
    with pytest.raises(InputError, match="a side needs 7"):
        permuted_labels(labels, groups, 5, np.random.default_rng(0), min_groups=7)


def test_permutation_p_counts_the_observed_value() -> None:
    assert one_sided_p(1.0, [0.0] * 19) == pytest.approx(1 / 20)
    assert one_sided_p(0.0, [0.0, 1.0, -1.0]) == pytest.approx(3 / 4)
