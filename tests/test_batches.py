from __future__ import annotations

import pytest
import torch

from lpa_interp.batches import answer_logits, first_non_finite, make_batch
from tests.statements import STATEMENTS
from tests.tiny import SIZES, tiny_model

KINDS = [*SIZES, "gpt2"]


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prompt_gives_the_logits_of_two_whole_passes(kind: str) -> None:
    model = tiny_model(kind=kind)
    batch = make_batch(model, STATEMENTS, None)
    together = answer_logits(model, batch)
    for which in range(2):
        tokens = torch.cat([batch.prompt, batch.answers[which]], dim=1)
        mask = torch.cat([batch.prompt_mask, batch.answer_mask[which]], dim=1)
        n_answer = batch.answers.shape[-1]
        whole = model(tokens, attention_mask=mask)[:, -n_answer - 1 : -1]
        real = batch.answer_mask[which].bool()
        assert torch.allclose(together[which][real], whole[real], atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_shared_prompt_gives_the_gradients_of_two_whole_passes(kind: str) -> None:
    model = tiny_model(kind=kind)
    batch = make_batch(model, STATEMENTS, None)
    site, n_answer = "blocks.1.hook_mlp_out", batch.answers.shape[-1]
    shape = (*batch.attack_mask("both").shape, model.cfg.d_model)
    delta = torch.zeros(shape, requires_grad=True)
    weights = torch.randn(2, len(STATEMENTS), n_answer, model.cfg.d_vocab)
    weights = weights * batch.answer_mask[..., None]
    (shared,) = torch.autograd.grad(
        (answer_logits(model, batch, {site: delta}) * weights).sum(), delta
    )
    total = torch.tensor(0.0)
    for which in range(2):
        tokens = torch.cat([batch.prompt, batch.answers[which]], dim=1)
        mask = torch.cat([batch.prompt_mask, batch.answer_mask[which]], dim=1)
        with model.hooks(fwd_hooks=[(site, lambda a, hook: a + delta)]):
            whole = model(tokens, attention_mask=mask)[:, -n_answer - 1 : -1]
        total = total + (whole * weights[which]).sum()
    (separate,) = torch.autograd.grad(total, delta)
    assert torch.allclose(shared, separate, atol=1e-4)


def test_attack_mask_covers_what_it_names_and_no_padding() -> None:
    batch = make_batch(tiny_model(), STATEMENTS, None)
    n_prompt = batch.prompt.shape[1]
    prompt, completion = batch.attack_mask("prompt"), batch.attack_mask("completion")
    assert torch.equal(prompt[:, :n_prompt], batch.prompt_mask)
    assert prompt[:, n_prompt:].sum() == 0
    assert completion[:, :n_prompt].sum() == 0
    longest = batch.answer_mask.sum(-1).amax(0)
    assert torch.equal(completion.sum(1), longest - 1)
    assert torch.equal(batch.attack_mask("both"), prompt + completion)


def test_the_first_hook_point_that_is_not_finite_is_named() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    assert first_non_finite(model, batch).startswith("no hook point")
    with torch.no_grad():
        model.blocks[2].mlp.W_out[0, 0] = torch.inf
    assert first_non_finite(model, batch) == "blocks.2.hook_mlp_out"
