from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from lpa_interp.constraints import (
    CONSTRAINTS,
    ConstraintName,
    _check,
    bound_fraction,
    confine,
    l2_sequence,
    l2_token,
    linf,
    low_rank,
    orthonormal,
    project,
    same_norm_random,
    site_radius,
)
from lpa_interp.errors import InputError, NumericalError

NAMES: tuple[ConstraintName, ...] = get_args(ConstraintName)
BATCH, POS, D_MODEL = 3, 5, 8
RADIUS = 1.5
MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
SIDES = pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(scale: float = 1.0, seed: int = 0) -> Tensor:
    """A delta with tokens on both sides of the radius, and values outside the mask."""
    draws = generator(seed)
    sizes = torch.rand(BATCH, POS, 1, generator=draws, dtype=torch.float64)
    return scale * sizes * torch.randn(BATCH, POS, D_MODEL, generator=draws, dtype=torch.float64)


def exact_basis(k: int = 3) -> Tensor:
    directions = torch.randn(k, D_MODEL, generator=generator(7), dtype=torch.float64)
    return torch.linalg.qr(directions.T)[0].T.contiguous()


def inside_share(delta: Tensor, basis: Tensor) -> float:
    """Norm of the component in the span, over the whole norm."""
    return ((delta @ basis.T).norm() / delta.norm()).item()


def worst_angle(x: Tensor, nearest: Tensor, constraint: ConstraintName) -> float:
    """The largest <x - Px, y - Px> over all y in the set: 0 at most, if Px is the nearest point.

    The y that maximises <g, y> is known for each set: radius times a norm of g, the dual one.
    """
    g = (x - nearest) * MASK[..., None]
    most = {
        "l2_token": g.norm(dim=-1).sum(),
        "l2_sequence": g.norm(dim=(-2, -1)).sum(),
        "linf": g.abs().sum(),
    }[constraint]
    return (RADIUS * most - (g * nearest).sum()).item()


def test_every_name_has_a_projection() -> None:
    assert tuple(CONSTRAINTS) == NAMES


def test_l2_token_by_hand() -> None:
    delta = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [5.0, 5.0]]])
    expected = torch.tensor([[[1.2, 1.6], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0]]])
    assert torch.allclose(l2_token(delta, torch.tensor([[1, 1, 1, 0]]), 2.0), expected)


def test_l2_sequence_by_hand() -> None:
    delta = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[0.3, 0.0], [0.0, 0.4], [0, 0]]])
    expected = torch.tensor([[[1.2, 0.0], [0.0, 1.6], [0, 0]], [[0.3, 0.0], [0.0, 0.4], [0, 0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.allclose(l2_sequence(delta, mask, 2.0), expected)


def test_linf_by_hand() -> None:
    delta = torch.tensor([[[3.0, -0.5], [-7.0, 2.0], [9.0, 9.0]]])
    expected = torch.tensor([[[2.0, -0.5], [-2.0, 2.0], [0.0, 0.0]]])
    assert torch.equal(linf(delta, torch.tensor([[1, 1, 0]]), 2.0), expected)


@pytest.mark.parametrize("constraint", ["l2_token", "l2_sequence", "linf"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_the_convex_projections_give_the_nearest_point(
    constraint: ConstraintName, scale: float
) -> None:
    for seed in range(3):
        x = noise(scale, seed)
        assert worst_angle(x, project(x, MASK, RADIUS, constraint), constraint) < 1e-9


def test_the_nearest_point_check_rejects_other_points_of_the_set() -> None:
    x = noise(10.0)
    shrunk = project(x, MASK, RADIUS, "linf", exact_basis(D_MODEL))
    assert shrunk.abs().max() <= RADIUS * (1 + 1e-9)
    assert worst_angle(x, shrunk, "linf") > 1
    assert worst_angle(x, l2_token(x, MASK, 0.9 * RADIUS), "l2_token") > 1
    assert worst_angle(x, l2_sequence(x, MASK, RADIUS), "l2_token") > 1


@pytest.mark.parametrize("constraint", NAMES)
@pytest.mark.parametrize("subspace", ["none", "inside", "outside"])
def test_projection_is_idempotent(constraint: ConstraintName, subspace: str) -> None:
    basis = None if subspace == "none" else exact_basis()
    once = project(noise(3.0), MASK, RADIUS, constraint, basis, subspace == "inside")
    twice = project(once, MASK, RADIUS, constraint, basis, subspace == "inside")
    assert once.norm() > 1
    assert torch.allclose(once, twice, rtol=0, atol=1e-12)


@pytest.mark.parametrize("constraint", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_projection_is_zero_outside_the_mask_and_writes_into_nothing(
    constraint: ConstraintName, dtype: torch.dtype, kind: torch.dtype
) -> None:
    # The first delta is inside every set: nothing to do is no reason to return the same tensor.
    for scale in (1e-3, 3.0):
        delta, mask = noise(scale).to(dtype), MASK.to(kind)
        before = delta.clone()
        for basis in (None, exact_basis()):
            out = project(delta, mask, RADIUS, constraint, basis)
            assert out.dtype == dtype and out.shape == delta.shape
            assert (out[MASK == 0] == 0).all() and (out[MASK == 1] != 0).any()
            assert out.data_ptr() != delta.data_ptr() and torch.equal(delta, before)


@pytest.mark.parametrize("constraint", NAMES)
def test_an_attack_that_has_not_moved_yet_stays_at_zero(constraint: ConstraintName) -> None:
    zero = torch.zeros(BATCH, POS, D_MODEL, requires_grad=True)
    for basis in (None, exact_basis()):
        out = project(zero, MASK, RADIUS, constraint, basis)
        assert (out == 0).all() and not out.requires_grad


def test_low_rank_is_the_truncated_svd_where_no_token_is_too_long() -> None:
    x = noise()
    out = low_rank(x, MASK, 100.0)
    for example, mask, found in zip(x.numpy(), MASK.numpy(), out.numpy(), strict=True):
        u, s, vt = np.linalg.svd(example * mask[:, None])
        assert np.allclose(found, s[0] * np.outer(u[:, 0], vt[0]), atol=1e-12)


def test_low_rank_bounds_every_token_and_keeps_rank_one() -> None:
    out = low_rank(noise(10.0), MASK, RADIUS)
    singular = torch.linalg.svdvals(out)
    assert (singular[:, 0] > RADIUS).all() and singular[:, 1:].max() < 1e-12
    assert out.norm(dim=-1).max() <= RADIUS * (1 + 1e-12)
    assert bound_fraction(out, MASK, RADIUS, "low_rank") > 0.5
    assert torch.equal(out, low_rank(noise(10.0), MASK, RADIUS))


@SIDES
@pytest.mark.parametrize("constraint", NAMES)
def test_both_the_subspace_and_the_constraint_hold(
    constraint: ConstraintName, inside: bool
) -> None:
    basis, x = exact_basis(), noise(10.0)
    out = project(x, MASK, RADIUS, constraint, basis, inside)
    assert inside_share(x, basis) == pytest.approx(0.6, abs=0.2)
    assert inside_share(out, basis) == pytest.approx(1.0 if inside else 0.0, abs=1e-12)
    assert torch.allclose(out, CONSTRAINTS[constraint](out, MASK, RADIUS), rtol=0, atol=1e-12)
    assert bound_fraction(out, MASK, RADIUS, constraint, basis) > 0.5


def test_clipping_would_leave_the_subspace() -> None:
    basis = exact_basis()
    clipped = linf(confine(noise(10.0), basis), MASK, RADIUS)
    assert inside_share(clipped, basis) < 0.98


def test_confining_splits_a_perturbation_into_two_orthogonal_parts() -> None:
    x, basis = noise(), exact_basis()
    within, without = confine(x, basis), confine(x, basis, inside=False)
    assert torch.allclose(within + without, x)
    assert (within * without).sum(-1).abs().max() < 1e-12
    axis = torch.tensor([[1.0, 0.0]])
    delta = torch.tensor([[[3.0, 4.0]]])
    assert confine(delta, axis).tolist() == [[[3.0, 0.0]]]
    assert confine(delta, axis, inside=False).tolist() == [[[0.0, 4.0]]]


def test_a_subspace_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(InputError, match="basis"):
        confine(noise(), exact_basis(D_MODEL), inside=False)
    with pytest.raises(InputError, match="basis"):
        confine(noise(), torch.zeros(0, D_MODEL))
    assert torch.allclose(confine(noise(), exact_basis(D_MODEL)), noise())


def test_orthonormal_rows_span_the_directions_whatever_their_norms() -> None:
    directions = torch.randn(3, D_MODEL, generator=generator())
    directions *= torch.tensor([[1e-6], [1.0], [1e4]])
    basis = orthonormal(directions)
    assert basis.shape == (3, D_MODEL) and basis.dtype == torch.float32
    assert torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-6)
    for direction in directions:
        assert inside_share(direction, basis) == pytest.approx(1.0, abs=1e-5)


def test_orthonormal_counts_rounding_as_no_direction() -> None:
    one, other = torch.randn(2, D_MODEL, generator=generator())
    parallel = torch.stack([one, one / 3, -7 * one, torch.zeros(D_MODEL)])
    assert orthonormal(parallel).shape == (1, D_MODEL)
    assert orthonormal(torch.stack([one, other, one + other])).shape == (2, D_MODEL)
    # Nearly parallel, but by more than float32 rounds.
    assert orthonormal(torch.stack([one, one + 1e-3 * other])).shape == (2, D_MODEL)
    assert orthonormal(torch.randn(20, D_MODEL, generator=generator())).shape == (D_MODEL, D_MODEL)


def test_orthonormal_refuses_what_spans_nothing() -> None:
    for nothing in (torch.zeros(2, D_MODEL), torch.zeros(0, D_MODEL)):
        with pytest.raises(InputError, match="directions: all are zero"):
            orthonormal(nothing)
    with pytest.raises(NumericalError):
        orthonormal(torch.full((2, D_MODEL), torch.nan))


def test_site_radius_by_hand() -> None:
    found = {name: site_radius(name, 0.5, 6.0, 9.0, 16) for name in NAMES}
    assert found == {"l2_token": 3.0, "l2_sequence": 9.0, "linf": 0.75, "low_rank": 3.0}


def test_radii_of_one_epsilon_mean_one_budget() -> None:
    full = torch.ones(1, 4, dtype=torch.int64)
    radii = {name: site_radius(name, 0.5, 6.0, 4.0, D_MODEL) for name in NAMES}
    corners = linf(torch.full((1, 4, D_MODEL), 1e9), full, radii["linf"])
    assert corners.norm(dim=-1)[0].tolist() == pytest.approx([radii["l2_token"]] * 4)
    assert corners.norm().item() == pytest.approx(radii["l2_sequence"])


def test_bound_fraction_counts_tokens_examples_and_coordinates() -> None:
    delta = torch.tensor(
        [
            [[1.0, 0.0], [0.0, -0.995], [0.6, 0.6], [9.0, 9.0]],
            [[0.1, 0.0], [0.0, 0.1], [9.0, 9.0], [9.0, 9.0]],
            [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]],
        ]
    )
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    for dtype in (torch.int64, torch.bool):
        found = {name: bound_fraction(delta, mask.to(dtype), 1.0, name) for name in NAMES}
        assert found == pytest.approx(
            {"l2_token": 0.4, "low_rank": 0.4, "l2_sequence": 0.5, "linf": 0.2}
        )
    assert bound_fraction(delta, mask, 1.02, "l2_token") == 0
    assert bound_fraction(delta, mask, 1.0, "linf", torch.eye(2)) == pytest.approx(0.4)


@SIDES
@pytest.mark.parametrize("constraint", NAMES)
@pytest.mark.parametrize("confined", [False, True], ids=["whole", "subspace"])
def test_the_random_control_differs_from_the_attack_in_direction_only(
    constraint: ConstraintName, confined: bool, inside: bool
) -> None:
    basis = exact_basis() if confined else None
    delta = project(noise(3.0), MASK, RADIUS, constraint, basis, inside)
    delta[0, 1] = 0
    before = delta.clone()
    control = same_norm_random(delta, MASK, RADIUS, constraint, generator(), basis, inside)
    again = same_norm_random(delta, MASK, RADIUS, constraint, generator(), basis, inside)
    other = same_norm_random(delta, MASK, RADIUS, constraint, generator(1), basis, inside)
    assert torch.equal(control, again) and not torch.allclose(control, other)
    assert torch.equal(delta, before) and (control[MASK == 0] == 0).all()
    assert (control[0, 1] == 0).all()
    projected = project(control, MASK, RADIUS, constraint, basis, inside)
    assert torch.allclose(control, projected, rtol=0, atol=1e-12)
    if constraint == "linf" and confined:
        assert (control.norm(dim=-1) <= delta.norm(dim=-1) + 1e-12).all()
    else:
        assert torch.allclose(control.norm(dim=-1), delta.norm(dim=-1), atol=1e-12)
    if basis is not None:
        assert inside_share(control, basis) == pytest.approx(1.0 if inside else 0.0, abs=1e-12)


def test_the_low_rank_control_keeps_the_coefficients_and_changes_the_direction() -> None:
    delta = low_rank(noise(3.0), MASK, RADIUS)
    control = same_norm_random(delta, MASK, RADIUS, "low_rank", generator())
    assert torch.linalg.svdvals(control)[:, 1:].max() < 1e-12
    # The same inner products among an example's tokens: the same c c^T, signs included.
    assert torch.allclose(control @ control.mT, delta @ delta.mT, atol=1e-12)
    cosine = torch.nn.functional.cosine_similarity(control.flatten(1), delta.flatten(1))
    assert cosine.abs().max() < 0.9


def test_the_linf_control_changes_half_of_the_signs_and_no_magnitude() -> None:
    mask = torch.ones(4, 50, dtype=torch.int64)
    delta = torch.rand(4, 50, 20, generator=generator()) + 0.1
    control = same_norm_random(delta, mask, 2.0, "linf", generator())
    assert torch.equal(control.abs(), delta)
    # 4,000 signs: five standard errors are 0.04.
    assert (control > 0).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_random_directions_have_no_preferred_one() -> None:
    mask = torch.ones(40, 50, dtype=torch.int64)
    delta = torch.zeros(40, 50, 4, dtype=torch.float64)
    delta[..., 0] = 1.0
    control = same_norm_random(delta, mask, 1.0, "l2_token", generator()).flatten(0, 1)
    # 2,000 unit vectors in 4 dimensions: a coordinate has mean 0 and mean square 1/4.
    assert control.mean(0).abs().max() < 5 * (0.25 / 2000) ** 0.5
    assert (control.mT @ control / 2000 - torch.eye(4) / 4).abs().max() < 0.03


def test_user_mistakes_are_named() -> None:
    # Not through a public function: the type checker of the tests would stop it at the door.
    with pytest.raises(
        InputError, match=r"'l1' is not known \(l2_token, l2_sequence, linf, low_rank"
    ):
        _check("l1", RADIUS)
    with pytest.raises(InputError, match="radius"):
        project(noise(), MASK, 0.0, "linf")
    with pytest.raises(InputError, match="radius"):
        site_radius("l2_sequence", 0.5, 6.0, 0.0, 16)
    with pytest.raises(InputError, match="no token is attacked"):
        bound_fraction(noise(), torch.zeros_like(MASK), 1.0, "l2_token")


@pytest.mark.parametrize("constraint", NAMES)
def test_what_is_not_finite_stops_the_run(constraint: ConstraintName) -> None:
    broken = noise()
    broken[0, 0, 0] = torch.nan
    with pytest.raises(NumericalError):
        project(broken, MASK, RADIUS, constraint)
    with pytest.raises(NumericalError):
        bound_fraction(broken, MASK, RADIUS, constraint)
    with pytest.raises(NumericalError):
        same_norm_random(broken, MASK, RADIUS, constraint, generator())
    with pytest.raises(NumericalError):
        site_radius(constraint, 0.5, float("nan"), 9.0, 16)
