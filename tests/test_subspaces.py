from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.hooks import ablation
from probes.geometry import subspace_angles
from probes.nulls import RANDOM
from probes.subspaces import (
    Eraser,
    ablate_subspace,
    erasure,
    leace_eraser,
    orthonormal_rows,
    project_out,
    top_k_subspace,
)
from tests.levels import keeps_its_level
from tests.planted import grouped_data
from tests.tiny import tiny_model

D_MODEL = 12


def two_kinds(
    seed: int, strength: float = 3.0, n_groups: int = 24
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Positive groups of two kinds, each off the negative class along an axis of its own."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((32, 2)))[0].T
    group_labels = np.arange(n_groups) % 2 == 0
    kinds = np.arange(n_groups) // 2 % 2
    values = rng.standard_normal((n_groups * 4, 32))
    labels = np.repeat(group_labels, 4)
    values += strength * labels[:, None] * axes[np.repeat(kinds, 4)]
    return values, labels, [f"kind{index // 4}" for index in range(len(labels))], axes


def correlated_data(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Balanced classes with correlated noise and a difference of means."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) < n // 2)
    noise = rng.standard_normal((n, D_MODEL)) @ rng.standard_normal((D_MODEL, D_MODEL))
    return noise + labels[:, None] * rng.standard_normal(D_MODEL) * 3 + 5, labels


def probe_auroc(values: np.ndarray, labels: np.ndarray) -> float:
    """AUROC in sample of a nearly unpenalised logistic regression."""
    scaled = (values - values.mean(0)) / values.std(0)
    probe = LogisticRegression(C=1e6, max_iter=2000).fit(scaled, labels)
    return float(roc_auc_score(labels, probe.decision_function(scaled)))


def test_two_planted_directions_are_found_where_a_mean_difference_sees_one() -> None:
    values, labels, groups, axes = two_kinds(0, strength=6.0)
    found = top_k_subspace(values, labels, groups, 2)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(2), atol=1e-12)
    captured = ((axes @ found.basis.T) ** 2).sum(axis=1)
    assert captured.min() > 0.9
    difference = values[labels].mean(0) - values[~labels].mean(0)
    difference /= np.linalg.norm(difference)
    assert abs(found.basis[0] @ difference) > 0.95
    assert ((axes @ difference) ** 2).max() < 0.7
    assert (found.basis @ difference >= 0).all()
    assert (found.n, found.n_groups) == (96, 24)
    assert found.shares[0] > found.shares[1] > 0.1


def test_the_subspace_of_one_direction_is_the_planted_one_and_the_rest_is_small() -> None:
    activations, labels, groups, direction = grouped_data(0, strength=3.0, n_groups=40)
    found = top_k_subspace(activations.at("blocks.0.hook_resid_pre"), labels, groups, 3)
    assert found.basis[0] @ direction > 0.9
    assert found.shares[0] > 5 * found.shares[1]


def test_subspaces_of_meaningless_labels_meet_a_fixed_one_as_often_as_chance() -> None:
    p_values = []
    for seed in range(200):
        values, labels, groups, axes = two_kinds(seed, strength=0.0)
        found = top_k_subspace(values, labels, groups, 2)
        row = subspace_angles(
            {0: found.basis},
            {0: axes},
            names=("trait", "refusal"),
            model="base",
            nulls=(RANDOM,),
            n_null=199,
            seed=seed,
        )[0]
        p_values.append(row.p_value)
    assert keeps_its_level(p_values)


def test_more_directions_than_the_groups_span_are_refused() -> None:
    values, labels, groups, _ = two_kinds(0, n_groups=4)
    assert top_k_subspace(values, labels, groups, 3).basis.shape == (3, 32)
    for k in (0, 4):
        with pytest.raises(InputError, match="1 to 3"):
            top_k_subspace(values, labels, groups, k)


def test_after_erasure_no_linear_probe_beats_chance() -> None:
    values, labels = correlated_data()
    assert probe_auroc(values, labels) > 0.95
    erased = leace_eraser(values, labels).apply(values)
    means = erased[labels].mean(0) - erased[~labels].mean(0)
    assert np.abs(means).max() < 1e-10
    cross = (labels - labels.mean()) @ (erased - erased.mean(0)) / len(labels)
    assert np.abs(cross).max() < 1e-8
    assert abs(probe_auroc(erased, labels) - 0.5) < 0.05
    np.testing.assert_allclose(erased.mean(0), values.mean(0), atol=1e-10)


def test_projecting_out_a_probe_or_a_random_direction_leaves_the_classes_apart() -> None:
    values, labels = correlated_data()
    probe = LogisticRegression(C=1e6, max_iter=2000).fit(values, labels).coef_
    for vector in (probe, np.random.default_rng(1).standard_normal((1, D_MODEL))):
        basis = orthonormal_rows(vector)
        assert probe_auroc(values - values @ basis.T @ basis, labels) > 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_affine_map_that_erases_the_label_changes_less(seed: int) -> None:
    values, labels = correlated_data(seed=seed)
    eraser = leace_eraser(values, labels)
    changed = ((eraser.apply(values) - values) ** 2).mean()
    difference = values[labels].mean(0) - values[~labels].mean(0)
    centred, rng = values - values.mean(0), np.random.default_rng(seed)
    # Every x - (read . (x - mean)) write with write along the difference and read . write = 1
    # erases; the projection along the difference is the one with read equal to it.
    write = difference / np.linalg.norm(difference)
    np.testing.assert_allclose(
        np.abs(eraser.write @ write), np.linalg.norm(eraser.write), rtol=1e-9
    )
    for read in (write, *(write + rng.standard_normal((20, D_MODEL)) * 0.3)):
        along = centred @ (read / (read @ write))
        assert changed < (along**2).mean() / D_MODEL


def test_the_eraser_is_that_of_the_formula_with_whitening_matrices() -> None:
    values, labels = correlated_data()
    centred = values - values.mean(0)
    covariance = centred.T @ centred / len(values)
    sizes, axes = np.linalg.eigh(covariance)
    whitening = axes @ np.diag(sizes**-0.5) @ axes.T
    cross = (labels - labels.mean()) @ centred / len(values)
    unit = whitening @ cross / np.linalg.norm(whitening @ cross)
    full = np.linalg.inv(whitening) @ np.outer(unit, unit) @ whitening
    expected = values - centred @ full.T
    np.testing.assert_allclose(leace_eraser(values, labels).apply(values), expected, atol=1e-8)


def test_erasure_holds_with_fewer_texts_than_dimensions_and_keeps_the_unseen_ones() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((20, 50)), np.arange(20) % 2 == 0
    values += labels[:, None] * 2.0
    eraser = leace_eraser(values, labels)
    erased = eraser.apply(values)
    assert np.abs(erased[labels].mean(0) - erased[~labels].mean(0)).max() < 1e-10
    unseen = np.linalg.svd(values - values.mean(0))[2][-1]
    np.testing.assert_allclose(eraser.apply(values + unseen), erased + unseen, atol=1e-9)
    again = leace_eraser(erased, labels)
    np.testing.assert_allclose(again.apply(erased), erased, atol=1e-8)


def test_equal_class_means_leave_nothing_to_erase() -> None:
    values = np.random.default_rng(0).standard_normal((10, 4))
    both, labels = np.concatenate([values, values]), np.repeat([True, False], 10)
    np.testing.assert_allclose(leace_eraser(both, labels).apply(both), both, atol=1e-9)
    with pytest.raises(InputError, match="one class"):
        leace_eraser(values, np.ones(10, dtype=bool))
    values[0, 0] = np.nan
    with pytest.raises(NumericalError, match="NaN"):
        leace_eraser(values, np.arange(10) % 2 == 0)


def test_the_eraser_agrees_with_the_authors_package() -> None:
    package = pytest.importorskip("concept_erasure")
    values, labels = correlated_data()
    theirs = package.LeaceFitter.fit(
        torch.from_numpy(values),
        torch.from_numpy(labels).long(),
        shrinkage=False,
        constrain_cov_trace=False,
        svd_tol=1e-9,
    ).eraser
    expected = theirs(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(leace_eraser(values, labels).apply(values), expected, atol=1e-6)


def test_the_hook_of_an_eraser_is_the_eraser() -> None:
    values, labels = correlated_data()
    eraser = leace_eraser(values, labels)
    name, hook = erasure(eraser, "blocks.2.hook_resid_pre")[0]
    activation = torch.from_numpy(values).float().reshape(4, 100, D_MODEL)
    before = activation.clone()
    found = hook(activation, hook=None).reshape(-1, D_MODEL)
    assert name == "blocks.2.hook_resid_pre" and torch.equal(activation, before)
    np.testing.assert_allclose(found.numpy(), eraser.apply(values), atol=2e-4)
    still = Eraser(np.zeros(3), np.zeros(3), np.zeros(3))
    assert np.array_equal(still.apply(np.ones((2, 5, 3))), np.ones((2, 5, 3)))


def test_an_ablated_subspace_is_absent_from_every_residual_stream() -> None:
    model = tiny_model()
    basis = np.random.default_rng(0).standard_normal((3, model.cfg.d_model))
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad(), model.hooks(fwd_hooks=ablate_subspace(model, basis)):
        _, cache = model.run_with_cache(tokens)
    with torch.no_grad():
        _, plain = model.run_with_cache(tokens)
    rows = torch.from_numpy(orthonormal_rows(basis)).float()
    for layer in range(model.cfg.n_layers):
        for site in ("resid_pre", "resid_mid", "resid_post"):
            activation = cache[f"blocks.{layer}.hook_{site}"]
            assert (activation @ rows.T).abs().max() < 1e-5 * activation.norm(dim=-1).max()
            intact = plain[f"blocks.{layer}.hook_{site}"]
            assert (intact @ rows.T).abs().max() > 1e-3 * intact.norm(dim=-1).max()


def test_a_subspace_of_one_direction_is_cut_as_a_direction() -> None:
    model = tiny_model()
    vector = np.random.default_rng(0).standard_normal(model.cfg.d_model)
    tokens = torch.arange(3, 15)[None]
    outputs = []
    for hooks in (
        ablate_subspace(model, vector[None]),
        ablation(model, torch.from_numpy(vector).float()),
    ):
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            outputs.append(model(tokens))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


def test_cutting_is_idempotent_and_leaves_its_argument_alone() -> None:
    rows = torch.from_numpy(orthonormal_rows(np.random.default_rng(0).standard_normal((2, 8))))
    cut, activation = project_out(rows), torch.randn(2, 3, 8, dtype=torch.float64)
    before = activation.clone()
    once = cut(activation)
    torch.testing.assert_close(cut(once), once)
    assert torch.equal(activation, before) and not torch.equal(once, before)


def test_dependent_vectors_span_no_basis() -> None:
    with pytest.raises(InputError, match="dependent"):
        orthonormal_rows(np.ones((2, 4)))
    with pytest.raises(InputError, match="not finite"):
        orthonormal_rows(np.array([[1.0, np.nan]]))
