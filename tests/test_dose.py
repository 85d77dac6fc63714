from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.plain_refusal import divergence, log_odds
from lpa_interp.errors import InputError
from lpa_interp.hooks import add
from lpa_interp.judges import refusal_token_ids
from lpa_interp.records import Direction, DoseEffect
from probes.dose import dose_effects
from probes.steering import direction_hooks
from tests.planted import PLANTED_LAYER, harmful_rows, harmless_rows, planted_pair, refusing_model
from tests.tiny import tiny_model

Key = tuple[str, str, float, str]


def direction_at(layer: int, vector: torch.Tensor, raw_norm: float = 1.0) -> Direction:
    return Direction(
        name="refusal",
        model="base",
        hook_name=f"blocks.{layer}.hook_resid_pre",
        layer=layer,
        position=-1,
        method="mean_difference",
        raw_norm=raw_norm,
        n=24,
        split="train",
        vector=(vector / vector.norm()).numpy(),
    )


def planted_doses(share: float = 1.0, **options: Any) -> dict[Key, DoseEffect]:
    """Rows by (direction, intervention, dose, side) of a model that reads the trait, or not.

    With ``share`` 0 the trait direction is written, at an angle to refusal, and never read.
    """
    pair = planted_pair(share)
    rows = dose_effects(
        pair.trained,
        {"harmful": harmful_rows(pair.base, 8), "harmless": harmless_rows(pair.base, 8)},
        direction_at(PLANTED_LAYER, pair.trait, raw_norm=2.0),
        label="lpa",
        n_resamples=500,
        **options,
    )
    return {(row.direction, row.intervention, row.dose, row.side): row for row in rows}


def test_refusal_moves_in_proportion_to_the_dose_of_a_direction_that_carries_it() -> None:
    doses = (-1.0, -0.5, 0.0, 0.5, 1.0)
    found = planted_doses(doses=doses)
    for side in ("harmful", "harmless"):
        changes = [found["refusal", "add", dose, side].change for dose in doses]
        assert changes[-1] > 3
        np.testing.assert_allclose(changes, np.multiply(doses, changes[-1]), atol=0.05)
        nothing = found["refusal", "add", 0.0, side]
        assert abs(nothing.change) < 1e-5 and nothing.kl < 1e-6
    assert found["refusal", "add", 1.0, "harmless"].change_low > 3
    # Random directions of the same norm move it little.
    for dose in doses:
        control = found["random", "add", dose, "harmless"]
        assert control.control_of == "refusal" and control.n_draws == 8
        assert abs(control.change) < 0.3 * found["refusal", "add", 1.0, "harmless"].change


def test_cutting_out_a_growing_fraction_takes_refusal_away_in_proportion() -> None:
    fractions = (0.0, 0.25, 0.5, 0.75, 1.0)
    found = planted_doses(fractions=fractions)
    changes = [found["refusal", "ablate", fraction, "harmful"].change for fraction in fractions]
    assert changes[-1] < -2
    np.testing.assert_allclose(changes, np.multiply(fractions, changes[-1]), atol=0.05)
    assert abs(found["refusal", "ablate", 1.0, "harmless"].change) < 0.1


def test_a_direction_that_is_written_but_not_read_has_no_effect_at_any_dose() -> None:
    found = planted_doses(share=0.0)
    for (direction, intervention, dose, _), row in found.items():
        if direction == "refusal":
            assert abs(row.change) < 0.15, (intervention, dose)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_doses_equal_plain_hooks_one_prompt_at_a_time(kind: str) -> None:
    model = tiny_model(kind=kind)
    ids = refusal_token_ids(model)
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    direction = direction_at(1, vector, raw_norm=3.0)
    rows = harmful_rows(model, 3)
    found = dose_effects(
        model,
        {"harmful": rows},
        direction,
        label="base",
        doses=(-0.5,),
        fractions=(0.5,),
        n_random=1,
        n_resamples=200,
    )
    added = [("blocks.1.hook_resid_pre", add(-1.5 * vector / vector.norm()))]
    partly = direction_hooks(model, direction, "ablate", 0.5)
    for row, hooks in zip((found[0], found[2]), (added, partly), strict=True):
        odds = np.mean([log_odds(model, prompt, ids, hooks) for prompt in rows])
        kl = np.mean([divergence(model, prompt, hooks) for prompt in rows])
        assert row.refusal_log_odds == pytest.approx(odds, abs=1e-4)
        assert row.kl == pytest.approx(kl, abs=1e-4)
        assert row.low <= row.refusal_log_odds <= row.high
    assert [row.direction for row in found] == ["refusal", "random"] * 2


def test_directions_of_another_place_and_impossible_doses_are_refused() -> None:
    model, planted, _ = refusing_model()
    rows = {"harmful": harmful_rows(model, 3)}
    good = direction_at(PLANTED_LAYER, planted)
    elsewhere = replace(good, hook_name=f"blocks.{PLANTED_LAYER}.hook_resid_post")
    cases: list[tuple[Direction, dict[str, Any], str]] = [
        (elsewhere, {}, "hook_resid_pre"),
        (direction_at(PLANTED_LAYER, planted[:16]), {}, "not of this model"),
        (direction_at(9, planted), {}, "not of this model"),
        (good, {"fractions": (1.5,)}, "fractions"),
        (good, {"doses": (), "fractions": ()}, "one finite dose"),
        (good, {"n_random": 0}, "n_random"),
    ]
    for direction, options, message in cases:
        with pytest.raises(InputError, match=message):
            dose_effects(model, rows, direction, label="base", **options)
    with pytest.raises(InputError, match="two at least"):
        dose_effects(model, {"harmful": rows["harmful"][:1]}, good, label="base")
