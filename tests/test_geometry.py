from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from lpa_interp.errors import InputError
from probes.geometry import trait_refusal_angles, two_sided_p
from tests.planted import HOOK, grouped_data, one_hook


def p_value(seed: int, permuted_by: list[str] | None = None) -> float:
    """Of labels that mean nothing, where facets differ along the refusal direction."""
    rng = np.random.default_rng(seed)
    refusal = rng.standard_normal(32)
    offsets = np.repeat(rng.standard_normal(16), 8)[:, None] * 0.3 * refusal
    facets = [str(index // 8) for index in range(128)]
    labels = np.repeat(rng.permutation(np.arange(16) < 8), 8)
    rows = trait_refusal_angles(
        one_hook(rng.standard_normal((128, 32)) + offsets),
        labels,
        permuted_by or facets,
        {0: refusal},
        model="base",
        n_refusal=10,
        n_permutations=199,
        seed=seed,
    )
    return rows[0].p_value


def test_p_values_under_the_null_are_below_five_per_cent_five_per_cent_of_the_time() -> None:
    p_values = np.array([p_value(seed) for seed in range(200)])
    # Two-sided 99.9 % tolerance around 5 % and 50 %.
    assert binomtest(int((p_values <= 0.05).sum()), 200, 0.05).pvalue > 0.001
    assert binomtest(int((p_values <= 0.5).sum()), 200, 0.5).pvalue > 0.001


def test_permuting_statements_instead_of_facets_would_find_too_much() -> None:
    every_statement = [str(index) for index in range(128)]
    p_values = np.array([p_value(seed, every_statement) for seed in range(200)])
    assert (p_values <= 0.05).mean() > 0.1


def test_a_planted_angle_is_found_and_has_the_right_sign() -> None:
    activations, labels, groups, direction = grouped_data(0, strength=2.0, n_groups=40)
    for sign in (1, -1):
        row = trait_refusal_angles(
            activations, labels, groups, {0: 7 * sign * direction}, model="base", n_refusal=10
        )[0]
        assert sign * row.cosine > 0.8 and row.p_value == pytest.approx(1 / 501)
        assert row.null_low < 0 < row.null_high < 0.8
        assert (row.n_first, row.n_second, row.hook_name) == (120, 10, HOOK)


def test_cosines_equal_those_of_explicit_directions_and_p_is_adjusted_over_layers() -> None:
    activations, labels, groups, _ = grouped_data(5, strength=0.3)
    more = one_hook(activations.at(HOOK)[:, ::-1], "blocks.1.hook_resid_pre")
    both = type(activations)({**activations.values, **more.values}, (-1,))
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
        assert row.p_adjusted >= row.p_value
    assert max(row.p_adjusted for row in rows) == max(row.p_value for row in rows)


def test_p_is_never_zero_and_counts_the_observed_value() -> None:
    assert two_sided_p(2.0, np.zeros(99)) == 0.01
    assert two_sided_p(-1.0, np.array([1.0, -1.0, 0.5])) == 0.75


def test_a_zero_vector_and_a_mapping_without_common_layers_are_refused() -> None:
    activations, labels, groups, _ = grouped_data(0, strength=0.0)
    for refusal, message in (({0: np.zeros(32)}, "zero"), ({3: np.ones(32)}, "no layer")):
        with pytest.raises(InputError, match=message):
            trait_refusal_angles(activations, labels, groups, refusal, model="base", n_refusal=1)
