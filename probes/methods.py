"""Directions from two classes of activations: interchangeable methods.

Every method is one callable, ``(positive, negative) -> unit direction``. There are far fewer
examples than dimensions, and each method's weights are a combination of the examples (in the
units of a diagonal, for those that rescale features). So each is fitted from products between
examples, [n, n], and no [d_model, d_model] matrix is made; the result is the one of a fit in
the full space.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
from jaxtyping import Bool, Float, Float64
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from lpa_interp.errors import InputError
from probes.covariance import centred, ledoit_wolf, solve_low_rank, spread

DirectionMethod = Callable[
    [Float[np.ndarray, "n d_model"], Float[np.ndarray, "m d_model"]],
    Float[np.ndarray, " d_model"],
]

_UNCHECKED = partial(config_context, assume_finite=True, skip_parameter_validation=True)
"""scikit-learn's checks of its arguments take longer than the fits."""

_HINT = "leave layer 0 out: every prompt has the same embedding at the template's last token"


class Examples:
    """Two classes of examples, and what several methods need of them, computed once.

    ``features`` is float64 [n, d_model]; ``labels`` is True for the positive class.
    """

    def __init__(self, features: Float[np.ndarray, "n d_model"], labels: Bool[np.ndarray, " n"]):
        self.features = features.astype(np.float64)
        self.labels = labels

    @cached_property
    def difference(self) -> Float64[np.ndarray, " d_model"]:
        """Mean of the positive minus mean of the negative examples; zero if only rounding."""
        positive, negative = (self.features[side].mean(0) for side in self.sides)
        difference: np.ndarray = positive - negative
        rounding = _only_rounding(difference, self.features)
        return np.zeros_like(difference) if rounding else difference

    @property
    def sides(self) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Masks of the positive and of the negative examples."""
        return self.labels, ~self.labels

    @cached_property
    def all_equal(self) -> bool:
        """Whether the examples differ by rounding only."""
        return _only_rounding(np.ptp(self.features, axis=0), self.features)

    @cached_property
    def scale(self) -> Float64[np.ndarray, " d_model"]:
        """Standard deviation of each feature; 1 where it is constant."""
        return spread(self.features)

    @cached_property
    def standardised(self) -> Float64[np.ndarray, "n d_model"]:
        """Features with mean 0 and standard deviation 1."""
        return (self.features - self.features.mean(0)) / self.scale

    @cached_property
    def kernel(self) -> Float64[np.ndarray, "n n"]:
        """Products of standardised examples."""
        return self.standardised @ self.standardised.T


RawMethod = Callable[[Examples], np.ndarray]
"""From examples to a direction of any norm: zero where the examples are all the same."""


def _raw_mean_difference(examples: Examples) -> np.ndarray:
    return examples.difference


def _raw_mass_mean(examples: Examples) -> np.ndarray:
    n_features = examples.features.shape[1]
    within = np.concatenate([centred(examples.features[side]) for side in examples.sides])
    gram = within @ within.T
    amount, variance = ledoit_wolf(gram, n_features)
    diagonal = np.full(n_features, amount * variance)
    factor = np.sqrt((1 - amount) / len(within)) * within
    return solve_low_rank(diagonal, factor, examples.difference)


def _raw_lda(examples: Examples) -> np.ndarray:
    # The covariance that scikit-learn's LinearDiscriminantAnalysis(shrinkage="auto") inverts:
    # of each class, shrunk towards its diagonal, weighted by the class' share.
    n, n_features = examples.features.shape
    diagonal, factors = np.zeros(n_features), []
    for side in examples.sides:
        rows = examples.features[side]
        scale, within = spread(rows), centred(rows)
        amount, variance = ledoit_wolf((within / scale) @ (within / scale).T, n_features)
        diagonal += len(rows) / n * amount * variance * scale**2
        factors.append(np.sqrt((1 - amount) / n) * within)
    return solve_low_rank(diagonal, np.concatenate(factors), examples.difference)


def _raw_logistic(examples: Examples) -> np.ndarray:
    # L2 weights lie in the span of the examples: fitting on coordinates in that span, n of
    # them instead of d_model, finds the same weights many times faster.
    squares, axes = np.linalg.eigh(examples.kernel)
    kept = squares > 1e-12 * squares[-1]
    lengths, axes = np.sqrt(squares[kept]), axes[:, kept]
    # Balanced: the sides differ in size, and their sizes say nothing about the trait.
    model = LogisticRegression(C=1.0, class_weight="balanced", solver="newton-cholesky")
    with _UNCHECKED():
        weights = model.fit(axes * lengths, examples.labels).coef_[0]
    unscaled: np.ndarray = (axes @ (weights / lengths)) @ examples.standardised
    return unscaled / examples.scale


def _raw_linear_svm(examples: Examples) -> np.ndarray:
    model = SVC(C=1.0, kernel="precomputed", class_weight="balanced")
    with _UNCHECKED():
        model.fit(examples.kernel, examples.labels)
    unscaled: np.ndarray = model.dual_coef_[0] @ examples.standardised[model.support_]
    return unscaled / examples.scale


RAW_METHODS: dict[str, RawMethod] = {
    "mean_difference": _raw_mean_difference,
    "mass_mean": _raw_mass_mean,
    "lda": _raw_lda,
    "logistic": _raw_logistic,
    "linear_svm": _raw_linear_svm,
}


def raw_direction(examples: Examples, method: str) -> Float64[np.ndarray, " d_model"]:
    """The direction before it is normalised.

    Raises:
        InputError: The method is unknown, a class is empty, or both have the same activations.
    """
    if method not in RAW_METHODS:
        raise InputError(f"method {method!r}", "unknown name", ", ".join(RAW_METHODS))
    if not 0 < examples.labels.sum() < len(examples.labels):
        raise InputError("labels", "all examples are on one side", "both sides are needed")
    usable = np.isfinite(examples.features).all() and not examples.all_equal
    raw = RAW_METHODS[method](examples) if usable else np.zeros(1)
    norm = float(np.linalg.norm(raw))
    if not np.isfinite(norm) or norm == 0:
        raise InputError("direction", "the classes have equal or infinite activations", _HINT)
    return raw


def unit_direction(examples: Examples, method: str) -> Float64[np.ndarray, " d_model"]:
    """The unit direction that a method finds. Raises as `raw_direction` does."""
    raw = raw_direction(examples, method)
    return raw / np.linalg.norm(raw)


def _unit(positive: np.ndarray, negative: np.ndarray, method: str) -> np.ndarray:
    labels = np.repeat([True, False], [len(positive), len(negative)])
    return unit_direction(Examples(np.concatenate([positive, negative]), labels), method)


def mean_difference(
    positive: Float[np.ndarray, "n d_model"], negative: Float[np.ndarray, "m d_model"]
) -> Float[np.ndarray, " d_model"]:
    """Unit vector from the mean of the negative to the mean of the positive activations.

    Source: Arditi et al. 2024, arXiv 2406.11717, equation 2.
    """
    return _unit(positive, negative, "mean_difference")


def mass_mean(
    positive: Float[np.ndarray, "n d_model"], negative: Float[np.ndarray, "m d_model"]
) -> Float[np.ndarray, " d_model"]:
    """The mean difference multiplied by the inverse of the pooled within-class covariance.

    The covariance is shrunk towards a multiple of the identity by Ledoit and Wolf's amount:
    with fewer examples than dimensions it has no inverse otherwise.

    Source: Marks and Tegmark 2023, arXiv 2310.06824, section 4.
    """
    return _unit(positive, negative, "mass_mean")


def lda(
    positive: Float[np.ndarray, "n d_model"], negative: Float[np.ndarray, "m d_model"]
) -> Float[np.ndarray, " d_model"]:
    """Unit weight vector of linear discriminant analysis with shrunk covariances.

    The weights of scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr",
    shrinkage="auto")``. Each class' covariance is shrunk in units of its features' standard
    deviations, so that the result follows any rescaling of features (`mass_mean` does not).
    """
    return _unit(positive, negative, "lda")


def logistic(
    positive: Float[np.ndarray, "n d_model"], negative: Float[np.ndarray, "m d_model"]
) -> Float[np.ndarray, " d_model"]:
    """Unit weight vector of an L2 logistic regression (C = 1, balanced), in activation space.

    Features are standardised before the fit, so that the penalty does not depend on their
    units; the weights are divided by the same scales to act on unscaled activations.
    """
    return _unit(positive, negative, "logistic")


def linear_svm(
    positive: Float[np.ndarray, "n d_model"], negative: Float[np.ndarray, "m d_model"]
) -> Float[np.ndarray, " d_model"]:
    """Unit weight vector of a linear support vector machine (C = 1, balanced).

    Features are standardised and weights scaled back, as for `logistic`.
    """
    return _unit(positive, negative, "linear_svm")


METHODS: dict[str, DirectionMethod] = {
    "mean_difference": mean_difference,
    "mass_mean": mass_mean,
    "lda": lda,
    "logistic": logistic,
    "linear_svm": linear_svm,
}
"""The interchangeable methods by name."""


def _only_rounding(difference: np.ndarray, values: np.ndarray) -> bool:
    """Whether differences of equal float32 values are left: those are not a direction."""
    return bool(np.abs(difference).max() <= 1e-9 * np.abs(values).max())
