"""Angles between trait and refusal directions, against permuted trait labels.

A cosine of 0.3 means nothing by itself: activations are anisotropic, and any two contrasts
share the large directions. The null keeps the activations and the refusal direction, and
permutes which facets are called positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from statsmodels.stats.multitest import multipletests

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import DirectionAngle, ModelLabel
from probes.activations import Activations
from probes.groups import contrast_weights, permuted_labels


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
    """Cosine of the mean-difference trait direction and the refusal direction at each layer.

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
    names = [name for name in activations.hook_names if layer_of(name) in refusal]
    if not names:
        raise InputError("refusal", "no layer has both trait activations and a refusal vector")
    permuted = permuted_labels(labels, groups, n_permutations, np.random.default_rng(seed))
    cosines = [
        _cosines(activations.at(name, position), labels, permuted, refusal[layer_of(name)])
        for name in names
    ]
    p_values = [two_sided_p(cosine, null) for cosine, null in cosines]
    adjusted = multipletests(p_values, method="fdr_bh")[1]
    about: dict[str, Any] = {"model": model, "first": first, "second": second, "seed": seed}
    return [
        DirectionAngle(
            hook_name=name,
            layer=layer_of(name),
            cosine=cosine,
            null="labels permuted by facet",
            null_low=float(np.percentile(null, 2.5)),
            null_high=float(np.percentile(null, 97.5)),
            p_value=p_value,
            p_adjusted=float(p_adjusted),
            n_permutations=n_permutations,
            n_first=len(labels),
            n_second=n_refusal,
            **about,
        )
        for name, (cosine, null), p_value, p_adjusted in zip(
            names, cosines, p_values, adjusted, strict=True
        )
    ]


def _cosines(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    permuted: Bool[np.ndarray, "n_permutations n"],
    vector: Float[np.ndarray, " d_model"],
) -> tuple[float, Float64[np.ndarray, " n_permutations"]]:
    """The cosine under the true labels, and under each permutation.

    All directions are linear in the activations: products with their Gram matrix [n, n] give
    the norms without making a direction [d_model] per permutation.
    """
    norm = np.linalg.norm(vector.astype(np.float64))
    if norm == 0:
        raise InputError("refusal", "a refusal vector is zero", "leave its layer out")
    # Weights sum to zero, so centring changes nothing but the rounding.
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    weights = contrast_weights(np.concatenate([labels[None], permuted]))
    norms = np.sqrt(np.einsum("kn,nm,km->k", weights, centred @ centred.T, weights, optimize=True))
    cosines = weights @ (centred @ vector) / (norms * norm)
    return float(cosines[0]), cosines[1:]


def two_sided_p(value: float, null: Float64[np.ndarray, " n_permutations"]) -> float:
    """Share of the null at least as far from zero, counting the observed value itself.

    Source: Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39 (add one, never zero).
    """
    # A permutation that repeats the true labels differs in the last bits only.
    extreme = np.abs(null) >= abs(value) - 1e-12
    return float((1 + extreme.sum()) / (1 + len(null)))
