from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.plain_refusal import log_odds, logits_of
from lpa_interp.errors import InputError
from lpa_interp.generation import generate
from lpa_interp.hooks import ablation
from lpa_interp.judges import refusal_token_ids
from probes import load_direction, open_direction, save_directions
from probes.steering import direction_hooks
from tests.planted import PLANTED_LAYER, harmful_rows, harmless_rows, refusing_model
from tests.test_dose import direction_at
from tests.tiny import tiny_model


def test_a_saved_direction_opens_in_one_line_and_closes_without_a_trace(tmp_path: Path) -> None:
    model, planted, _ = refusing_model()
    path = tmp_path / "directions.safetensors"
    save_directions(path, [direction_at(PLANTED_LAYER, planted, raw_norm=4.0)])
    bad, good = harmful_rows(model, 1)[0], harmless_rows(model, 1)[0]
    ids, before = refusal_token_ids(model), logits_of(model, bad)
    refuses, answers = log_odds(model, bad, ids), log_odds(model, good, ids)
    with open_direction(model, load_direction(path, "refusal", "base")) as same:
        assert same is model
        assert log_odds(model, bad, ids) < -3 < 3 < refuses
    with open_direction(model, load_direction(path, "refusal"), mode="add"):
        assert log_odds(model, good, ids) > 3 > -3 > answers
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert torch.equal(logits_of(model, bad), before)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_modes_and_coefficients_are_exact(kind: str) -> None:
    model = tiny_model(kind=kind)
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    unit = vector / vector.norm()
    direction = direction_at(2, vector, raw_norm=3.0)
    tokens = torch.tensor([harmful_rows(model, 1)[0]])
    plain = logits_of(model, tokens[0].tolist())
    with open_direction(model, direction):
        whole = logits_of(model, tokens[0].tolist())
    expected = logits_of(model, tokens[0].tolist(), ablation(model, vector))
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    with open_direction(model, direction, "ablate", 0.0):
        torch.testing.assert_close(logits_of(model, tokens[0].tolist()), plain, atol=0, rtol=0)
    _, cache = model.run_with_cache(tokens)
    with open_direction(model, direction, "add", -2.0):
        _, moved = model.run_with_cache(tokens)
    name = "blocks.2.hook_resid_pre"
    torch.testing.assert_close(moved[name], cache[name] - 6 * unit, atol=1e-5, rtol=1e-5)
    # Half of what each writer adds along the direction is gone.
    with open_direction(model, direction, "ablate", 0.5):
        _, half = model.run_with_cache(tokens)
    first = "blocks.0.hook_resid_pre"
    torch.testing.assert_close(half[first] @ unit, 0.5 * cache[first] @ unit, atol=1e-5, rtol=1e-5)


def test_blocks_nest_and_completions_see_the_open_hooks() -> None:
    model, planted, _ = refusing_model()
    rows = harmful_rows(model, 3)
    direction = direction_at(PLANTED_LAYER, planted, raw_norm=4.0)
    hooks = direction_hooks(model, direction)
    cut = generate(model, rows, 5, hooks=hooks)
    with open_direction(model, direction):
        assert generate(model, rows, 5) == cut
        with open_direction(model, direction, "add", 1.0):
            # Ablation after the addition at the same stream leaves later writers cut only.
            assert generate(model, rows, 5) != cut
        assert generate(model, rows, 5) == cut
    assert generate(model, rows, 5) != cut


def test_what_does_not_fit_the_model_is_refused() -> None:
    model, planted, _ = refusing_model()
    good = direction_at(PLANTED_LAYER, planted)
    with pytest.raises(InputError, match="mode"):
        open_direction(model, good, "subtract")
    for mode, coefficient in (("ablate", 1.5), ("ablate", -0.1), ("add", float("nan"))):
        with pytest.raises(InputError, match="coefficient"):
            open_direction(model, good, mode, coefficient)
    with pytest.raises(InputError, match="d_model is 32"):
        open_direction(model, direction_at(0, planted[:8]))
    with pytest.raises(InputError, match="no hook point"):
        open_direction(model, replace(good, hook_name="blocks.9.hook_resid_pre"))
