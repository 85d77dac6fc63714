from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from lpa_interp.errors import InputError
from lpa_interp.records import ActivationShift, Direction
from probes.activations import Activations
from probes.cka import linear_cka
from probes.nulls import COVARIANCE, RANDOM
from probes.representation_shift import representation_shifts, shift_directions
from probes.resamples import draw_texts
from tests.levels import false_positive_rate, keeps_its_level

D_MODEL = 24
HOOKS = ("blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")
UNIT = np.eye(D_MODEL)[3]


def readings(
    seed: int = 0, n: int = 60, strength: float = 2.0, noise: float = 0.5, facet: float = 0.0
) -> tuple[Activations, Activations]:
    """Texts that move along `UNIT` at the second layer and only jitter at the first.

    With ``facet``, texts come in fives that also move together, in a direction of their own.
    """
    rng = np.random.default_rng([seed, 99])
    base = {hook: rng.standard_normal((n, D_MODEL)) for hook in HOOKS}
    moved = {
        hook: values
        + noise * rng.standard_normal((n, D_MODEL))
        + facet * np.repeat(rng.standard_normal((-(-n // 5), D_MODEL)), 5, axis=0)[:n]
        + strength * layer * UNIT
        for layer, (hook, values) in enumerate(base.items())
    }
    return reading(base), reading(moved)


def reading(values: dict[str, np.ndarray]) -> Activations:
    return Activations({hook: v.astype(np.float32)[:, None] for hook, v in values.items()}, (-1,))


def direction(vector: np.ndarray, hook: str = HOOKS[1], name: str = "trait") -> Direction:
    return Direction(
        name=name,
        model="base",
        hook_name=hook,
        layer=int(hook.split(".")[1]),
        position=-1,
        method="mean_difference",
        raw_norm=1.0,
        n=1,
        split="all",
        vector=(vector / np.linalg.norm(vector)).astype(np.float32),
    )


def at(
    rows: list[ActivationShift], measure: str, layer: int = 2, null: str = ""
) -> ActivationShift:
    found = [row for row in rows if (row.measure, row.layer) == (measure, layer)]
    return next(row for row in found if null in ("", row.null))


def test_the_planted_shift_is_found_at_its_layer_along_its_direction() -> None:
    base, lpa = readings()
    rows = representation_shifts(base, lpa, "statements", directions=[direction(UNIT)])
    scale = np.median(np.linalg.norm(base.at(HOOKS[1]), axis=1))
    moved = at(rows, "relative_shift")
    assert moved.value == pytest.approx(2 / scale, rel=0.1)
    assert moved.low < 2 / scale < moved.high and moved.p_adjusted < 0.01
    assert at(rows, "relative_shift", layer=1).p_value > 0.05
    for null in (RANDOM, COVARIANCE):
        along, share = (at(rows, name, null=null) for name in ("shift_along", "shift_share"))
        assert along.value == pytest.approx(2 / scale, rel=0.1)
        assert along.low < along.value < along.high and along.p_value == pytest.approx(1 / 501)
        assert share.value > 0.95 > share.null_high and share.p_value == pytest.approx(2 / 501)
    assert {row.group for row in rows} == {"statements"} and {row.n for row in rows} == {60}


def test_values_are_those_of_the_formulas() -> None:
    base, lpa = readings(n=8)
    vector = np.random.default_rng(0).standard_normal(D_MODEL)
    blocks = list("aabbccdd")
    rows = representation_shifts(base, lpa, "x", directions=[direction(vector)], blocks=blocks)
    before, after = (side.at(HOOKS[1]).astype(np.float64) for side in (base, lpa))
    moved, scale = after - before, np.median(np.linalg.norm(before, axis=1))
    pairs = [(i, j) for i in range(8) for j in range(8) if blocks[i] != blocks[j]]
    squared = np.mean([moved[i] @ moved[j] for i, j in pairs])
    assert at(rows, "relative_shift").value == pytest.approx(np.sqrt(squared) / scale)
    assert at(rows, "cka").value == pytest.approx(linear_cka(before, after))
    along = moved.mean(0) @ vector / np.linalg.norm(vector)
    assert at(rows, "shift_along").value == pytest.approx(along / scale, rel=1e-6)
    lengths = moved @ vector / np.linalg.norm(vector)
    share = np.mean([lengths[i] * lengths[j] for i, j in pairs]) / squared
    assert at(rows, "shift_share").value == pytest.approx(share, rel=1e-6)
    assert at(rows, "cka").n_blocks == 4


def test_a_model_that_did_not_change_has_no_shift() -> None:
    base, _ = readings()
    rows = representation_shifts(base, base, "neutral")
    for row in rows:
        expected = 1.0 if row.measure == "cka" else 0.0
        assert (row.value, row.low, row.high) == pytest.approx((expected,) * 3)
    assert at(rows, "relative_shift").p_value == 1.0
    with pytest.raises(InputError, match="nothing moved"):
        representation_shifts(base, base, "neutral", directions=[direction(UNIT)])
    with pytest.raises(InputError, match="are equal"):
        shift_directions(base, base)


def null_p(seed: int, blocks: list[str] | None) -> float:
    """Of texts that moved by facets, each facet its own way."""
    base, lpa = readings(seed, n=50, strength=0.0, facet=0.5)
    options = {"blocks": blocks, "n_null": 199, "n_bootstrap": 10, "seed": seed}
    return at(representation_shifts(base, lpa, "statements", **options), "relative_shift").p_value  # type: ignore[arg-type]


def test_shifts_without_a_common_direction_are_found_as_often_as_chance() -> None:
    facets = [f"facet{index // 5}" for index in range(50)]
    assert keeps_its_level([null_p(seed, facets) for seed in range(200)])


def test_taking_the_texts_of_a_facet_for_independent_would_find_too_much() -> None:
    assert false_positive_rate([null_p(seed, None) for seed in range(200)]) > 0.2


def test_a_random_direction_lies_along_the_shift_as_often_as_chance() -> None:
    base, lpa = readings(n=30)
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(200):
        drawn = direction(np.random.default_rng([seed, 5]).standard_normal(D_MODEL))
        options = {"directions": [drawn], "n_null": 199, "n_bootstrap": 10, "seed": seed}
        for row in representation_shifts(base, lpa, "statements", **options):  # type: ignore[arg-type]
            found.setdefault((row.measure, row.null), []).append(row.p_value)
    for measure in ("shift_along", "shift_share"):
        assert keeps_its_level(found[measure, RANDOM])
        assert keeps_its_level(found[measure, COVARIANCE])


def test_intervals_hold_the_true_shift_about_as_often_as_they_say() -> None:
    hits = {"relative_shift": 0, "shift_along": 0, "shift_share": 0}
    half = direction(UNIT + np.eye(D_MODEL)[5])
    for seed in range(200):
        base, lpa = readings(seed, n=40, strength=1.0)
        options = {"directions": [half], "n_null": 19, "n_bootstrap": 400, "seed": seed}
        rows = representation_shifts(base, lpa, "statements", **options)  # type: ignore[arg-type]
        scale = np.median(np.linalg.norm(base.at(HOOKS[1]), axis=1))
        truths = {"relative_shift": 1 / scale, "shift_along": 0.5**0.5 / scale, "shift_share": 0.5}
        for measure, truth in truths.items():
            row = at(rows, measure)
            hits[measure] += row.low <= truth <= row.high
    assert all(0.9 <= count / 200 <= 0.99 for count in hits.values()), hits


def test_intervals_hold_the_true_similarity_about_as_often_as_they_say() -> None:
    def noisy(seed: int, n: int) -> tuple[Activations, Activations]:
        rng = np.random.default_rng([seed, 1])
        values = rng.standard_normal((n, D_MODEL)) * np.linspace(2, 0.2, D_MODEL)
        moved = values + 0.8 * rng.standard_normal((n, D_MODEL))
        return reading({HOOKS[1]: values}), reading({HOOKS[1]: moved})

    truth, hits = linear_cka(*(side.at(HOOKS[1]) for side in noisy(1000, 3000))), 0
    for seed in range(200):
        options = {"n_null": 19, "n_bootstrap": 400, "seed": seed}
        rows = representation_shifts(*noisy(seed, 50), "harmful", **options)  # type: ignore[arg-type]
        hits += at(rows, "cka").low <= truth <= at(rows, "cka").high
    assert 0.9 <= hits / 200 <= 0.99, hits


def test_texts_without_a_common_shift_have_no_shares() -> None:
    base, _ = readings(n=4)
    each_its_own = base.at(HOOKS[1]) + 0.1 * np.array([1, 1, -1, -1.01])[:, None] * UNIT
    lpa = reading({HOOKS[0]: base.at(HOOKS[0]), HOOKS[1]: each_its_own})
    rows = representation_shifts(base, lpa, "neutral", directions=[direction(UNIT)])
    assert at(rows, "relative_shift").value == 0
    assert [row.measure for row in rows if row.direction] == ["shift_along"] * 2


def test_p_is_adjusted_over_the_layers_of_one_measure() -> None:
    rows = representation_shifts(*readings(strength=0.1), "harmful", n_null=99)
    own = [row for row in rows if row.measure == "relative_shift"]
    expected = multipletests([row.p_value for row in own], method="fdr_bh")[1]
    assert [row.layer for row in own] == [1, 2]
    assert [row.p_adjusted for row in own] == pytest.approx(list(expected))


def test_the_shift_is_a_direction_where_anything_moved() -> None:
    base, lpa = readings()
    still = Activations({**lpa.values, HOOKS[0]: base.values[HOOKS[0]]}, (-1,))
    found = shift_directions(base, still, split="test")
    assert [row.hook_name for row in found] == [HOOKS[1]]
    mean = (lpa.at(HOOKS[1]).astype(np.float64) - base.at(HOOKS[1])).mean(0)
    assert found[0].raw_norm == pytest.approx(np.linalg.norm(mean))
    np.testing.assert_allclose(found[0].vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert (found[0].name, found[0].model, found[0].split, found[0].n) == (
        "shift",
        "lpa",
        "test",
        60,
    )


def test_resamples_draw_whole_blocks() -> None:
    draws = draw_texts(7, list("aabbbcd"), 20, 30, seed=0)
    assert draws.n_blocks == 4
    for rows in (draws.counts, draws.signs):
        assert (rows[:, 0] == rows[:, 1]).all() and (rows[:, 2] == rows[:, 4]).all()
    assert (np.sort(draws.orders) == np.arange(7)).all()
    assert draws.apart[0, 1] == 0 and draws.apart[0, 2] == 1 == draws.apart[5, 6]
    assert (draws.counts[:, [0, 2, 5, 6]].sum(axis=1) == 4).all()


def test_readings_that_do_not_match_are_refused() -> None:
    base, lpa = readings()
    flat = reading({hook: np.ones((60, D_MODEL)) for hook in HOOKS})
    twice = [direction(UNIT), direction(UNIT[::-1])]
    elsewhere = replace(direction(UNIT), hook_name="blocks.3.hook_resid_pre")
    for arguments, options, message in (
        ((base, lpa.select(range(50))), {}, "differ"),
        ((flat, lpa), {}, "same activations"),
        ((base, lpa), {"directions": twice}, "same name"),
        ((base, lpa), {"directions": [elsewhere]}, "no activations were read"),
        ((base, lpa), {"blocks": ["a"] * 59}, "59 blocks"),
        ((base, lpa), {"blocks": ["a", "b", "c"] * 20}, "too few"),
    ):
        with pytest.raises(InputError, match=message):
            representation_shifts(*arguments, "x", **options)  # type: ignore[arg-type]
