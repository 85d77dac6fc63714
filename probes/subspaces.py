"""Subspaces of more than one dimension, and the erasure of all that is linear in a label.

Iterating mean differences stops after one: with the first projected out, the class means are
equal. Iterating logistic probes (INLP, arXiv 2004.07667) goes on, but with fewer texts than
dimensions each refit separates the noise perfectly. `top_k_subspace` therefore asks in how many
directions the *groups* (facets, kinds of harm) differ from the other class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.hooks import RESIDUAL_WRITERS, HookFunction, Intervention
from lpa_interp.model import HookedTransformer
from probes.groups import label_blocks


@dataclass(frozen=True, slots=True)
class Subspace:
    """Orthonormal rows ``basis`` [k, d_model], float64, the largest contrast first.

    ``shares`` [k] are the shares of the groups' squared contrasts that lie along them.
    """

    basis: np.ndarray
    shares: np.ndarray
    n: int
    n_groups: int


def orthonormal_rows(
    vectors: Float[np.ndarray, "k d_model"],
) -> Float64[np.ndarray, "k d_model"]:
    """An orthonormal basis of the rows' span, in float64.

    Raises:
        InputError: The rows are linearly dependent or not finite.
    """
    if not np.isfinite(vectors).all():
        raise InputError("subspace", "a basis vector is not finite")
    wide = vectors.astype(np.float64)
    if np.linalg.matrix_rank(wide) < len(wide):
        raise InputError("subspace", f"its {len(wide)} basis vectors are linearly dependent")
    basis: np.ndarray = np.linalg.qr(wide.T)[0].T
    return basis


def top_k_subspace(
    values: Float[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    k: int,
) -> Subspace:
    """The k directions that carry most of the groups' contrasts with the other class.

    Each group gives one contrast: its mean minus the mean of the negative class where its label
    is positive, the mean of the positive class minus its own where negative, weighted by the
    root of its size. The directions are the right singular vectors of these rows. The first is
    close to the mean difference; the others carry what groups of one class do not share, and
    where the class difference is one-dimensional they carry the groups' noise: compare them with
    a null (`probes.geometry.subspace_overlaps`).

    Args:
        values: Activations.
        labels: True for the positive class.
        groups: The group of each row, such as its facet.
        k: Number of directions.

    Raises:
        InputError: There are too few groups, or they span fewer than k directions.
    """
    blocks, block_labels = label_blocks(labels, groups)
    wide = values.astype(np.float64)
    positive, negative = wide[labels].mean(axis=0), wide[~labels].mean(axis=0)
    rows = []
    for block, label in enumerate(block_labels):
        members = wide[blocks == block]
        own = members.mean(axis=0)
        rows.append(np.sqrt(len(members)) * (own - negative if label else positive - own))
    _, sizes, right = np.linalg.svd(np.stack(rows), full_matrices=False)
    rank = int((sizes > sizes[0] * 1e-9).sum())
    if not 1 <= k <= rank:
        raise InputError("k", f"{k} directions of contrasts that span {rank}", f"1 to {rank}")
    signs = np.where(right[:k] @ (positive - negative) < 0, -1.0, 1.0)
    shares = sizes[:k] ** 2 / (sizes**2).sum()
    return Subspace(signs[:, None] * right[:k], shares, len(wide), len(block_labels))


@dataclass(frozen=True, slots=True)
class Eraser:
    """The affine map x - read . (x - mean) write; all three are [d_model], float64."""

    mean: np.ndarray
    read: np.ndarray
    write: np.ndarray

    def apply(self, x: Float[np.ndarray, "*n d_model"]) -> Float64[np.ndarray, "*n d_model"]:
        """The activations without what is linear in the label."""
        wide = x.astype(np.float64)
        erased: np.ndarray = wide - ((wide - self.mean) @ self.read)[..., None] * self.write
        return erased


def leace_eraser(values: Float[np.ndarray, "n d_model"], labels: Bool[np.ndarray, " n"]) -> Eraser:
    """The affine map after which no linear probe tells the classes apart, nearest to doing nothing.

    With W the pseudo-inverse root of the covariance and P the orthogonal projection onto the
    whitened cross-covariance of activations and label, x becomes x - W^+ P W (x - mean). A
    yes/no label has one cross-covariance vector, so that the map changes x along one direction.
    No shrinkage: the guarantee is exact on the texts it was fitted to. With fewer texts than
    dimensions it says little of others.

    Source: Belrose et al. 2023, arXiv 2306.03819, theorem 4.3.

    Raises:
        InputError: One class is empty.
        NumericalError: An activation is not finite.
    """
    if not 0 < labels.sum() < len(labels):
        raise InputError("labels", "all rows are of one class", "both classes are needed")
    if not np.isfinite(values).all():
        raise NumericalError("an activation to be erased is NaN or infinite")
    wide = values.astype(np.float64)
    mean = wide.mean(axis=0)
    # The singular values of the centred rows are the roots of the covariance's eigenvalues,
    # with twice the digits that an eigenvalue decomposition would leave.
    _, sizes, axes = np.linalg.svd(wide - mean, full_matrices=False)
    kept = sizes > sizes[0] * max(wide.shape) * np.finfo(np.float64).eps
    deviations, axes = sizes[kept] / np.sqrt(len(wide)), axes[kept]
    cross = (labels - labels.mean()) @ (wide - mean) / len(wide)
    whitened = axes @ cross / deviations
    length = np.linalg.norm(whitened)
    if length <= 1e-12:  # equal class means: there is nothing to erase
        return Eraser(mean, np.zeros_like(mean), np.zeros_like(mean))
    direction = whitened / length
    return Eraser(mean, (direction / deviations) @ axes, (direction * deviations) @ axes)


def erasure(eraser: Eraser, hook_name: str) -> Intervention:
    """Applies an eraser at every position of the hook point that it was fitted at."""
    mean, read, write = (
        torch.from_numpy(part).float() for part in (eraser.mean, eraser.read, eraser.write)
    )

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        along = (activation - mean.to(activation)) @ read.to(activation)
        return activation - along[..., None] * write.to(activation)

    return [(hook_name, hook_function)]


def project_out(basis: Float[Tensor, "k d_model"]) -> HookFunction:
    """Removes the component inside a subspace at every position; rows must be orthonormal."""

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        rows = basis.to(activation)
        return activation - (activation @ rows.T) @ rows

    return hook_function


def ablate_subspace(
    model: HookedTransformer, basis: Float[np.ndarray, "k d_model"]
) -> Intervention:
    """Cuts a subspace out of everything that writes into the residual stream.

    The subspace of one direction is `lpa_interp.hooks.ablation`.

    Args:
        model: The model that the hooks are for.
        basis: Linearly independent vectors of any norm.

    Raises:
        InputError: The vectors are linearly dependent or not finite.
    """
    cut = project_out(torch.from_numpy(orthonormal_rows(basis)).float())
    layers = range(model.cfg.n_layers)
    return [(f"blocks.{layer}.{site}", cut) for layer in layers for site in RESIDUAL_WRITERS]
