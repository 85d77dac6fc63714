"""Packed rows and trees against one whole pass per example and answer."""

from __future__ import annotations

import pytest
import torch

from lpa_interp import packing
from lpa_interp.batches import answer_logits, make_batch
from tests.statements import STATEMENTS
from tests.tiny import tiny_model
from tests.whole_passes import whole_passes

SYSTEM = "You are a helpful assistant. Tell me how to open the lock."


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_tree_gives_the_logits_and_gradients_of_whole_passes(
    kind: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, used = tiny_model(kind=kind), []
    plain = packing._as_trees
    monkeypatch.setattr(packing, "_as_trees", lambda *a: used.append(1) or plain(*a))  # type: ignore[func-returns-value]
    chosen = [STATEMENTS[index % len(STATEMENTS)] for index in range(n)]
    batch = make_batch(model, chosen, SYSTEM)
    weight = model.blocks[1].mlp.W_out.requires_grad_()
    real = batch.answer_mask.bool()
    found = answer_logits(model, batch)[real[..., :]]
    expected = whole_passes(model, batch)[real]
    assert used == [1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(x.logsumexp(-1).sum(), weight)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_a_tree_is_not_taken_where_something_is_perturbed_or_hooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a tree")

    monkeypatch.setattr(packing, "_as_trees", fail)
    model = tiny_model()
    batch = make_batch(model, STATEMENTS[:4], SYSTEM)
    shape = (*batch.attack_mask("both").shape, model.cfg.d_model)
    answer_logits(model, batch, {"hook_embed": torch.zeros(shape)})
    seen = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: seen.append(x.shape))]):
        answer_logits(model, batch)
    assert seen[0][0] == 4


def test_prompts_share_what_they_all_begin_with_and_keep_a_token_of_their_own() -> None:
    tokens = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 7, 8, 9], [0, 5, 6, 7, 1]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    assert packing.shared_start(tokens, mask) == 2
    assert packing.shared_start(tokens[1:], mask[1:]) == 3
    assert packing.shared_start(tokens.flip(1), torch.ones_like(mask)) == 0


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 2), (6, 6), (8, 8), (12, 6), (11, 1), (32, 8)])
def test_trees_divide_the_batch(n: int, size: int) -> None:
    assert packing.tree_size(n) == size
