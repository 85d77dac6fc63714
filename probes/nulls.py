"""Nulls for the angle between a fitted direction and another vector.

A cosine of 0.3 means nothing by itself. Three ways for a direction to mean nothing, from the
weakest null to the strongest:

- ``random``: isotropic directions. Activations fill few of the d_model dimensions, so almost
  any two fitted directions lie closer together than these do.
- ``random with the activations' covariance``: directions as any contrast of the texts might
  give them. Two contrasts share the large directions of the residual stream; this null has them.
- ``labels permuted by facet``: the same fit to the same activations with meaningless labels.
  It needs the labelled texts behind the direction. Where the other vector is the direction in
  which these texts vary most, every contrast of them lies along it, and not even a cosine of 1
  speaks against this null.

Each null is a sample of unit directions that stand in for the fitted one. Draws depend on the
seed alone, so neighbouring layers meet the same permutations and the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.stats import benjamini_hochberg
from probes.groups import contrast_weights, one_sided_p, permuted_labels
from probes.mediation import covariance_directions

PERMUTED = "labels permuted by facet"
RANDOM = "random"
COVARIANCE = "random with the activations' covariance"
NULLS = (PERMUTED, RANDOM, COVARIANCE)
"""The nulls of a direction by name."""
RANDOM_NULLS = (RANDOM, COVARIANCE)
"""Those that need no labels."""

Alternative = Literal["either side of zero", "either tail", "greater"]
RowT = TypeVar("RowT", bound=Any)


@dataclass(frozen=True, slots=True)
class NullComparison:
    """A value beside its null: the central 95 % of the null and the add-one p."""

    null_low: float
    null_high: float
    p_value: float


def against_null(
    value: float,
    null: Float64[np.ndarray, " n_null"],
    alternative: Alternative = "either side of zero",
) -> NullComparison:
    """Compares a value with a sample of its null, counting the observed value itself.

    Args:
        value: The observed value.
        null: Values under the null.
        alternative: ``either side of zero`` for values that are symmetric about zero under the
            null, such as cosines: p counts values as far from zero. ``either tail`` for shares
            and overlaps: p is twice the smaller tail. ``greater``: p is the upper tail.

    Raises:
        NumericalError: A value is not finite.

    Source: Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39 (add one, never zero).
    """
    if not (np.isfinite(value) and np.isfinite(null).all()):
        raise NumericalError("a value or its null is NaN or infinite")
    low, high = np.percentile(null, [2.5, 97.5])
    return NullComparison(float(low), float(high), _P_VALUES[alternative](value, null))


def two_sided_p(value: float, null: Float64[np.ndarray, " n_null"]) -> float:
    """Share of the null at least as far from zero."""
    return one_sided_p(abs(value), np.abs(null))


def doubled_tail_p(value: float, null: Float64[np.ndarray, " n_null"]) -> float:
    """Twice the smaller tail, at most 1."""
    return min(1.0, 2 * min(one_sided_p(value, null), one_sided_p(-value, -null)))


_P_VALUES: dict[str, Callable[[float, np.ndarray], float]] = {
    "either side of zero": two_sided_p,
    "either tail": doubled_tail_p,
    "greater": one_sided_p,
}


def unit_rows(vectors: Float[np.ndarray, "k d_model"]) -> Float64[np.ndarray, "k d_model"]:
    """The vectors with unit norm, in float64.

    Raises:
        InputError: One of them is zero or not finite.
    """
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise InputError("direction", "is zero or not finite", "leave its layer out")
    units: np.ndarray = wide / norms
    return units


def require_variation(values: Float[np.ndarray, "n d_model"], place: str) -> None:
    """Checks that texts differ by more than rounding: else a contrast of them is noise.

    Raises:
        InputError: They do not.
    """
    if np.ptp(values.astype(np.float64), axis=0).max() <= 1e-9 * np.abs(values).max():
        raise InputError(
            place,
            "all texts have the same activations",
            "leave layer 0 out: every prompt has the same embedding at a template token",
        )


def permuted_directions(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    n_directions: int,
    seed: int = 0,
) -> Float64[np.ndarray, "n_directions d_model"]:
    """Unit mean differences of the same activations under labels permuted by group.

    Raises:
        InputError: There are too few groups, or the texts do not differ.
    """
    require_variation(values, "activations")
    rng = np.random.default_rng(seed)
    weights = contrast_weights(permuted_labels(labels, groups, n_directions, rng))
    # Weights sum to zero, so centring changes nothing but the rounding.
    return unit_rows(weights @ (values.astype(np.float64) - values.mean(0, dtype=np.float64)))


def random_directions(
    null: str,
    d_model: int,
    n_directions: int,
    seed: int = 0,
    residuals: Float[np.ndarray, "n d_model"] | None = None,
) -> Float64[np.ndarray, "n_directions d_model"]:
    """Random unit directions, isotropic or with the covariance of activations.

    Args:
        null: ``random`` or ``random with the activations' covariance``.
        d_model: Dimension of the directions.
        n_directions: Number of draws.
        seed: Of the draws.
        residuals: Activations of the residual stream; needed for the covariance.

    Raises:
        InputError: The null is neither, or its activations are missing.
    """
    if null not in RANDOM_NULLS:
        raise InputError("null", f"{null!r} is unknown here", " or ".join(RANDOM_NULLS))
    # A stream of its own: data that were simulated from the same seed must not come back.
    rng = np.random.default_rng([seed, NULLS.index(null)])
    if null == RANDOM:
        return unit_rows(rng.standard_normal((n_directions, d_model)))
    if residuals is None:
        raise InputError("residuals", f"the null {null!r} needs activations", "or leave it out")
    return unit_rows(covariance_directions(residuals, n_directions, rng))


def residuals_at(
    residuals: Mapping[Any, np.ndarray] | None, place: int | str
) -> Float[np.ndarray, "n d_model"] | None:
    """The activations of one layer or hook point, or None where there are none at all.

    Raises:
        InputError: There are some, but not here.
    """
    if residuals is not None and place not in residuals:
        there = ", ".join(str(known) for known in residuals)
        raise InputError("residuals", f"has no activations at {place}", f"there are {there}")
    return None if residuals is None else residuals[place]


def random_subspaces(
    null: str,
    d_model: int,
    k: int,
    n_subspaces: int,
    seed: int = 0,
    residuals: Float[np.ndarray, "n d_model"] | None = None,
) -> Float64[np.ndarray, "n_subspaces k d_model"]:
    """Orthonormal bases of random subspaces, each spanned by k `random_directions`.

    Raises:
        InputError: As `random_directions`, or k is more than the activations span.
    """
    if residuals is not None and null == COVARIANCE and k >= len(residuals):
        raise InputError("residuals", f"{len(residuals)} texts span no {k} dimensions")
    draws = random_directions(null, d_model, n_subspaces * k, seed, residuals)
    if k == 1:
        return draws[:, None]
    columns = draws.reshape(n_subspaces, k, d_model).swapaxes(1, 2)
    bases: np.ndarray = np.linalg.qr(columns)[0].swapaxes(1, 2)
    return bases


def adjusted(rows: Sequence[RowT], family: Callable[[RowT], Hashable]) -> list[RowT]:
    """The rows with ``p_adjusted`` set: Benjamini-Hochberg within each family of tests.

    Args:
        rows: Records with fields ``p_value`` and ``p_adjusted``.
        family: Rows for which it gives the same value are corrected together.
    """
    places: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(family(row), []).append(place)
    found = list(rows)
    for members in places.values():
        corrected = benjamini_hochberg([rows[place].p_value for place in members])
        for place, p_adjusted in zip(members, corrected, strict=True):
            found[place] = replace(rows[place], p_adjusted=float(p_adjusted))
    return found
