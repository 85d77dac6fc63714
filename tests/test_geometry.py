from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from lpa_interp.errors import InputError
from lpa_interp.records import Direction
from probes.activations import Activations
from probes.families import DirectionFamily, direction_family, labelled_family
from probes.geometry import (
    direction_angles,
    principal_angles,
    subspace_angles,
    trait_refusal_angles,
)
from probes.nulls import COVARIANCE, NULLS, PERMUTED, RANDOM
from tests.levels import false_positive_rate, keeps_its_level
from tests.planted import HOOK, grouped_data, one_hook

D_MODEL = 32
SCALES = np.where(np.arange(D_MODEL) < 2, 10.0, 1.0)
ANISOTROPIC = np.linalg.qr(np.random.default_rng(9).standard_normal((D_MODEL, D_MODEL)))[0]


def anisotropic(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Vectors with two large directions, as residual streams have them."""
    return (rng.standard_normal((*shape, D_MODEL)) * SCALES) @ ANISOTROPIC


def fixed(vector: np.ndarray, name: str = "refusal", hook: str = HOOK) -> DirectionFamily:
    return DirectionFamily(name, {hook: vector}, 10)


def two_layers(activations: Activations) -> Activations:
    """The activations, and the same with their dimensions reversed at the next layer."""
    more = one_hook(activations.at(HOOK)[:, ::-1], "blocks.1.hook_resid_pre")
    return Activations({**activations.values, **more.values}, (-1,))


def facet_p(seed: int, permuted_by: list[str] | None = None) -> float:
    """Of labels that mean nothing, where facets differ along the refusal direction."""
    rng = np.random.default_rng(seed)
    refusal = rng.standard_normal(D_MODEL)
    offsets = np.repeat(rng.standard_normal(16), 8)[:, None] * 0.3 * refusal
    facets = [str(index // 8) for index in range(128)]
    labels = np.repeat(rng.permutation(np.arange(16) < 8), 8)
    rows = trait_refusal_angles(
        one_hook(rng.standard_normal((128, D_MODEL)) + offsets),
        labels,
        permuted_by or facets,
        {0: refusal},
        model="base",
        n_refusal=10,
        n_permutations=199,
        seed=seed,
    )
    return rows[0].p_value


def contrast_p(seed: int) -> dict[str, float]:
    """Of a contrast of nothing against a contrast of other texts, activations anisotropic."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(40) < 20)
    texts = one_hook(anisotropic(rng, 40))
    rows = direction_angles(
        labelled_family("trait", texts, labels, [str(index) for index in range(40)]),
        fixed(anisotropic(rng, 30).mean(axis=0)),
        model="base",
        residuals={HOOK: anisotropic(rng, 200)},
        n_null=199,
        seed=seed,
    )
    return {row.null: row.p_value for row in rows}


def test_p_values_under_the_null_are_below_five_per_cent_five_per_cent_of_the_time() -> None:
    assert keeps_its_level([facet_p(seed) for seed in range(200)])


def test_permuting_statements_instead_of_facets_would_find_too_much() -> None:
    every_statement = [str(index) for index in range(128)]
    assert false_positive_rate([facet_p(seed, every_statement) for seed in range(200)]) > 0.1


def test_in_anisotropic_activations_only_the_isotropic_null_finds_too_much() -> None:
    found = [contrast_p(seed) for seed in range(200)]
    assert keeps_its_level([row[PERMUTED] for row in found])
    assert keeps_its_level([row[COVARIANCE] for row in found])
    assert false_positive_rate([row[RANDOM] for row in found]) > 0.5


def test_a_planted_angle_is_found_and_has_the_right_sign() -> None:
    activations, labels, groups, direction = grouped_data(0, strength=2.0, n_groups=40)
    for sign in (1, -1):
        row = trait_refusal_angles(
            activations, labels, groups, {0: 7 * sign * direction}, model="base", n_refusal=10
        )[0]
        assert sign * row.cosine > 0.8 and row.p_value == pytest.approx(1 / 501)
        assert row.null_low < 0 < row.null_high < 0.8
        assert (row.n_first, row.n_second, row.hook_name) == (120, 10, HOOK)


def test_a_planted_angle_is_found_against_every_null() -> None:
    activations, labels, groups, direction = grouped_data(0, strength=2.0, n_groups=40)
    residuals = {HOOK: np.random.default_rng(1).standard_normal((200, D_MODEL))}
    rows = direction_angles(
        labelled_family("trait", activations, labels, groups),
        fixed(direction, "shift"),
        model="lpa",
        frame="base",
        residuals=residuals,
    )
    assert [row.null for row in rows] == list(NULLS)
    for row in rows:
        assert row.cosine > 0.8 > row.null_high and row.p_value == pytest.approx(1 / 501)
        assert (row.first, row.second, row.model, row.frame) == ("trait", "shift", "lpa", "base")
        assert row.n_permutations == 500


def test_cosines_equal_those_of_explicit_directions_and_p_is_adjusted_over_layers() -> None:
    activations, labels, groups, _ = grouped_data(5, strength=0.3)
    both = two_layers(activations)
    refusal = {0: np.arange(32.0), 1: np.ones(32), 7: np.ones(32)}
    rows = trait_refusal_angles(
        both, labels, groups, refusal, model="base", n_refusal=1, n_permutations=99
    )
    assert [row.layer for row in rows] == [0, 1]
    for row in rows:
        values = both.at(row.hook_name).astype(np.float64)
        trait = values[labels].mean(0) - values[~labels].mean(0)
        vector = refusal[row.layer]
        expected = trait @ vector / np.linalg.norm(trait) / np.linalg.norm(vector)
        assert row.cosine == pytest.approx(expected, abs=1e-9)
        assert row.p_adjusted >= row.p_value and row.frame == "base"
    assert max(row.p_adjusted for row in rows) == max(row.p_value for row in rows)


def test_p_is_adjusted_over_the_layers_of_each_null_by_itself() -> None:
    activations, labels, groups, direction = grouped_data(5, strength=0.3)
    both = two_layers(activations)
    trait = labelled_family("trait", both, labels, groups)
    other = DirectionFamily("refusal", dict.fromkeys(both.hook_names, direction), 3)
    residuals = {hook: both.at(hook) for hook in both.hook_names}
    rows = direction_angles(trait, other, model="base", residuals=residuals, n_null=99)
    for null in NULLS:
        own = [row for row in rows if row.null == null]
        expected = multipletests([row.p_value for row in own], method="fdr_bh")[1]
        assert [row.p_adjusted for row in own] == pytest.approx(list(expected))
        assert [row.hook_name for row in own] == list(both.hook_names)


def test_a_layer_that_is_not_compared_may_hold_equal_texts() -> None:
    activations, labels, groups, direction = grouped_data(0, strength=1.0)
    flat = one_hook(np.ones((len(labels), D_MODEL)), "blocks.1.hook_resid_pre")
    both = Activations({**activations.values, **flat.values}, (-1,))
    rows = trait_refusal_angles(both, labels, groups, {0: direction}, model="base", n_refusal=1)
    assert [row.layer for row in rows] == [0]
    with pytest.raises(InputError, match="same activations"):
        labelled_family("trait", both, labels, groups)


def test_fitted_directions_of_one_name_make_a_family() -> None:
    directions = [
        Direction(
            name=name,
            model="base",
            hook_name=f"blocks.{layer}.hook_resid_pre",
            layer=layer,
            position=-1,
            method="mean_difference",
            raw_norm=1.0,
            n=n,
            split="all",
            vector=np.eye(4, dtype=np.float32)[layer],
        )
        for name, layer, n in (("refusal", 0, 8), ("refusal", 1, 6), ("trait", 0, 9))
    ]
    family = direction_family(directions[:2])
    assert (family.name, family.n) == ("refusal", 6)
    assert list(family.vectors) == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    for wrong, message in ((directions, "names"), ([], "names"), ([directions[0]] * 2, "at one")):
        with pytest.raises(InputError, match=message):
            direction_family(wrong)


def test_what_cannot_be_compared_is_refused() -> None:
    activations, labels, groups, direction = grouped_data(0, strength=0.0)
    for refusal, message in (({0: np.zeros(32)}, "zero"), ({3: np.ones(32)}, "no layer")):
        with pytest.raises(InputError, match=message):
            trait_refusal_angles(activations, labels, groups, refusal, model="base", n_refusal=1)
    one, two = fixed(direction), fixed(direction, "shift")
    for options, message in (
        ({}, "no labels to permute"),
        ({"nulls": (COVARIANCE,)}, "needs activations"),
        ({"nulls": (COVARIANCE,), "residuals": {"elsewhere": np.eye(32)}}, "no activations at"),
    ):
        with pytest.raises(InputError, match=message):
            direction_angles(one, two, model="base", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one side"):
        labelled_family("trait", activations, labels | True, groups)


def test_principal_angles_are_those_of_the_planted_rotations() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0].T
    planted = np.array([0.1, 0.7, np.pi / 2])
    turned = np.cos(planted)[:, None] * axes[:3] + np.sin(planted)[:, None] * axes[3:6]
    mixed = np.random.default_rng(1).standard_normal((3, 3)) @ turned
    np.testing.assert_allclose(principal_angles(axes[:3], mixed), planted, atol=1e-9)
    np.testing.assert_allclose(principal_angles(axes[:1], axes[:3]), [0], atol=1e-9)
    with pytest.raises(InputError, match="dependent"):
        principal_angles(axes[[0, 0]], mixed)


def subspace_p(seed: int, shared: int = 0) -> dict[str, float]:
    """Of two spans of three contrasts each, with a number of directions in common."""
    rng = np.random.default_rng(seed)
    one, two = anisotropic(rng, 2, 3)
    two[:shared] = one[:shared]
    rows = subspace_angles(
        {4: one},
        {4: two, 5: two},
        names=("trait", "refusal"),
        model="base",
        residuals={4: anisotropic(rng, 200)},
        n_null=199,
        seed=seed,
    )
    return {row.null: row.p_value for row in rows}


def test_subspaces_of_nothing_meet_as_often_as_the_covariance_null_says() -> None:
    found = [subspace_p(seed) for seed in range(200)]
    assert keeps_its_level([row[COVARIANCE] for row in found])
    assert false_positive_rate([row[RANDOM] for row in found]) > 0.5


def test_a_shared_direction_of_two_subspaces_is_found() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 3, 64))
    two[0] = one.sum(axis=0)
    rows = subspace_angles(
        {4: one, 6: one},
        {4: two, 6: rng.standard_normal((2, 64))},
        names=("trait", "refusal"),
        model="base",
        residuals={layer: rng.standard_normal((300, 64)) for layer in (4, 6)},
    )
    assert [(row.layer, row.null) for row in rows[:2]] == [(4, RANDOM), (6, RANDOM)]
    for planted, other in (rows[:2], rows[2:]):
        assert planted.largest_cosine == pytest.approx(1) and planted.overlap > 1 / 3
        assert planted.p_value == pytest.approx(2 / 501) and planted.p_adjusted < 0.01
        assert other.p_value > 0.05 and (other.k_first, other.k_second) == (3, 2)
        assert other.null_low < other.overlap < other.null_high
    cosines = np.cos(principal_angles(one, two))
    assert rows[0].overlap == pytest.approx((cosines**2).mean())
    with pytest.raises(InputError, match="no layer"):
        subspace_angles({1: one}, {2: two}, names=("a", "b"), model="base")
    with pytest.raises(InputError, match="no activations at 1"):
        subspace_angles({1: one}, {1: two}, names=("a", "b"), model="base", residuals={2: one})
