"""Shrunk covariances of few rows in many dimensions, without a [d_model, d_model] matrix."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy.linalg import solve

from lpa_interp.errors import InputError


def ledoit_wolf(gram: Float64[np.ndarray, "n n"], n_features: int) -> tuple[float, float]:
    """The amount by which a covariance is shrunk, from the products of centred rows.

    The numbers of `sklearn.covariance.ledoit_wolf`, which needs the [n_features, n_features]
    covariance. They do not change under rotation, so [n, n] products hold all they need.

    Source: Ledoit and Wolf 2004, Journal of Multivariate Analysis 88:365, section 3.

    Returns:
        ``amount`` and ``variance``: the shrunk covariance is (1 - amount) times the empirical
        one plus amount times variance times the identity; variance is the mean over features.

    Raises:
        InputError: The rows do not vary enough to estimate it.
    """
    n, squares = len(gram), np.diag(gram)
    variance = float(squares.sum()) / (n * n_features)
    norm = float((gram**2).sum()) / n**2
    distance = norm / n_features - variance**2
    error = min((float(squares @ squares) / n - norm) / (n * n_features), distance)
    if not error > 0:
        allowed = "use mean_difference, or more examples of each side"
        raise InputError("examples", "are too few or too alike for a covariance", allowed)
    return error / distance, variance


def solve_low_rank(
    diagonal: Float64[np.ndarray, " d_model"],
    factor: Float64[np.ndarray, "n d_model"],
    vector: Float64[np.ndarray, " d_model"],
) -> Float64[np.ndarray, " d_model"]:
    """(diag(diagonal) + factor^T factor)^-1 vector, by Woodbury's identity."""
    scaled = factor / diagonal
    inner = np.eye(len(factor)) + scaled @ factor.T
    along: np.ndarray = scaled.T @ solve(inner, scaled @ vector, assume_a="pos")
    return vector / diagonal - along


def centred(rows: Float64[np.ndarray, "n d_model"]) -> Float64[np.ndarray, "n d_model"]:
    """Rows minus their mean."""
    return rows - rows.mean(0)


def spread(rows: Float64[np.ndarray, "n d_model"]) -> Float64[np.ndarray, " d_model"]:
    """Standard deviation of each feature; 1 where it is constant, as in scikit-learn's scaler."""
    deviation = rows.std(0)
    constant = deviation <= len(rows) * np.finfo(np.float64).eps * np.abs(rows.mean(0))
    return np.where(constant, 1.0, deviation)
