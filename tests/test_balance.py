from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement
from lpa_interp.trait_files import AGREE, DISAGREE
from lpa_interp.traits import load_traits
from probes.balance import answer_balance, balance_weights, balanced_design, keying_scores
from probes.sweep import probe_sweep
from tests.planted import HOOK, one_hook


def statement(facet: int, number: int, side: str, keying: str) -> TraitStatement:
    answers = (AGREE, DISAGREE) if side == "positive" else (DISAGREE, AGREE)
    return TraitStatement(
        id=f"{facet}-{number}",
        text=f"I do {facet} {number}.",
        side=side,
        factor="factor",
        facet=f"facet{facet:02d}",
        keying=keying,
        desired=answers[0],
        undesired=answers[1],
    )


def unbalanced() -> list[TraitStatement]:
    """Positive facets mostly plus-keyed, negative ones mostly minus-keyed; two texts each."""
    kinds = [("positive", "plus")] * 9 + [("positive", "minus")] * 3
    kinds += [("negative", "plus")] * 3 + [("negative", "minus")] * 9
    return [statement(facet, n, *kind) for facet, kind in enumerate(kinds) for n in range(2)]


def values(statements: list[TraitStatement], trait: float, keying: float, seed: int) -> np.ndarray:
    """Noise, the trait along dimension 0 and keying along dimension 1."""
    read = np.random.default_rng(seed).standard_normal((len(statements), 6))
    read[:, 0] += trait * np.array([1 if s.side == "positive" else -1 for s in statements])
    read[:, 1] += keying * np.array([1 if s.keying == "plus" else -1 for s in statements])
    return read


def test_the_balance_of_the_shipped_statements_is_told_as_it_is() -> None:
    keyed, answered = answer_balance(load_traits())
    assert keyed.counts == ((33, 12), (3, 18)) and keyed.n == 66
    assert keyed.phi == pytest.approx(0.55, abs=0.01) and keyed.p_value < 1e-3
    assert answered.counts == ((45, 0), (0, 21)) and answered.phi == pytest.approx(1)
    alone = answer_balance([statement(0, 0, "positive", "plus")])[0]
    assert np.isnan(alone.phi) and alone.p_value == 1
    with pytest.raises(InputError, match="there are none"):
        answer_balance([])


def test_weights_let_both_keyings_weigh_the_same_within_each_side() -> None:
    labels = np.array([True] * 4 + [False] * 3)
    plus = np.array([True, True, True, False, False, False, False])
    weights = balance_weights(labels, plus)
    np.testing.assert_allclose(weights, [1 / 6] * 3 + [1 / 2] + [1 / 3] * 3)
    with pytest.raises(InputError, match="on one side"):
        balance_weights(np.ones(3, dtype=bool), np.ones(3, dtype=bool))


def test_a_direction_that_reads_keying_is_found_out_and_weights_mend_it() -> None:
    statements = unbalanced()
    read = one_hook(values(statements, trait=1.5, keying=3.0, seed=0))
    rows = keying_scores(read, statements, HOOK, model="base", n_folds=3)
    by = {(row.method, row.control): row for row in rows}
    plain, mended = by["mean_difference", "none"], by["balanced_mean_difference", "none"]
    assert plain.target == "keying within side" and plain.n == 48 and plain.n_groups == 24
    assert plain.value > 0.9 and plain.low > by["mean_difference", "shuffled"].high
    assert abs(mended.value - 0.5) < 0.3 < plain.value - mended.value + 0.1
    assert by["mean_difference", "shuffled"].value == pytest.approx(0.5, abs=0.05)


def test_a_direction_that_is_blind_to_keying_scores_at_chance() -> None:
    statements = unbalanced()
    found = [
        keying_scores(
            one_hook(values(statements, trait=1.5, keying=0.0, seed=seed)),
            statements,
            HOOK,
            model="base",
            n_folds=3,
            n_shuffles=2,
            n_bootstrap=20,
            seed=seed,
        )
        for seed in range(20)
    ]
    for index in (0, 2):
        assert np.mean([rows[index].value for rows in found]) == pytest.approx(0.5, abs=0.08)


def test_sides_without_two_facets_of_each_keying_do_not_take_part() -> None:
    statements = [s for s in unbalanced() if (s.side, s.keying) != ("negative", "plus")]
    read = one_hook(values(statements, trait=1.5, keying=0.0, seed=0))
    rows = keying_scores(read, statements, HOOK, model="base", n_folds=3, n_shuffles=5)
    assert {row.n for row in rows} == {24} and {row.n_groups for row in rows} == {12}
    one_keyed = [s for s in statements if (s.side == "positive") == (s.keying == "plus")]
    read = one_hook(values(one_keyed, trait=1.5, keying=0.0, seed=0))
    with pytest.raises(InputError, match="no side has two facets"):
        keying_scores(read, one_keyed, HOOK, model="base", n_folds=3)


def test_in_the_balanced_design_neither_answer_nor_statement_tells_the_side() -> None:
    statements = load_traits()
    texts = balanced_design(statements)
    assert texts.n == 84 and texts.labels.sum() == 42 and texts.completions is not None
    agrees = np.array([completion == AGREE for completion in texts.completions])
    side = {s.text: s.side == "positive" for s in statements}
    positive = np.array([side[prompt] for prompt in texts.prompts])
    for alone in (agrees, positive):
        assert roc_auc_score(texts.labels, alone) == 0.5
    np.testing.assert_array_equal(texts.labels, agrees == positive)
    assert texts.ids != balanced_design(statements, seed=1).ids
    with pytest.raises(InputError, match="on one side"):
        balanced_design(statements[:3])


def test_a_direction_of_agreement_scores_at_chance_in_the_balanced_design() -> None:
    texts = balanced_design(load_traits())
    rng = np.random.default_rng(0)
    agrees = np.array([completion == AGREE for completion in texts.completions or ()])
    for strength, low, high in ((0.0, 0.3, 0.7), (3.0, 0.95, 1.0)):
        read = rng.standard_normal((texts.n, 6))
        read[:, 0] += 5 * np.where(agrees, 1, -1)
        read[:, 1] += strength * np.where(texts.labels, 1, -1)
        settings = {"model": "base", "methods": ("mean_difference",), "n_bootstrap": 50}
        rows = probe_sweep(one_hook(read), texts.labels, texts.groups, **settings)
        assert low < rows[0].value <= high
