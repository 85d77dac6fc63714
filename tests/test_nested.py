from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpa_interp.errors import InputError
from lpa_interp.records import ProbeScore
from probes.activations import Activations
from probes.crossval import group_folds
from probes.methods import METHODS
from probes.nested import NestedScores, nested_score
from probes.sweep import probe_sweep
from tests.planted import HOOK, grouped_data, one_hook

PLANTED = "blocks.2.hook_resid_pre"


def layers(
    seed: int, strength: float, n_layers: int = 4, d_model: int = 8, n_groups: int = 20
) -> tuple[Any, ...]:
    """Independent noise at several layers, a planted trait at layer 2; labels and groups."""
    planted, labels, groups, _ = grouped_data(seed, strength, n_groups, d_model=d_model)
    read = planted.values[HOOK]
    rng = np.random.default_rng(seed + 1000)
    found = {
        f"blocks.{layer}.hook_resid_pre": read if layer == 2 else facets(rng, groups, d_model)
        for layer in range(n_layers)
    }
    return Activations(found, (-1,)), labels, groups


def facets(rng: np.random.Generator, groups: list[str], d_model: int) -> np.ndarray:
    """Activations in which facets are alike and labels mean nothing."""
    codes = np.unique(groups, return_inverse=True)[1]
    offsets = rng.standard_normal((codes.max() + 1, d_model))
    values = offsets[codes] + rng.standard_normal((len(groups), d_model))
    return values.astype(np.float32)[:, None]


def nested(seed: int, strength: float, n_permutations: int = 19, **sizes: int) -> NestedScores:
    return nested_score(
        *layers(seed, strength, **sizes),
        model="base",
        n_folds=3,
        n_inner_folds=2,
        n_permutations=n_permutations,
        n_bootstrap=50,
        seed=seed,
    )


def test_the_planted_layer_is_chosen_and_its_score_is_high() -> None:
    found = nested(0, 3.0)
    fitted, shuffled = found.rows
    assert found.chosen == [(PLANTED, -1)] * 3
    assert (fitted.measure, fitted.hook_name, fitted.layer) == ("auroc_nested", "chosen", 2)
    assert fitted.value > 0.95 and fitted.p_value == pytest.approx(1 / 20)
    assert shuffled.control == "shuffled" and shuffled.high < fitted.low
    assert shuffled.p_value is None


def test_the_best_of_many_layers_is_biased_upwards_and_the_nested_score_is_not() -> None:
    best, honest = [], []
    for seed in range(20):
        data = layers(seed, 0.0, n_layers=10)
        settings = {"model": "base", "n_folds": 3, "n_bootstrap": 20, "seed": seed}
        methods = ("mean_difference",)
        rows = probe_sweep(*data, methods=methods, controls=(), **settings)
        best.append(max(row.value for row in rows))
        score = nested_score(*data, n_inner_folds=3, n_permutations=1, **settings)
        honest.append(score.rows[0].value)
    assert np.mean(best) > 0.65
    # The standard error of a mean over 20 seeds is about 0.03.
    assert np.mean(honest) == pytest.approx(0.5, abs=0.09)


@pytest.mark.slow
def test_the_null_is_unbiased_and_its_test_keeps_its_level_over_200_seeds() -> None:
    sizes = {"n_layers": 2, "d_model": 6, "n_groups": 12, "n_permutations": 9}
    rows = [nested(seed, 0.0, **sizes).rows[0] for seed in range(200)]
    values, p_values = np.array([(row.value, row.p_value) for row in rows]).T
    assert values.mean() == pytest.approx(0.5, abs=3 * values.std() / np.sqrt(200))
    # At 9 permutations p <= 0.1 in 1 of 10 nulls; three standard errors are allowed.
    assert (p_values <= 0.1).mean() == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 200))
    assert (p_values <= 0.5).mean() == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / 200))


def test_a_layer_that_only_the_test_rows_favour_is_not_chosen() -> None:
    activations, labels, groups = layers(1, 1.0)
    codes = np.unique(groups, return_inverse=True)[1]
    decoy = activations.values["blocks.0.hook_resid_pre"].copy()
    test = group_folds(labels, codes, 5, seed=0)[0][1]
    decoy[test, 0, 0] += np.where(labels[test], 100.0, -100.0)
    cheating = Activations({**activations.values, "blocks.0.hook_resid_pre": decoy}, (-1,))
    plain, cheated = (
        nested_score(data, labels, groups, model="base", n_permutations=1).chosen
        for data in (activations, cheating)
    )
    assert plain[0] == cheated[0]  # of the fold whose test rows they are


def test_positions_are_chosen_too() -> None:
    activations, labels, groups = layers(0, 3.0)
    noise, planted = activations.values["blocks.0.hook_resid_pre"], activations.values[PLANTED]
    both = Activations({PLANTED: np.concatenate([noise, planted], axis=1)}, (-2, -1))
    found = nested_score(both, labels, groups, "logistic", model="lpa", n_permutations=2)
    assert set(found.chosen) == {(PLANTED, -1)}
    rows: list[ProbeScore] = found.rows
    assert (rows[0].method, rows[0].model, rows[0].position) == ("logistic", "lpa", -1)


def test_groups_that_hold_both_sides_are_permuted_until_they_can_be_folded() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([True, False] * 6)
    groups = [name for name in "abcdef" for _ in "xy"]
    data = one_hook(rng.standard_normal((12, 5)))
    settings = {"model": "base", "n_folds": 3, "n_inner_folds": 2, "n_permutations": 30}
    found = nested_score(data, labels, groups, **settings)
    assert 1 / 31 <= found.rows[0].p_value <= 1
    with pytest.raises(InputError, match="a side has 4 groups"):
        nested_score(data, labels, groups, **settings | {"n_inner_folds": 5})


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_finds_the_planted_layer_and_scores_it_without_bias(method: str) -> None:
    activations, labels, groups = layers(0, 3.0)
    sizes = {"n_folds": 3, "n_inner_folds": 2, "n_permutations": 19, "n_bootstrap": 20}
    found = nested_score(activations, labels, groups, method, model="base", **sizes)
    fitted, shuffled = found.rows
    assert found.chosen == [(PLANTED, -1)] * 3 and fitted.method == method
    assert fitted.value > 0.9 and fitted.p_value == pytest.approx(1 / 20)
    assert shuffled.value == pytest.approx(0.5, abs=0.15)
