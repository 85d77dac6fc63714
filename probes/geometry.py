"""Angles between directions and between subspaces, layer by layer, against their nulls.

Two families that were fitted to the same texts share the noise of those texts, which no null
here has: compare families from different texts (statements and requests, or two factors). The
interval of a cosine takes shared noise out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy import linalg

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import DirectionAngle, ModelLabel, SubspaceAngle
from probes.activations import Activations
from probes.angle_intervals import LEVEL, cosine_interval
from probes.families import DirectionFamily, labelled_family
from probes.nulls import (
    NULLS,
    PERMUTED,
    RANDOM_NULLS,
    adjusted,
    against_null,
    permuted_directions,
    random_directions,
    random_subspaces,
    residuals_at,
    unit_rows,
)
from probes.subspaces import orthonormal_rows


def direction_angles(
    first: DirectionFamily,
    second: DirectionFamily,
    *,
    model: ModelLabel,
    frame: ModelLabel | None = None,
    residuals: Mapping[str, np.ndarray] | None = None,
    nulls: Sequence[str] = NULLS,
    n_null: int = 500,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> list[DirectionAngle]:
    """Cosine of two families at each hook point that both have, against each null.

    Args:
        first: The family that the nulls stand in for.
        second: The family that is held fixed.
        model: Label of the model that the rows are about.
        frame: The model whose activations both were read in; None for ``model``.
        residuals: Activations [n, d_model] by hook point, whose covariance one null has.
            Texts that neither family was fitted to make the cleanest null.
        nulls: Among `probes.nulls.NULLS`; permuted labels need ``first`` from `labelled_family`.
        n_null: Draws of each null; the smallest possible p is 1 / (n + 1).
        n_bootstrap: Resamples of the texts for the interval (`cosine_interval`), which is there
            where both families know their texts.
        seed: Of all draws.

    Returns:
        A row per null and hook point, with Benjamini-Hochberg over the hook points of a null.

    Raises:
        InputError: No hook point is in both, a vector is zero, or a null lacks its activations.
    """
    hooks = [hook for hook in first.vectors if hook in second.vectors]
    if not hooks:
        both = f"{first.name!r} and {second.name!r}"
        raise InputError("directions", f"no layer has both {both}", "read both at one hook point")
    common: dict[str, Any] = {"model": model, "frame": frame or model, "seed": seed}
    common |= {"n_permutations": n_null, "p_adjusted": np.nan}
    intervals = {hook: _interval(first, second, hook, n_bootstrap, seed) for hook in hooks}
    rows = []
    for null, hook in product(nulls, hooks):
        draws = _null_directions(null, first, hook, residuals, n_null, seed)
        place = common | {"hook_name": hook, "layer": layer_of(hook), "null": null}
        rows.append(_angle(first, second, draws, place | intervals[hook]))
    return adjusted(rows, family=lambda row: row.null)


def _angle(
    first: DirectionFamily,
    second: DirectionFamily,
    draws: Float64[np.ndarray, "n_null d_model"],
    place: dict[str, Any],
) -> DirectionAngle:
    """The cosine at one hook point beside draws that stand in for the first direction."""
    hook = place["hook_name"]
    own, other = (unit_rows(family.vectors[hook][None])[0] for family in (first, second))
    cosine = float(own @ other)
    sides: dict[str, Any] = {
        "first": first.name,
        "second": second.name,
        "n_first": first.n,
        "n_second": second.n,
    }
    sides |= asdict(against_null(cosine, draws @ other))
    return DirectionAngle(cosine=cosine, **sides, **place)


def _interval(
    first: DirectionFamily, second: DirectionFamily, hook: str, n_bootstrap: int, seed: int
) -> dict[str, float | None]:
    """The cosine's interval where the texts behind both directions are known."""
    if first.texts is None or second.texts is None:
        return {"low": None, "high": None, "level": None}
    low, high = cosine_interval(first.texts, second.texts, hook, n_bootstrap, seed)
    return {"low": low, "high": high, "level": LEVEL}


def _null_directions(
    null: str,
    first: DirectionFamily,
    hook: str,
    residuals: Mapping[str, np.ndarray] | None,
    n_null: int,
    seed: int,
) -> Float64[np.ndarray, "n_null d_model"]:
    """Directions that stand in for the first family's at a hook point."""
    if null != PERMUTED:
        at_hook = residuals_at(residuals, hook)
        return random_directions(null, len(first.vectors[hook]), n_null, seed, at_hook)
    if first.texts is None:
        problem = f"{first.name!r} has no labels to permute"
        raise InputError("nulls", problem, "give a labelled family first, or leave this null out")
    texts = first.texts
    return permuted_directions(texts.values[hook], texts.labels, texts.groups, n_null, seed)


def trait_refusal_angles(
    activations: Activations,
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    refusal: Mapping[int, np.ndarray],
    *,
    model: ModelLabel,
    n_refusal: int,
    position: int = -1,
    first: str = "trait",
    second: str = "refusal",
    n_permutations: int = 500,
    seed: int = 0,
) -> list[DirectionAngle]:
    """`direction_angles` of the trait and the refusal direction, against permuted labels.

    Args:
        activations: Of the statements, at the hook points that the refusal vectors are from.
        labels: True for positive traits.
        groups: The facet of each statement; labels are permuted by facet, not by statement.
        refusal: A vector [d_model] of any norm for each layer to compare; others are left out.
        model: Label of the model.
        n_refusal: Prompts behind the refusal vectors.
        position: Position of the statements' activations.
        first: Name of the trait direction.
        second: Name of the refusal direction.
        n_permutations: Label permutations; the smallest possible p is 1 / (n + 1).
        seed: Of the permutations.

    Returns:
        A row per layer in ``refusal``, with Benjamini-Hochberg over these rows.

    Raises:
        InputError: No layer is in both, a refusal vector is zero, or facets are too few.
    """
    hooks = [hook for hook in activations.hook_names if layer_of(hook) in refusal]
    wanted = Activations({hook: activations.values[hook] for hook in hooks}, activations.positions)
    trait = labelled_family(first, wanted, labels, groups, position)
    fixed = DirectionFamily(second, {hook: refusal[layer_of(hook)] for hook in hooks}, n_refusal)
    return direction_angles(
        trait, fixed, model=model, nulls=(PERMUTED,), n_null=n_permutations, seed=seed
    )


def principal_angles(
    basis_a: Float[np.ndarray, "k d_model"], basis_b: Float[np.ndarray, "m d_model"]
) -> Float64[np.ndarray, " smaller"]:
    """The min(k, m) principal angles between the rows' spans, in radians, smallest first.

    Source: Knyazev and Argentati 2002, SIAM J. Sci. Comput. 23:2008, as in
    `scipy.linalg.subspace_angles`.

    Raises:
        InputError: The vectors of a basis are linearly dependent or not finite.
    """
    one, two = orthonormal_rows(basis_a), orthonormal_rows(basis_b)
    angles: np.ndarray = linalg.subspace_angles(one.T, two.T)[::-1]
    return angles


def subspace_angles(
    first: Mapping[int, np.ndarray],
    second: Mapping[int, np.ndarray],
    *,
    names: tuple[str, str],
    model: ModelLabel,
    residuals: Mapping[int, np.ndarray] | None = None,
    nulls: Sequence[str] = RANDOM_NULLS,
    n_null: int = 500,
    seed: int = 0,
) -> list[SubspaceAngle]:
    """Overlap of two subspaces at each layer that both have, against random subspaces.

    Args:
        first: A basis [k, d_model] by layer, which the nulls stand in for.
        second: A basis by layer, held fixed.
        names: Names of the two.
        model: Label of the model.
        residuals: Activations [n, d_model] by layer, whose covariance one null has.
        nulls: Among `probes.nulls.RANDOM_NULLS`.
        n_null: Draws of each null; the smallest possible p is 2 / (n + 1).
        seed: Of the draws.

    Raises:
        InputError: No layer is in both, a basis is dependent, or activations are missing.
    """
    layers = [layer for layer in first if layer in second]
    if not layers:
        raise InputError("subspaces", f"no layer has both {names[0]!r} and {names[1]!r}")
    common: dict[str, Any] = {"model": model, "first": names[0], "second": names[1]}
    common |= {"n_null": n_null, "seed": seed, "p_adjusted": np.nan}
    rows = []
    for null, layer in product(nulls, layers):
        other = orthonormal_rows(second[layer])
        k, here = len(first[layer]), residuals_at(residuals, layer)
        draws = random_subspaces(null, other.shape[1], k, n_null, seed, here)
        place = common | {"layer": layer, "null": null}
        rows.append(_overlap(first[layer], other, draws, place))
    return adjusted(rows, family=lambda row: row.null)


def _overlap(
    basis: Float[np.ndarray, "k d_model"],
    other: Float64[np.ndarray, "m d_model"],
    draws: Float64[np.ndarray, "n_null k d_model"],
    place: dict[str, Any],
) -> SubspaceAngle:
    """The overlap at one layer beside that of random subspaces with the second."""
    cosines = np.cos(principal_angles(basis, other))
    overlap = float((cosines**2).mean())
    drawn = ((draws @ other.T) ** 2).sum(axis=(1, 2)) / len(cosines)
    found: dict[str, Any] = {"overlap": overlap, "largest_cosine": float(cosines.max())}
    found |= {"k_first": len(basis), "k_second": len(other)}
    found |= asdict(against_null(overlap, drawn, "either tail"))
    return SubspaceAngle(**found, **place)
