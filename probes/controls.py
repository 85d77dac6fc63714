"""Subspaces to cut out, with the random subspaces that they are compared with.

Two controls. `random` has the same dimension, drawn evenly: most of its dimensions hold next to
nothing of the activations, so cutting it out is mild. `random_matched` has the same dimension
and removes the same share of the squared norm of the activations, so that what a subspace does
cannot be put down to how much it removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy.optimize import brentq

from lpa_interp.errors import InputError, NumericalError

RANDOM = "random"
MATCHED = "random_matched"
LARGEST_EXPONENT = 6.0
FLOOR = 1e-4
"""Of the second moment's eigenvalues, as a share of the largest: with exponents up to 6 the
draws' condition stays below 1e12, within the digits of float64."""


@dataclass(frozen=True, slots=True)
class NamedSubspace:
    """What is cut out: one subspace, or several draws of a control.

    ``bases`` is float64 [n_draws, k, d_model] with orthonormal rows. ``control_of`` names the
    subspace that a control belongs to, and is empty for a subspace that is no control.
    """

    name: str
    bases: np.ndarray
    control_of: str = ""

    @property
    def k(self) -> int:
        """Dimensions that are cut out."""
        return int(self.bases.shape[1])


def named_subspace(name: str, vectors: Float[np.ndarray, "*k d_model"]) -> NamedSubspace:
    """The span of linearly independent vectors of any norm; one vector gives k = 1.

    Args:
        name: ``trait`` and ``refusal``, or a name of one's own.
        vectors: [d_model] or [k, d_model].

    Raises:
        InputError: The name is that of a control, or the vectors are dependent or not finite.
    """
    if name in (RANDOM, MATCHED):
        raise InputError("subspace", f"the name {name!r} is that of a control")
    wide = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
    if not np.isfinite(wide).all() or np.linalg.matrix_rank(wide) < len(wide):
        raise InputError(f"subspace {name!r}", "its vectors are dependent, zero or not finite")
    return NamedSubspace(name, np.linalg.qr(wide.T)[0].T[None])


def with_controls(
    subspaces: Sequence[NamedSubspace],
    residuals: Float[np.ndarray, "n d_model"],
    n_random: int = 8,
    seed: int = 0,
) -> list[NamedSubspace]:
    """Each subspace followed by its two controls.

    Args:
        subspaces: From `named_subspace`; two of one name differ in k.
        residuals: The residual stream on the prompts that are to be scored, harmful ones first of
            all: the norm that is removed is matched on it.
        n_random: Draws of each control; with fewer than 8, intervals over them are too narrow.
        seed: Of the draws.

    Raises:
        InputError: Two subspaces have the same name and k, or there are too few draws.
    """
    keys = [(subspace.name, subspace.k) for subspace in subspaces]
    if len(set(keys)) < len(keys):
        raise InputError("subspaces", "two have the same name and dimension")
    if n_random < 1:
        raise InputError("n_random", f"{n_random} is not allowed", "1 or more")
    found = []
    generators = np.random.default_rng(seed).spawn(len(subspaces))
    for subspace, rng in zip(subspaces, generators, strict=True):
        noise = rng.standard_normal((2, n_random, *subspace.bases.shape[1:]))
        even = np.stack([_orthonormal(draw) for draw in noise[0]])
        share = removed_norm_share(residuals, subspace.bases[0])
        matched = matched_bases(residuals, share, noise[1])
        found += [
            subspace,
            NamedSubspace(RANDOM, even, subspace.name),
            NamedSubspace(MATCHED, matched, subspace.name),
        ]
    return found


def removed_norm_share(
    residuals: Float[np.ndarray, "n d_model"], basis: Float64[np.ndarray, "k d_model"]
) -> float:
    """Mean squared norm inside the subspace over mean squared norm (about zero, not the mean).

    Raises:
        NumericalError: An activation is not finite, or all are zero.
    """
    wide = residuals.astype(np.float64)
    total = float((wide**2).sum())
    if not np.isfinite(total) or total == 0:
        raise NumericalError("residual stream: not finite, or zero everywhere")
    return float(((wide @ basis.T) ** 2).sum()) / total


def matched_bases(
    residuals: Float[np.ndarray, "n d_model"],
    share: float,
    noise: Float64[np.ndarray, "draws k d_model"],
) -> Float64[np.ndarray, "draws k d_model"]:
    """Random subspaces that each remove a given share of the squared norm.

    A draw is the span of k normal vectors with covariance M^g, M the second moment of the
    residual stream. With g = 0 it is isotropic; with growing g it leans towards where the
    activations are, with negative g away from there. For each draw g is the exponent, between
    -6 and 6, at which it removes the share. A share out of a draw's reach gets the nearest end:
    the share that was removed is reported with every score.
    """
    wide = residuals.astype(np.float64)
    _, sizes, axes = np.linalg.svd(wide / np.linalg.norm(wide), full_matrices=False)
    bases = [_matched(draw, sizes**2, axes, share) for draw in noise]
    return np.stack(bases)


def _matched(
    noise: Float64[np.ndarray, "k d_model"],
    moments: Float64[np.ndarray, " rank"],
    axes: Float64[np.ndarray, "rank d_model"],
    share: float,
) -> Float64[np.ndarray, "k d_model"]:
    """One draw; ``moments`` are the second moment's eigenvalues, which sum to 1."""
    inside = noise @ axes.T
    outside = noise - inside @ axes  # where no activation is
    logs = np.log(np.maximum(moments / moments[0], FLOOR)) / 2

    def basis(exponent: float) -> Float64[np.ndarray, "k d_model"]:
        scaled = (inside * np.exp(exponent * logs)) @ axes
        return _orthonormal(scaled + np.exp(exponent * np.log(FLOOR) / 2) * outside)

    def excess(exponent: float) -> float:
        return float((((basis(exponent) @ axes.T) ** 2) @ moments).sum()) - share

    low, high = -LARGEST_EXPONENT, LARGEST_EXPONENT
    if excess(low) >= 0:
        return basis(low)
    if excess(high) <= 0:
        return basis(high)
    return basis(float(brentq(excess, low, high, xtol=1e-6)))


def _orthonormal(rows: Float64[np.ndarray, "k d_model"]) -> Float64[np.ndarray, "k d_model"]:
    basis: np.ndarray = np.linalg.qr(rows.T)[0].T
    return basis
