from __future__ import annotations

import numpy as np
import pytest

from lpa_interp.errors import InputError, NumericalError
from probes.controls import matched_bases, named_subspace, removed_norm_share, with_controls


def test_matched_draws_differ_and_reach_for_the_nearest_share_they_can() -> None:
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((40, 64)) * (6.0 / (1 + np.arange(64)))
    for k, most in ((1, 0.7), (4, 0.9)):  # what the first k axes hold
        noise = rng.standard_normal((5, k, 64))
        for share in (0.003, 0.2, 0.4, 0.95):
            bases = matched_bases(residuals, share, noise)
            removed = [removed_norm_share(residuals, basis) for basis in bases]
            if share < most:
                assert removed == pytest.approx([share] * 5, rel=1e-3)
            else:
                assert 0.5 < min(removed) <= max(removed) < 0.95
            np.testing.assert_allclose(bases @ bases.mT, np.eye(k)[None].repeat(5, 0), atol=1e-9)
            if share < 0.1:
                assert np.abs(bases[0] @ bases[1].T).max() < 0.9


def test_a_named_subspace_is_an_orthonormal_basis_of_its_vectors_span() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 32)) * np.array([[1.0], [10.0], [0.1]])
    found = named_subspace("trait", vectors)
    basis = found.bases[0]
    assert (found.k, found.bases.shape, found.control_of) == (3, (1, 3, 32), "")
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(vectors @ basis.T @ basis, vectors, atol=1e-12)
    assert named_subspace("trait", vectors[0]).k == 1


def test_controls_follow_their_subspace_and_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((40, 32)) * (6.0 / (1 + np.arange(32)))
    one = named_subspace("trait", rng.standard_normal((2, 32)))
    first, same, other = (with_controls([one], residuals, 5, seed) for seed in (0, 0, 1))
    assert [s.name for s in first] == ["trait", "random", "random_matched"]
    assert [s.bases.shape for s in first[1:]] == [(5, 2, 32)] * 2
    for before, again, changed in zip(first[1:], same[1:], other[1:], strict=True):
        assert before.control_of == "trait"
        assert np.array_equal(before.bases, again.bases)
        assert not np.allclose(before.bases, changed.bases)


def test_isotropic_controls_remove_their_dimension_s_share_on_average() -> None:
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((40, 32))
    subspace = named_subspace("trait", rng.standard_normal((4, 32)))
    even = with_controls([subspace], residuals, n_random=200)[1]
    removed = [removed_norm_share(residuals, basis) for basis in even.bases]
    assert np.mean(removed) == pytest.approx(4 / 32, rel=0.05)


def test_bad_vectors_names_and_activations_are_refused() -> None:
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(32)
    for bad in (np.stack([vector, 2 * vector]), np.zeros(32), np.full(32, np.nan)):
        with pytest.raises(InputError, match="dependent, zero or not finite"):
            named_subspace("trait", bad)
    with pytest.raises(InputError, match="that of a control"):
        named_subspace("random", vector)
    one = named_subspace("trait", vector)
    with pytest.raises(InputError, match="same name and dimension"):
        with_controls([one, one], rng.standard_normal((5, 32)))
    with pytest.raises(InputError, match="n_random"):
        with_controls([one], rng.standard_normal((5, 32)), n_random=0)
    for residuals in (np.full((3, 32), np.nan), np.zeros((3, 32))):
        with pytest.raises(NumericalError, match="residual stream"):
            removed_norm_share(residuals, one.bases[0])
