from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.plain_refusal import candidate_scores, divergence, log_odds, logits_of
from lpa_interp.config import ProbeConfig
from lpa_interp.errors import InputError
from lpa_interp.hooks import ablation, add
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from probes.refusal import RefusalSearch, find_refusal_direction, selectable_layers
from probes.scoring import addition_odds_by_layer, score_ablations, score_additions
from probes.stacked import prompt_batches
from tests.planted import PLANTED_LAYER, harmful_rows, harmless_rows, refusing_model
from tests.tiny import tiny_model

CONFIG = ProbeConfig(drop_last_layers=0.0)


def search(
    model: HookedTransformer, config: ProbeConfig = CONFIG, **options: bool
) -> RefusalSearch:
    harmful, harmless = harmful_rows(model, 20), harmless_rows(model, 20)
    parts = (harmful[:12], harmless[:12], harmful[12:], harmless[12:])
    return find_refusal_direction(model, *parts, config, "base", batch_size=20, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_refusal_direction_is_found_at_its_layer(seed: int) -> None:
    model, planted, _ = refusing_model(seed)
    found = search(model)
    assert found.direction is not None and found.reason == ""
    assert found.direction.layer >= PLANTED_LAYER
    assert found.direction.vector @ planted.numpy() > 0.99
    assert sum(row.selected for row in found.candidates) == 1
    # Nothing is there to be found before the block that writes it.
    assert all(row.rejected for row in found.candidates if row.layer < PLANTED_LAYER)


def test_ablating_the_found_direction_removes_refusal_and_random_ones_do_not() -> None:
    model, _, _ = refusing_model()
    found = search(model).direction
    assert found is not None
    random = np.random.default_rng(0).standard_normal((8, model.cfg.d_model))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    units = torch.from_numpy(np.concatenate([found.vector[None], random])).float()[:, None]
    scores = score_ablations(model, harmful_rows(model), units, refusal_token_ids(model), 32)
    assert scores.unmodified.min() > 3
    assert scores.modified[0].max() < -3
    assert scores.modified[1:].mean() > 3


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_stacked_scores_equal_those_of_one_candidate_and_one_prompt_at_a_time(kind: str) -> None:
    model = tiny_model(kind=kind)
    rows = harmful_rows(model, 5)
    ids = refusal_token_ids(model)
    vectors = torch.randn(2, 3, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    units = torch.nn.functional.normalize(vectors, dim=-1).flatten(0, 1)
    scores = score_ablations(model, rows, units[:, None], ids, batch_size=8)
    wanted = np.array([[True, False, True], [True, True, True]])
    added = addition_odds_by_layer(model, rows, vectors, wanted, ids, batch_size=8)
    at_one = score_additions(model, rows, vectors[:, 2], 2, ids, batch_size=8)
    np.testing.assert_allclose(at_one.modified, added[:, 2], atol=1e-4)
    for place, row in enumerate(rows):
        plain = log_odds(model, row, ids)
        assert scores.unmodified[place] == pytest.approx(plain, abs=1e-4)
        assert at_one.unmodified[place] == pytest.approx(plain, abs=1e-4)
        for index, unit in enumerate(units):
            cut = ablation(model, unit)
            expected = log_odds(model, row, ids, cut)
            assert scores.modified[index, place] == pytest.approx(expected, abs=1e-4)
            assert scores.kl[index, place] == pytest.approx(divergence(model, row, cut), abs=1e-4)
        for position, layer in np.ndindex(2, 3):
            hooks = [(f"blocks.{layer}.hook_resid_pre", add(vectors[position, layer]))]
            odds = log_odds(model, row, ids, hooks)
            expected = odds if wanted[position, layer] else np.nan
            assert added[position, layer, place] == pytest.approx(expected, abs=1e-4, nan_ok=True)
            if layer == 2:
                kl = divergence(model, row, hooks)
                assert at_one.kl[position, place] == pytest.approx(kl, abs=1e-4)


def test_a_search_scores_its_candidates_as_a_plain_loop_does() -> None:
    model, _, _ = refusing_model()
    harmful, harmless = harmful_rows(model, 14), harmless_rows(model, 14)
    ids = [3, 5, 8]  # other tokens than the defaults are taken too
    parts = (harmful[:10], harmless[:10], harmful[10:], harmless[10:])
    found = find_refusal_direction(model, *parts, CONFIG, "base", token_ids=ids)
    assert len(found.candidates) == len(found.positions) * model.cfg.n_layers
    for row in found.candidates[::3]:
        vector = found.differences[found.positions.index(row.position), row.layer]
        if vector.any():
            plain = candidate_scores(model, harmful[10:], harmless[10:], vector, row.layer, ids)
            assert (row.bypass, row.induce, row.kl) == pytest.approx(plain, abs=1e-4)


def test_cutting_what_writes_leaves_no_residual_stream_with_the_direction() -> None:
    model = tiny_model()
    unit = torch.nn.functional.normalize(torch.randn(model.cfg.d_model), dim=0)
    first = ("blocks.0.hook_resid_pre",)
    hooks = [h for h in ablation(model, unit) if "resid" not in str(h[0]) or h[0] in first]
    assert len(hooks) == 1 + 2 * model.cfg.n_layers
    row = harmful_rows(model, 1)[0]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits, cache = model.run_with_cache(torch.tensor([row]))
    for layer in range(model.cfg.n_layers):
        for site in ("resid_pre", "resid_mid", "resid_post"):
            activation = cache[f"blocks.{layer}.hook_{site}"]
            assert (activation @ unit).abs().max() < 1e-5 * activation.norm(dim=-1).max()
    everywhere = logits_of(model, row, ablation(model, unit))
    torch.testing.assert_close(logits[:, -1], everywhere, atol=1e-5, rtol=1e-5)


def test_what_prompts_share_is_run_once_and_sliding_windows_share_nothing() -> None:
    model = tiny_model()
    rows = harmful_rows(model, 5)
    batches = prompt_batches(model, rows, 2)
    n_shared = batches[0].n_shared
    assert n_shared > 2 and len({tuple(row[:n_shared]) for row in rows}) == 1
    assert sorted(i for batch in batches for i in batch.indices) == list(range(5))
    for batch in batches:
        for index, tokens, mask in zip(batch.indices, batch.tokens, batch.mask, strict=True):
            assert tokens[mask.bool()].tolist() == rows[index]
    model.cfg.use_local_attn, model.cfg.window_size = True, 8
    assert prompt_batches(model, rows, 2)[0].n_shared == 0
    one = prompt_batches(tiny_model(), [rows[0], rows[0]], 2)[0]
    assert one.n_shared == len(rows[0]) - 1


def test_early_stopping_makes_the_same_choice_and_leaves_no_false_score() -> None:
    model, _, _ = refusing_model()
    whole, early = search(model), search(model, stop_early=True)
    assert whole.direction is not None and early.direction is not None
    assert (whole.direction.layer, whole.direction.position) == (
        early.direction.layer,
        early.direction.position,
    )
    for first, second in zip(whole.candidates, early.candidates, strict=True):
        assert second.selected == first.selected and bool(second.rejected) == bool(first.rejected)
        for measure in ("bypass", "induce", "kl"):
            early_score = getattr(second, measure)
            assert np.isnan(early_score) or early_score == pytest.approx(
                getattr(first, measure), abs=1e-4
            )
        assert np.isnan(second.bypass) == bool(second.rejected)


def test_where_no_candidate_survives_there_is_no_direction_but_a_reason() -> None:
    model, _, _ = refusing_model()
    found = search(model, ProbeConfig(min_induce=1e6))
    assert found.direction is None and not any(row.selected for row in found.candidates)
    assert "do not induce refusal" in found.reason
    assert found.by_layer()[PLANTED_LAYER].shape == (model.cfg.d_model,)


def test_equal_embeddings_at_the_template_are_no_direction() -> None:
    found = search(tiny_model())
    assert 0 not in found.by_layer()
    assert {row.rejected.split(", ")[0] for row in found.candidates if row.layer == 0} == {"zero"}


@pytest.mark.parametrize(("share", "kept"), [(0.0, 30), (0.2, 24), (0.9, 3), (0.99, 1)])
def test_the_last_layers_are_dropped(share: float, kept: int) -> None:
    assert selectable_layers(30, share) == kept


def test_prompts_that_do_not_end_in_the_template_are_refused() -> None:
    model, _, _ = refusing_model()
    rows = harmful_rows(model, 4)
    for bad, message in (([], "is empty"), ([row[:-1] for row in rows], "template's tokens")):
        with pytest.raises(InputError, match=message):
            find_refusal_direction(model, rows, rows, bad, rows, CONFIG, "base")
