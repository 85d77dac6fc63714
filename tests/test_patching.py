from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from experiments.plain_refusal import divergence, log_odds
from lpa_interp.chat import post_instruction_row
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import PatchEffect
from probes.patching import (
    CONTROLS,
    PatchScores,
    mismatched,
    patch_activations,
    patch_effects,
    patch_scores,
)
from tests.planted import PLANTED_LAYER, harmful_rows, harmless_rows, planted_pair
from tests.tiny import tiny_model

Key = tuple[str, int, str, str, str]


def scores_between(
    base: HookedTransformer, trained: HookedTransformer, n: int
) -> list[dict[str, PatchScores]]:
    rows = {"harmful": harmful_rows(base, n), "harmless": harmless_rows(base, n)}
    own, other = (patch_activations(model, rows) for model in (base, trained))
    into_base = patch_scores(base, rows, own=own, donor=other, batch_size=5)
    into_trained = patch_scores(trained, rows, own=other, donor=own, batch_size=5)
    return [into_base, into_trained]  # type: ignore[list-item]


@cache
def planted_patches() -> dict[Key, PatchEffect]:
    """Rows by (direction, layer, positions, control, side); refusal is planted at a layer."""
    pair = planted_pair(share=0.5)
    found = patch_effects(*scores_between(pair.base, pair.trained, 12), n_resamples=500)  # type: ignore[arg-type]
    return {(r.direction, r.layer, r.positions, r.control, r.side): r for r in found}


@pytest.mark.parametrize("direction", ["trained into base", "base into trained"])
@pytest.mark.parametrize("positions", ["last", "post_instruction"])
def test_the_gain_is_carried_from_the_planted_layer_on_and_not_before(
    direction: str, positions: str
) -> None:
    found = planted_patches()
    for layer in range(4):
        row = found[direction, layer, positions, "none", "harmful"]
        expected = 1.0 if layer >= PLANTED_LAYER else 0.0
        assert row.recovered == pytest.approx(expected, abs=0.05)
        assert row.recovered_low is not None and row.recovered_high is not None
        assert row.recovered_low <= row.recovered <= row.recovered_high
        assert row.low <= row.refusal_log_odds <= row.high
        assert (row.kl > 0.1) == (layer >= PLANTED_LAYER)


def test_other_prompts_of_the_recipient_itself_recover_nothing() -> None:
    found = planted_patches()
    for layer in range(4):
        null = found["trained into base", layer, "last", "own_mismatched", "harmful"]
        assert null.recovered == pytest.approx(0, abs=0.05)
        # Refusal is planted alike in all harmful prompts: the donor's on another one does as well.
        other = found["trained into base", layer, "last", "mismatched", "harmful"]
        assert other.recovered == pytest.approx(float(layer >= PLANTED_LAYER), abs=0.1)


def test_harmless_prompts_gain_nothing_and_have_no_share() -> None:
    row = planted_patches()["trained into base", 3, "last", "none", "harmless"]
    assert row.recovered is row.recovered_low is row.recovered_high is None
    assert "no clear gain" in row.reason and row.kl < 0.01


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_patches_equal_plain_hooks_one_prompt_at_a_time(kind: str) -> None:
    base, other = tiny_model(0, kind), tiny_model(1, kind)
    rows = {"harmful": harmful_rows(base, 4)}
    own, donor = (patch_activations(model, rows) for model in (base, other))
    ids = refusal_token_ids(base)
    scores = patch_scores(base, rows, own=own, donor=donor, layers=[0, 2], batch_size=3)["harmful"]
    partners, n_suffix = mismatched(4, 0), len(post_instruction_row(base))
    for index, row in enumerate(rows["harmful"]):
        plain = log_odds(base, row, ids)
        assert scores.unmodified[index] == pytest.approx(plain, abs=1e-4)
        for place, at, which in np.ndindex(2, 2, 3):
            layer = (0, 2)[place]
            source = own if CONTROLS[which] == "own_mismatched" else donor
            prompt = index if CONTROLS[which] == "none" else partners[index]
            name, start = f"blocks.{layer}.hook_resid_pre", 1 if at == 0 else n_suffix
            new = torch.from_numpy(source["harmful"].values[name][prompt].copy())

            def put(x, hook, new=new, start=start):  # type: ignore[no-untyped-def]
                return torch.cat([x[:, :-start], new[None, -start:]], dim=1)

            odds = log_odds(base, row, ids, [(name, put)])
            kl = divergence(base, row, [(name, put)])
            assert scores.patched[place, at, which, index] == pytest.approx(odds, abs=1e-4)
            assert scores.kl[place, at, which, index] == pytest.approx(kl, abs=1e-4)


def test_mismatched_prompts_are_others_and_each_is_used_once() -> None:
    for n in (2, 3, 10):
        partners = mismatched(n, seed=n)
        assert sorted(partners) == list(range(n)) and (partners != np.arange(n)).all()
    assert (mismatched(10, 0) != mismatched(10, 1)).any()


def test_activations_of_other_prompts_and_unknown_layers_are_refused() -> None:
    model = tiny_model()
    rows = {"harmful": harmful_rows(model, 4)}
    read = patch_activations(model, rows)
    with pytest.raises(InputError, match="layers"):
        patch_scores(model, rows, own=read, donor=read, layers=[4])
    with pytest.raises(InputError, match="read from these prompts"):
        patch_scores(model, {"harmful": rows["harmful"][:3]}, own=read, donor=read)
    one = {"harmful": rows["harmful"][:1]}
    with pytest.raises(InputError, match="two of a side"):
        patch_scores(model, one, own=patch_activations(model, one), donor=read)
    found = patch_scores(model, rows, own=read, donor=read)
    with pytest.raises(InputError, match="same prompts"):
        patch_effects(found, {})
