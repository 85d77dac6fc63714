"""The sets that a latent perturbation is confined to, and its random control.

``mask`` is 1 at the tokens that may be perturbed, ``radius`` is in activation units. `project`
is the entry point: to a subspace first, if one is given, and then into the constraint's set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import scipy.linalg
import torch
from jaxtyping import Bool, Float, Float32, Integer
from torch import Tensor
from torch.nn.functional import normalize

from lpa_interp.errors import InputError, NumericalError

Delta = Float[Tensor, "batch pos d_model"]
Mask = Integer[Tensor, "batch pos"] | Bool[Tensor, "batch pos"]
Basis = Float[Tensor, "k d_model"]
Projection = Callable[[Tensor, Tensor, float], Tensor]
"""(delta, mask, radius) -> a new delta, zero outside the mask and inside the set."""
ConstraintName = Literal["l2_token", "l2_sequence", "linf", "low_rank"]

BOUND_TOLERANCE = 0.01
"""A unit is at its bound when its size lies within this share of the radius."""
RANK_TOLERANCE = 1e-5
"""Singular values of unit directions below this share of the largest are rounding of float32."""


def l2_token(delta: Delta, mask: Mask, radius: float) -> Delta:
    """Nearest point with every token's L2 norm <= radius. Source: arXiv 2407.15549, section 3."""
    delta = _masked(delta, mask)
    return _shrink(delta, delta.norm(dim=-1, keepdim=True), radius)


def l2_sequence(delta: Delta, mask: Mask, radius: float) -> Delta:
    """Nearest point with every example's L2 norm, over tokens and coordinates, <= radius."""
    delta = _masked(delta, mask)
    return _shrink(delta, delta.norm(dim=(-2, -1), keepdim=True), radius)


def linf(delta: Delta, mask: Mask, radius: float) -> Delta:
    """Nearest point with every coordinate in [-radius, radius]. Source: arXiv 1706.06083."""
    return _masked(delta, mask).clamp(-radius, radius)


def low_rank(delta: Delta, mask: Mask, radius: float) -> Delta:
    """One direction per example, delta[b, t] = c[b, t] v[b], and every token's norm <= radius.

    The nearest matrix of rank 1 over the attacked tokens, u u^T delta with u the first left
    singular vector; tokens longer than the radius are then shrunk, which keeps the rank. A
    feasible point: not always the nearest one of rank 1 inside the ball.
    Source: Eckart and Young 1936, Psychometrika 1:211.
    """
    delta = _masked(delta, mask)
    u = _first_left_singular(delta)[..., None]
    # u is zero outside the mask up to rounding only; `l2_token` masks once more.
    return l2_token(u * (u.mT @ delta), mask, radius)


CONSTRAINTS: dict[ConstraintName, Projection] = {
    "l2_token": l2_token,
    "l2_sequence": l2_sequence,
    "linf": linf,
    "low_rank": low_rank,
}


@torch.no_grad()
def project(
    delta: Delta,
    mask: Mask,
    radius: float,
    constraint: ConstraintName,
    basis: Basis | None = None,
    inside: bool = True,
) -> Delta:
    """A new delta that is zero outside the mask, in the subspace and in the constraint's set.

    The L2 and rank projections only scale and add tokens, so that what was confined first stays
    in the subspace; for both L2 sets the result is the nearest point of the intersection.
    Clipping would leave the subspace: under ``linf`` with a basis each token is shrunk as a
    whole until its largest coordinate is within the radius, feasible but not nearest.

    Raises:
        InputError: The constraint is unknown, the radius not positive, the subspace empty.
        NumericalError: Delta or the radius is not finite.
    """
    _check(constraint, radius, delta)
    if basis is not None:
        delta = _masked(confine(delta, basis, inside), mask)
        if constraint == "linf":
            return _shrink(delta, delta.abs().amax(dim=-1, keepdim=True), radius)
    return CONSTRAINTS[constraint](delta, mask, radius)


def confine(delta: Delta, basis: Basis, inside: bool = True) -> Delta:
    """The component of each token in the span of orthonormal rows, or what is left without it.

    Raises:
        InputError: Nothing can be left: no rows inside, or d_model rows outside.
    """
    k, d_model = basis.shape
    if k == (0 if inside else d_model):
        raise InputError("basis", f"{k} of {d_model} directions with inside={inside} leave nothing")
    component = (delta @ basis.to(delta).mT) @ basis.to(delta)
    return component if inside else delta - component


def orthonormal(directions: Float[Tensor, "n d_model"]) -> Float32[Tensor, "k d_model"]:
    """Orthonormal rows that span the directions, k their rank; on the directions' device.

    Directions are scaled to unit length first, so that the rank does not depend on their norms.

    Raises:
        InputError: All directions are zero, or there are none.
        NumericalError: A direction is not finite.
    """
    if not torch.isfinite(directions).all():
        raise NumericalError("a direction of the subspace is not finite")
    units = normalize(directions.detach().cpu().double(), dim=-1, eps=1e-300)
    if not units.any():
        raise InputError("directions", "all are zero", "at least one that is not")
    basis = scipy.linalg.orth(units.mT.numpy(), rcond=RANK_TOLERANCE).T
    return torch.tensor(basis, dtype=torch.float32, device=directions.device)


def site_radius(
    constraint: ConstraintName, epsilon: float, norm: float, n_tokens: float, d_model: int
) -> float:
    """Radius of the set in activation units, for epsilon in units of ``norm``.

    ``norm`` is the site's median activation norm (L2 per token), ``n_tokens`` the mean number of
    attacked tokens per example. ``l2_token`` and ``low_rank`` bound each token by epsilon norm;
    ``l2_sequence`` allows the same mean square per token: sqrt(n_tokens) times that; ``linf`` is
    the cube whose corners have that norm, inscribed in the token's ball: over sqrt(d_model).

    Raises:
        InputError, NumericalError: As `project`.
    """
    scales = {"l2_sequence": n_tokens**0.5, "linf": d_model**-0.5}
    radius = epsilon * norm * scales.get(constraint, 1.0)
    _check(constraint, radius)
    return radius


def bound_fraction(
    delta: Delta, mask: Mask, radius: float, constraint: ConstraintName, basis: Basis | None = None
) -> float:
    """Share of the constrained units whose size is at least 99 % of the radius.

    Units are attacked tokens for ``l2_token`` and ``low_rank``, examples with an attacked token
    for ``l2_sequence`` and coordinates of attacked tokens for ``linf``; but tokens, by their
    largest coordinate, for ``linf`` with a basis, where `project` shrinks tokens as a whole.

    Raises:
        InputError, NumericalError: As `project`, or no token is attacked.
    """
    _check(constraint, radius, delta)
    attacked = mask.bool()
    if not attacked.any():
        raise InputError("mask", "no token is attacked", "at least one")
    if constraint == "l2_sequence":
        sizes = _masked(delta, mask).norm(dim=(-2, -1))[attacked.any(dim=-1)]
    elif constraint == "linf":
        sizes = delta[attacked].abs() if basis is None else delta[attacked].abs().amax(dim=-1)
    else:
        sizes = delta.norm(dim=-1)[attacked]
    return (sizes >= (1 - BOUND_TOLERANCE) * radius).float().mean().item()


@torch.no_grad()
def same_norm_random(
    delta: Delta,
    mask: Mask,
    radius: float,
    constraint: ConstraintName,
    generator: torch.Generator,
    basis: Basis | None = None,
    inside: bool = True,
) -> Delta:
    """The control: a random perturbation with the L2 norm of delta at every attacked token.

    Directions are standard normal, in the subspace if one is given: one per token, or one per
    example for ``low_rank``, which keeps delta's signs. Under ``linf`` delta's coordinates get
    random signs instead, which stay in the cube; with a basis, random directions are shrunk into
    it and norms can be smaller. ``generator`` is on the CPU: one draw for all devices.

    Raises:
        InputError, NumericalError: As `project`, which delta should have come from.
    """
    _check(constraint, radius, delta)
    delta = _masked(delta, mask)
    if constraint == "linf" and basis is None:
        return delta.abs() * (2 * torch.randint(2, delta.shape, generator=generator) - 1).to(delta)
    shape = (len(delta), 1 if constraint == "low_rank" else delta.shape[1], delta.shape[2])
    noise = torch.randn(shape, generator=generator, dtype=delta.dtype).to(delta.device)
    noise = noise if basis is None else confine(noise, basis, inside)
    random = delta.norm(dim=-1, keepdim=True) * normalize(noise, dim=-1)
    if constraint == "low_rank":
        random = torch.where(_first_left_singular(delta)[..., None] < 0, -random, random)
    return project(random, mask, radius, "linf", basis, inside) if constraint == "linf" else random


def _masked(delta: Delta, mask: Mask) -> Delta:
    return torch.where(mask.bool()[..., None], delta, 0)


def _shrink(delta: Delta, size: Tensor, radius: float) -> Delta:
    return delta * torch.where(size > radius, radius / size, 1)


def _first_left_singular(delta: Delta) -> Float[Tensor, "batch pos"]:
    # The Gram matrix [pos, pos] is small, and float64 is not on every device.
    gram = (delta @ delta.mT).detach().cpu().double()
    return torch.linalg.eigh(gram).eigenvectors[..., -1].to(delta.dtype).to(delta.device)


def _check(constraint: str, radius: float, delta: Tensor | None = None) -> None:
    if constraint not in CONSTRAINTS:
        raise InputError("constraint", f"{constraint!r} is not known", ", ".join(CONSTRAINTS))
    if not math.isfinite(radius) or (delta is not None and not torch.isfinite(delta).all()):
        raise NumericalError(f"the perturbation or its radius ({radius}) is not finite")
    if radius <= 0:
        raise InputError("radius", f"{radius} is not allowed", "must be greater than 0")
