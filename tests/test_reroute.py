from __future__ import annotations

import pytest
import torch

from lpa_interp.batches import TraitBatch, make_batch
from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer
from lpa_interp.reroute import (
    EVERY_LAYER,
    Hidden,
    hidden_states,
    representation_loss,
    reroute_loss,
)
from tests.statements import STATEMENTS
from tests.tiny import tiny_model


def setup(kind: str = "llama") -> tuple[HookedTransformer, TraitBatch]:
    model = tiny_model(kind=kind)
    return model, make_batch(model, STATEMENTS[1:5], None).undesired_only()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("sites", [EVERY_LAYER, ("hook_embed", "blocks.{0.5}.hook_resid_pre")])
def test_states_are_those_of_one_whole_pass_at_every_real_token(
    kind: str, sites: tuple[str, ...]
) -> None:
    model, batch = setup(kind)
    found = hidden_states(model, batch, sites)
    assert len(found.states) == (4 if sites is EVERY_LAYER else 2)
    # The last token of an answer predicts nothing that counts, so it is not run.
    row = torch.cat([batch.prompt, batch.answers[0, :, :-1]], dim=1)
    mask = torch.cat([batch.prompt_mask, batch.answer_mask[0, :, :-1]], dim=1)
    assert torch.equal(found.mask, mask)
    cached: dict[str, torch.Tensor] = {}
    read = [(name, lambda a, hook: cached.update({hook.name: a})) for name in found.states]
    with model.hooks(fwd_hooks=read):
        model(row, attention_mask=mask)
    for name, states in found.states.items():
        real = mask.bool()
        torch.testing.assert_close(states[real], cached[name][real], rtol=1e-5, atol=1e-5)


def test_losses_are_means_over_hook_points_and_real_tokens_worked_by_hand() -> None:
    now = {
        "a": torch.tensor([[[1.0, 0.0], [3.0, 4.0], [99.0, 0.0]]]),
        "b": torch.tensor([[[0.0, 2.0], [-1.0, 0.0], [99.0, 0.0]]]),
    }
    base = {
        "a": torch.tensor([[[2.0, 0.0], [4.0, 3.0], [0.0, 1.0]]]),
        "b": torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]]),
    }
    mask = torch.tensor([[1, 1, 0]])
    rerouted = reroute_loss(Hidden(now, mask), Hidden(base, mask))
    assert rerouted.item() == pytest.approx(((1 + 24 / 25) / 2 + (1 + 0) / 2) / 2)
    kept = representation_loss(Hidden(now, mask), Hidden(base, mask))
    assert kept.item() == pytest.approx(((1 + 2**0.5) / 2 + (1 + 2) / 2) / 2)


def test_a_model_that_has_not_moved_is_wholly_unrouted_and_at_distance_zero() -> None:
    model, batch = setup()
    states = hidden_states(model, batch)
    assert reroute_loss(states, states).item() == pytest.approx(1)
    assert representation_loss(states, states).item() == 0


def test_a_site_that_does_not_carry_d_model_or_does_not_exist_is_refused() -> None:
    model, batch = setup()
    with pytest.raises(InputError, match="does not carry d_model"):
        hidden_states(model, batch, ("blocks.0.attn.hook_z",))
    with pytest.raises(InputError, match="no such hook point"):
        hidden_states(model, batch, ("blocks.0.hook_nothing",))
