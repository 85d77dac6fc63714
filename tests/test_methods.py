from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.covariance import ledoit_wolf as library_ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lpa_interp.errors import InputError
from probes.covariance import ledoit_wolf, solve_low_rank
from probes.methods import METHODS, Examples, unit_direction
from tests.planted import HOOK, grouped_data

SIZES = [(30, 20, 12), (12, 9, 60), (8, 25, 100)]
"""Positive and negative examples and dimensions: more examples than dimensions, and fewer."""


def two_classes(n: int, m: int, d_model: int) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated classes that overlap, with means apart."""
    rng = np.random.default_rng(n)
    mixing = rng.standard_normal((d_model, d_model))
    positive = (rng.standard_normal((n, d_model)) + 0.3) @ mixing
    return positive + 5.0, rng.standard_normal((m, d_model)) @ mixing + 5.0


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def stacked(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    return np.concatenate([positive, negative]), labels


@pytest.mark.parametrize("method", list(METHODS))
def test_a_planted_direction_is_recovered(method: str) -> None:
    activations, labels, _, direction = grouped_data(0, strength=1.0, n_groups=300)
    values = activations.at(HOOK)
    found = METHODS[method](values[labels], values[~labels])
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found @ direction > 0.9


@pytest.mark.parametrize("method", list(METHODS))
def test_labels_that_mean_nothing_give_a_direction_that_tells_nothing_apart(method: str) -> None:
    rng = np.random.default_rng(0)
    wins = []
    for _ in range(40):
        values = rng.standard_normal((60, 40))
        found = METHODS[method](values[:20], values[20:40])
        wins.append(values[40:50] @ found > values[50:] @ found)
    assert np.mean(wins) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("sizes", SIZES)
def test_lda_equals_scikit_learn_in_the_full_space(sizes: tuple[int, int, int]) -> None:
    positive, negative = two_classes(*sizes)
    library = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    weights = library.fit(*stacked(positive, negative)).coef_[0]
    np.testing.assert_allclose(METHODS["lda"](positive, negative), unit(weights), atol=1e-9)


@pytest.mark.parametrize("sizes", SIZES)
def test_mass_mean_is_the_difference_under_the_inverse_of_the_pooled_shrunk_covariance(
    sizes: tuple[int, int, int],
) -> None:
    positive, negative = two_classes(*sizes)
    within = np.concatenate([positive - positive.mean(0), negative - negative.mean(0)])
    covariance, _ = library_ledoit_wolf(within, assume_centered=True)
    weights = np.linalg.solve(covariance, positive.mean(0) - negative.mean(0))
    np.testing.assert_allclose(METHODS["mass_mean"](positive, negative), unit(weights), atol=1e-9)


@pytest.mark.parametrize("sizes", SIZES)
def test_linear_svm_equals_the_plain_pipeline_of_scikit_learn(sizes: tuple[int, int, int]) -> None:
    positive, negative = two_classes(*sizes)
    plain = SVC(kernel="linear", C=1.0, class_weight="balanced")
    pipeline = make_pipeline(StandardScaler(), plain).fit(*stacked(positive, negative))
    weights = pipeline[-1].coef_[0] / pipeline[0].scale_
    np.testing.assert_allclose(METHODS["linear_svm"](positive, negative), unit(weights), atol=1e-7)


@pytest.mark.parametrize("sizes", SIZES)
def test_logistic_equals_the_plain_pipeline_of_scikit_learn(sizes: tuple[int, int, int]) -> None:
    positive, negative = two_classes(*sizes)
    plain = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000)
    pipeline = make_pipeline(StandardScaler(), plain).fit(*stacked(positive, negative))
    weights = pipeline[-1].coef_[0] / pipeline[0].scale_
    np.testing.assert_allclose(METHODS["logistic"](positive, negative), unit(weights), atol=1e-5)


@pytest.mark.parametrize("method", ["lda", "logistic", "linear_svm"])
def test_directions_follow_a_rescaling_of_the_features(method: str) -> None:
    positive, negative = two_classes(20, 15, 40)
    scale = np.where(np.arange(40) % 2 == 0, 1e2, 1e-2)
    plain = METHODS[method](positive, negative)
    rescaled = METHODS[method](positive * scale, negative * scale) * scale
    np.testing.assert_allclose(unit(rescaled), plain, atol=1e-6)


@pytest.mark.parametrize("method", ["mean_difference", "mass_mean"])
def test_directions_follow_a_rotation_and_ignore_the_unit_of_activations(method: str) -> None:
    positive, negative = two_classes(20, 15, 40)
    rotation = ortho_group.rvs(40, random_state=0)
    plain = METHODS[method](positive, negative)
    moved = METHODS[method](1e3 * positive @ rotation, 1e3 * negative @ rotation)
    np.testing.assert_allclose(moved, plain @ rotation, atol=1e-9)


def test_methods_that_correct_for_covariance_ignore_noise_that_misleads_the_mean() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) < 30
    values = rng.standard_normal((60, 20))
    values[:, 1] *= 60  # a loud dimension that means nothing
    values[:, 0] += np.where(labels, 1.5, -1.5)
    along = {m: abs(METHODS[m](values[labels], values[~labels])[0]) for m in METHODS}
    assert along["mean_difference"] < 0.85
    assert min(along["mass_mean"], along["lda"], along["logistic"]) > 0.85


@pytest.mark.parametrize("shape", [(30, 8), (20, 90)])
def test_ledoit_wolf_from_products_equals_scikit_learn_from_rows(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal(shape) * rng.uniform(0.1, 3, shape[1])
    covariance, amount = library_ledoit_wolf(rows, assume_centered=True)
    found, variance = ledoit_wolf(rows @ rows.T, shape[1])
    assert found == pytest.approx(amount) and variance == pytest.approx((rows**2).mean())
    assert covariance.trace() == pytest.approx(variance * shape[1])
    with pytest.raises(InputError, match="too alike for a covariance"):
        ledoit_wolf(np.zeros((4, 4)), 3)


def test_woodburys_identity_equals_the_solution_of_the_full_system() -> None:
    rng = np.random.default_rng(0)
    diagonal, factor = rng.uniform(0.5, 2, 9), rng.standard_normal((4, 9))
    vector = rng.standard_normal(9)
    expected = np.linalg.solve(np.diag(diagonal) + factor.T @ factor, vector)
    np.testing.assert_allclose(solve_low_rank(diagonal, factor, vector), expected)


@pytest.mark.parametrize("method", list(METHODS))
def test_equal_activations_are_no_direction(method: str) -> None:
    same = np.full((7, 4), 0.1, dtype=np.float32)
    with pytest.raises(InputError, match="leave layer 0 out"):
        METHODS[method](same, same[:3])
    with pytest.raises(InputError, match="equal or infinite"):
        METHODS[method](np.full((7, 4), np.nan), same)


def test_unknown_methods_and_empty_sides_are_refused() -> None:
    examples = Examples(np.eye(4), np.array([True, False, True, False]))
    with pytest.raises(InputError, match=r"unknown name.*mass_mean"):
        unit_direction(examples, "nearest")
    with pytest.raises(InputError, match="on one side"):
        METHODS["lda"](np.eye(4), np.zeros((0, 4)))
