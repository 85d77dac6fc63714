"""Which directions of the residual stream a LoRA update reads from and writes into.

An update is scale * B A. Roles o and down write: their output lies in the residual stream. Roles
q, k, v, up and gate read: their input is the residual stream behind a norm, whose gain (and, in
LayerNorm, centring) is counted as part of the update, so that directions are those of the
residual stream itself. The full matrices are never made: with the QR decomposition of the factor
on the far side, the near side is a [d_model, rank] matrix with the same singular values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.lora import LoraAdapter
from lpa_interp.model import HookedTransformer
from lpa_interp.records import WeightAlignment
from probes.nulls import RANDOM_NULLS, adjusted, against_null, random_subspaces, residuals_at
from probes.subspaces import orthonormal_rows

Side = Literal["reads", "writes"]
SIDES: dict[str, Side] = {
    "q": "reads",
    "k": "reads",
    "v": "reads",
    "o": "writes",
    "up": "reads",
    "gate": "reads",
    "down": "writes",
}
"""How each role meets the residual stream."""
_NORMS = {role: "ln1" for role in ("q", "k", "v")} | {"up": "ln2", "gate": "ln2"}
_POST_NORMS = {"o": "ln1_post", "down": "ln2_post"}


@dataclass(frozen=True, slots=True)
class UpdateDirections:
    """Singular directions of one update on its residual side, the largest first.

    ``vectors`` [rank, d_model] have unit norm, ``sizes`` [rank] are the singular values.
    """

    layer: int
    role: str
    side: Side
    vectors: np.ndarray
    sizes: np.ndarray


def update_directions(model: HookedTransformer, adapter: LoraAdapter) -> list[UpdateDirections]:
    """The directions that each update reads from or writes into, by layer and role.

    Args:
        model: The model that the adapter is attached to.
        adapter: A trained adapter.

    Raises:
        InputError: An update is zero: the adapter has not been trained.
        NumericalError: A weight is not finite.
    """
    found = []
    for (layer, role), update in adapter.updates.items():
        factor = residual_factor(update.a, update.b, role) * update.scale
        if not np.isfinite(factor).all():
            raise NumericalError(f"the update of {role} in layer {layer} is NaN or infinite")
        if not factor.any():
            raise InputError(
                "adapter", f"the update of {role} in layer {layer} is zero", "train it"
            )
        seen = _through_norm(model, model.blocks[layer], role, factor)
        left, sizes, _ = np.linalg.svd(seen, full_matrices=False)
        found.append(UpdateDirections(layer, role, SIDES[role], left.T, sizes))
    return found


def residual_factor(
    a: Float[Tensor, "rank d_in"], b: Float[Tensor, "d_out rank"], role: str
) -> Float64[np.ndarray, "d_model r"]:
    """A matrix with the Gram matrix of B A on its residual side: F F^T equals (B A)(B A)^T.

    For reading roles it equals (B A)^T (B A).
    """
    near, far = (b, a.T) if SIDES[role] == "writes" else (a.T, b)
    triangle: np.ndarray = np.asarray(np.linalg.qr(_wide(far), mode="r"))
    factor: np.ndarray = _wide(near) @ triangle.T
    return factor


def _wide(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().to("cpu", torch.float64).numpy()
    return array


def _through_norm(
    model: HookedTransformer, block: nn.Module, role: str, factor: np.ndarray
) -> np.ndarray:
    """The factor with the gain of the norm between weight and residual stream."""
    norm = getattr(block, _NORMS.get(role) or _POST_NORMS[role], None)
    gain = getattr(norm, "w", None)
    seen = factor if gain is None else _wide(gain)[:, None] * factor
    if role in _NORMS and (model.cfg.normalization_type or "").startswith("LN"):
        seen = seen - seen.mean(axis=0)  # LayerNorm takes off the mean before its gain
    return seen


def weight_alignments(
    model: HookedTransformer,
    adapter: LoraAdapter,
    directions: Mapping[str, Mapping[int, np.ndarray]],
    *,
    residuals: Mapping[int, np.ndarray] | None = None,
    nulls: Sequence[str] = RANDOM_NULLS,
    n_null: int = 500,
    seed: int = 0,
) -> list[WeightAlignment]:
    """How much of each update lies along given directions, against random directions.

    Args:
        model: The model that the adapter is attached to.
        adapter: A trained adapter.
        directions: By name and layer, a vector [d_model] or a basis [k, d_model] of any norm. A
            layer that a name has no vector for gets no rows for it.
        residuals: Activations [n, d_model] of the residual stream by layer, whose covariance one
            null has.
        nulls: Among `probes.nulls.RANDOM_NULLS`.
        n_null: Draws of each null; the smallest possible p is 2 / (n + 1).
        seed: Of the draws.

    Returns:
        A row per null, direction, layer and role, with Benjamini-Hochberg over the layers and
        roles of one null and direction.

    Raises:
        InputError: A name meets no layer of the adapter, an update or a direction is zero, or
            activations are missing.
    """
    updates = update_directions(model, adapter)
    rows: list[WeightAlignment] = []
    for null, (name, by_layer) in product(nulls, directions.items()):
        met = sorted({update.layer for update in updates} & set(by_layer))
        if not met:
            raise InputError(f"direction {name!r}", "is at no layer that the adapter updates")
        for layer in met:
            basis = orthonormal_rows(np.atleast_2d(by_layer[layer]))
            read = residuals_at(residuals, layer)
            draws = random_subspaces(null, basis.shape[1], len(basis), n_null, seed, read)
            here = [update for update in updates if update.layer == layer]
            rows += [_row(update, name, basis, null, draws, seed) for update in here]
    return adjusted(rows, family=lambda row: (row.null, row.direction))


def _row(
    update: UpdateDirections,
    name: str,
    basis: Float64[np.ndarray, "k d_model"],
    null: str,
    draws: Float64[np.ndarray, "n_null k d_model"],
    seed: int,
) -> WeightAlignment:
    share = float(aligned_share(update, basis[None])[0])
    compared = against_null(share, aligned_share(update, draws), "either tail")
    return WeightAlignment(
        layer=update.layer,
        role=update.role,
        side=update.side,
        direction=name,
        k=len(basis),
        share=share,
        expected=len(basis) / basis.shape[1],
        null=null,
        p_adjusted=np.nan,
        rank=len(update.sizes),
        top_singular_share=float(update.sizes[0] ** 2 / (update.sizes**2).sum()),
        n_null=len(draws),
        seed=seed,
        **asdict(compared),
    )


def aligned_share(
    update: UpdateDirections, bases: Float64[np.ndarray, "n k d_model"]
) -> Float64[np.ndarray, " n"]:
    """The share of the update's squared Frobenius norm inside each subspace."""
    scaled = update.vectors.T * update.sizes
    shares: np.ndarray = ((bases @ scaled) ** 2).sum(axis=(1, 2)) / (update.sizes**2).sum()
    return shares
