from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lpa_interp.chat import chat_rows
from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement
from probes.crossval import group_folds
from probes.directions import load_direction, load_directions, save_directions
from probes.groups import permuted_labels
from probes.linear import (
    METHODS,
    best_layer,
    probe_sweep,
    statement_labels,
    statement_rows,
    trait_direction,
)
from tests.planted import HOOK, grouped_data, one_hook
from tests.tiny import tiny_model


@pytest.mark.parametrize("method", list(METHODS))
def test_a_planted_direction_is_recovered(method: str) -> None:
    activations, labels, _, direction = grouped_data(0, strength=3.0, n_groups=200)
    values = activations.at(HOOK)
    found = METHODS[method](values[labels], values[~labels])
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found @ direction > 0.9


def test_logistic_weights_are_mapped_back_from_standardised_features() -> None:
    activations, labels, _, direction = grouped_data(0, strength=3.0, n_groups=200)
    scale = np.where(np.arange(32) % 2 == 0, 100.0, 0.01)
    values = activations.at(HOOK) * scale
    found = METHODS["logistic"](values[labels], values[~labels]) * scale
    assert found @ direction / np.linalg.norm(found) > 0.9


def test_logistic_equals_the_plain_pipeline_of_scikit_learn() -> None:
    activations, labels, _, _ = grouped_data(0, strength=0.5, d_model=100)
    values = activations.at(HOOK).astype(np.float64)
    plain = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000)
    pipeline = make_pipeline(StandardScaler(), plain).fit(values, labels)
    weights = pipeline[-1].coef_[0] / pipeline[0].scale_
    found = METHODS["logistic"](values[labels], values[~labels])
    np.testing.assert_allclose(found, weights / np.linalg.norm(weights), atol=1e-5)


def test_planted_traits_score_high_and_shuffled_labels_at_chance() -> None:
    activations, labels, groups, _ = grouped_data(1, strength=3.0, n_groups=30)
    rows = probe_sweep(activations, labels, groups, model="base", n_shuffles=20, n_bootstrap=200)
    by = {(row.method, row.control): row for row in rows}
    for method in METHODS:
        real, shuffled = by[method, "none"], by[method, "shuffled"]
        assert real.value > 0.95 and real.low <= real.value <= real.high
        assert shuffled.value == pytest.approx(0.5, abs=0.1)
        assert shuffled.high < real.low
        assert (real.n, real.n_groups, real.n_folds) == (90, 30, 5)


def test_labels_that_mean_nothing_score_at_chance_although_facets_are_alike() -> None:
    scores = []
    for seed in range(40):
        activations, labels, groups, _ = grouped_data(seed, strength=0.0)
        rows = probe_sweep(
            activations,
            labels,
            groups,
            model="base",
            methods=("mean_difference",),
            n_shuffles=1,
            n_bootstrap=20,
            seed=seed,
        )
        scores.append(rows[0].value)
    # The standard error of a mean over 40 seeds is about 0.02.
    assert np.mean(scores) == pytest.approx(0.5, abs=0.06)


def test_splitting_by_statement_would_leak_what_splitting_by_facet_does_not() -> None:
    activations, labels, groups, _ = grouped_data(3, strength=0.0, n_groups=40, d_model=128)
    by_statement = [str(index) for index in range(len(labels))]
    leaky, honest = (
        probe_sweep(
            activations,
            labels,
            names,
            model="base",
            methods=("logistic",),
            n_shuffles=1,
            n_bootstrap=20,
        )[0].value
        for names in (by_statement, groups)
    )
    assert leaky > 0.8 and honest < 0.7


def test_no_facet_is_on_both_sides_of_a_split() -> None:
    _, labels, groups, _ = grouped_data(0, strength=0.0)
    codes = np.unique(groups, return_inverse=True)[1]
    for train, test in group_folds(labels, codes, 5, seed=0):
        assert not set(codes[train]) & set(codes[test])
    with pytest.raises(InputError, match="11 folds, but a side has 10 groups"):
        group_folds(labels, codes, 11, seed=0)


def test_permuted_labels_move_facets_as_blocks() -> None:
    labels = np.array([True] * 4 + [False] * 4 + [True, True, False, False])
    groups = [*"aabbccdd", *"eeee"]
    permuted = permuted_labels(labels, groups, 200, np.random.default_rng(0))
    for start in range(0, 12, 2):
        np.testing.assert_array_equal(permuted[:, start], permuted[:, start + 1])
    assert (permuted.sum(axis=1) == 6).all()
    assert 0.3 < permuted[:, 0].mean() < 0.7
    with pytest.raises(InputError, match="too few groups"):
        permuted_labels(
            labels, ["x" if label else "y" for label in labels], 3, np.random.default_rng(0)
        )


def test_everything_but_the_seed_is_deterministic() -> None:
    activations, labels, groups, _ = grouped_data(2, strength=1.0)
    first, again = (
        probe_sweep(activations, labels, groups, model="lpa", n_bootstrap=50, seed=4) for _ in "ab"
    )
    assert first == again


def test_best_layer_goes_by_the_held_out_score_of_mean_difference() -> None:
    activations, labels, groups, _ = grouped_data(1, strength=1.5)
    noise = one_hook(np.random.default_rng(0).standard_normal((60, 32)), "blocks.2.hook_resid_pre")
    both = type(activations)({**noise.values, **activations.values}, (-1,))
    rows = probe_sweep(both, labels, groups, model="base", n_shuffles=2, n_bootstrap=50)
    assert best_layer(rows) == 0
    with pytest.raises(InputError, match="no held-out"):
        best_layer([row for row in rows if row.control == "shuffled"])


def test_statements_are_read_as_training_formats_them() -> None:
    model = tiny_model()
    statement = TraitStatement(
        id="a",
        text="I keep my promises.",
        side="positive",
        factor="conscientiousness",
        facet="dutifulness",
        keying="plus",
        desired="I agree.",
        undesired="I do not agree.",
    )
    assert statement_rows(model, [statement], "Be kind.") == chat_rows(
        model, ["I keep my promises."], "Be kind."
    )
    labels, groups = statement_labels([statement])
    assert labels.tolist() == [True] and groups == ["conscientiousness/dutifulness"]


def test_a_direction_survives_the_disk_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    activations, labels, _, planted = grouped_data(0, strength=3.0, n_groups=100)
    base, lpa = (
        trait_direction(activations, labels, HOOK, model=label) for label in ("base", "lpa")
    )
    assert base.vector @ planted > 0.9 and base.raw_norm == pytest.approx(6, rel=0.2)
    path = tmp_path / "directions.safetensors"
    save_directions(path, [base, lpa])
    loaded = load_direction(path, "trait", "lpa")
    np.testing.assert_array_equal(loaded.vector, lpa.vector)
    assert (loaded.model, loaded.raw_norm, loaded.n) == ("lpa", lpa.raw_norm, 300)
    assert len(load_directions(path)) == 2
    for name, model, message in (("trait", None, "more than one"), ("x", "lpa", "no direction")):
        with pytest.raises(InputError, match=message):
            load_direction(path, name, model)
    with pytest.raises(InputError, match="two directions"):
        save_directions(path, [base, base])
    with pytest.raises(InputError, match="no such file"):
        load_directions(tmp_path / "none")
    path.write_bytes(b"not directions")
    with pytest.raises(InputError, match="does not hold directions"):
        load_directions(path)


@pytest.mark.parametrize("method", list(METHODS))
def test_equal_activations_are_no_direction(method: str) -> None:
    same = np.full((7, 4), 0.1, dtype=np.float32)
    with pytest.raises(InputError, match="leave layer 0 out"):
        METHODS[method](same, same[:3])


def test_importing_probes_loads_neither_torch_nor_sae_lens() -> None:
    import subprocess
    import sys

    code = (
        "import sys, probes; dir(probes); assert not {'torch', 'sae_lens', 'transformer_lens'} "
        "& set(sys.modules); assert probes.load_direction and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
