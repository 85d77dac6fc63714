from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lpa_interp.errors import InputError, NumericalError
from probes.nulls import (
    COVARIANCE,
    PERMUTED,
    RANDOM,
    adjusted,
    against_null,
    permuted_directions,
    random_directions,
    random_subspaces,
    unit_rows,
)
from tests.levels import false_positive_rate, keeps_its_level

D_MODEL = 32
SCALES = np.where(np.arange(D_MODEL) < 2, 10.0, 0.3)  # two directions carry nearly everything
LARGEST = np.eye(D_MODEL)[0]


@dataclass(frozen=True)
class Trial:
    name: str
    p_value: float
    p_adjusted: float = float("nan")


def anisotropic_p(seed: int, null: str) -> float:
    """Of a direction that is a contrast of nothing, against the largest direction there is."""
    rng = np.random.default_rng(seed)
    contrast = rng.standard_normal((20, D_MODEL)).mean(axis=0) * SCALES
    residuals = rng.standard_normal((300, D_MODEL)) * SCALES
    draws = random_directions(null, D_MODEL, 199, seed, residuals)
    return against_null(float(unit_rows(contrast[None])[0] @ LARGEST), draws @ LARGEST).p_value


def test_each_p_is_that_of_the_definition() -> None:
    null = np.array([-3.0, -1.0, 0.0, 1.0, 2.0, 5.0, 6.0, 7.0, 8.0])
    assert against_null(3.0, null).p_value == (1 + 5) / 10
    assert against_null(-3.0, null).p_value == (1 + 5) / 10
    assert against_null(6.5, null, "greater").p_value == (1 + 2) / 10
    assert against_null(6.5, null, "either tail").p_value == 2 * (1 + 2) / 10
    assert against_null(-2.0, null, "either tail").p_value == 2 * (1 + 1) / 10
    assert against_null(2.0, null, "either tail").p_value == 1.0
    found = against_null(0.0, np.linspace(-1, 1, 2001))
    assert (found.null_low, found.null_high) == (pytest.approx(-0.95), pytest.approx(0.95))


def test_p_is_never_zero_and_counts_the_observed_value() -> None:
    assert against_null(2.0, np.zeros(99)).p_value == 0.01
    assert against_null(-1.0, np.array([1.0, -1.0, 0.5])).p_value == 0.75
    assert against_null(2.0, np.zeros(99), "greater").p_value == 0.01
    assert against_null(-2.0, np.zeros(99), "either tail").p_value == 0.02


def test_infinite_values_stop_the_comparison() -> None:
    for value, null in ((np.nan, np.zeros(3)), (0.0, np.array([0.0, np.inf]))):
        with pytest.raises(NumericalError, match="NaN or infinite"):
            against_null(value, null)


def test_isotropic_cosines_have_their_known_distribution() -> None:
    units = random_directions(RANDOM, D_MODEL, 4000, seed=1)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    squared = (units @ LARGEST) ** 2
    assert stats.kstest(squared, stats.beta(0.5, (D_MODEL - 1) / 2).cdf).pvalue > 0.001
    assert abs((units @ LARGEST).mean()) < 0.02


def test_the_covariance_null_keeps_its_level_where_activations_are_anisotropic() -> None:
    assert keeps_its_level([anisotropic_p(seed, COVARIANCE) for seed in range(200)])


def test_the_isotropic_null_would_find_too_much_there() -> None:
    assert false_positive_rate([anisotropic_p(seed, RANDOM) for seed in range(200)]) > 0.5


def test_permuted_directions_are_mean_differences_under_permuted_labels() -> None:
    rng = np.random.default_rng(0)
    labels, groups = np.repeat([True, True, False, False], 3), list("aaabbbcccddd")
    values = rng.standard_normal((12, 5)).astype(np.float32)
    means = values.astype(np.float64).reshape(4, 3, 5).mean(axis=1)
    expected = [
        means[[i, j]].mean(axis=0) - means[[k for k in range(4) if k not in (i, j)]].mean(axis=0)
        for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    ]
    units = unit_rows(np.array(expected))
    found = permuted_directions(values, labels, groups, 200, seed=3)
    nearest = (found @ units.T).argmax(axis=1)
    np.testing.assert_allclose(found, units[nearest], atol=1e-9)
    assert set(nearest) == set(range(6))


def test_random_subspaces_are_orthonormal_spans_of_the_random_directions() -> None:
    residuals = np.random.default_rng(0).standard_normal((50, D_MODEL)) * SCALES
    for null in (RANDOM, COVARIANCE):
        bases = random_subspaces(null, D_MODEL, 3, 10, seed=2, residuals=residuals)
        np.testing.assert_allclose(
            bases @ bases.swapaxes(1, 2), np.broadcast_to(np.eye(3), (10, 3, 3)), atol=1e-12
        )
        spanning = random_directions(null, D_MODEL, 30, seed=2, residuals=residuals)
        projected = (spanning.reshape(10, 3, -1) @ bases.swapaxes(1, 2)) @ bases
        np.testing.assert_allclose(projected, spanning.reshape(10, 3, -1), atol=1e-12)
        one = random_subspaces(null, D_MODEL, 1, 10, seed=2, residuals=residuals)
        np.testing.assert_array_equal(one[:, 0], random_directions(null, D_MODEL, 10, 2, residuals))


def test_p_is_adjusted_within_families_only() -> None:
    p_values = {"a": [0.01, 0.02, 0.5], "b": [0.04]}
    rows = [Trial(name, p) for name, values in p_values.items() for p in values]
    mixed = adjusted([rows[3], *rows[:3]], family=lambda row: row.name)
    assert [row.p_value for row in mixed] == [0.04, 0.01, 0.02, 0.5]
    assert mixed[0].p_adjusted == 0.04
    expected = multipletests(p_values["a"], method="fdr_bh")[1]
    assert [row.p_adjusted for row in mixed[1:]] == pytest.approx(list(expected))


def test_what_has_no_direction_is_refused() -> None:
    equal, labels = np.ones((8, 4), dtype=np.float32), np.repeat([True, False], 4)
    with pytest.raises(InputError, match="same activations"):
        permuted_directions(equal, labels, list("abcdefgh"), 10)
    with pytest.raises(InputError, match="zero"):
        unit_rows(np.zeros((1, 3)))
    with pytest.raises(InputError, match="needs activations"):
        random_directions(COVARIANCE, 4, 10)
    with pytest.raises(InputError, match="unknown here"):
        random_directions(PERMUTED, 4, 10)
    with pytest.raises(InputError, match="span no 4"):
        random_subspaces(COVARIANCE, 8, 4, 10, residuals=np.ones((4, 8)))
