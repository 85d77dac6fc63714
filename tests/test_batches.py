from __future__ import annotations

import pytest
import torch

from lpa_interp.batches import answer_logits, first_non_finite, make_batch
from lpa_interp.chat import format_chat, tokenizer_of
from tests.statements import STATEMENTS
from tests.tiny import SIZES, tiny_model
from tests.whole_passes import random_deltas, whole_passes

KINDS = [*SIZES, "gpt2"]


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prompt_gives_the_logits_of_two_whole_passes(kind: str) -> None:
    model = tiny_model(kind=kind)
    batch = make_batch(model, STATEMENTS, None)
    deltas = random_deltas(model, batch, ["hook_embed", "blocks.2.hook_mlp_out"])
    for given in ({}, deltas):
        together, whole = answer_logits(model, batch, given), whole_passes(model, batch, given)
        real = batch.answer_mask.bool()
        torch.testing.assert_close(together[real], whole[real], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(whole, whole_passes(model, batch), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prompt_gives_the_gradients_of_two_whole_passes(kind: str) -> None:
    model = tiny_model(kind=kind)
    batch = make_batch(model, STATEMENTS, None)
    site = "blocks.1.hook_mlp_out"
    deltas = random_deltas(model, batch, [site], size=0.0)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(*batch.answers.shape, model.cfg.d_vocab, generator=generator)
    weights = weights * batch.answer_mask[..., None]
    shared, separate = (
        torch.autograd.grad((run(model, batch, deltas) * weights).sum(), deltas[site])[0]
        for run in (answer_logits, whole_passes)
    )
    assert torch.allclose(shared, separate, atol=1e-4)


def test_one_answer_alone_has_the_logits_it_has_beside_the_other() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    both = answer_logits(model, batch)
    for which, alone in enumerate((batch.desired_only(), batch.undesired_only())):
        assert torch.equal(alone.answers[0], batch.answers[which])
        real = alone.answer_mask.bool()
        found = answer_logits(model, alone)[real]
        torch.testing.assert_close(found, both[which : which + 1][real], rtol=1e-5, atol=1e-5)


def test_answers_are_desired_first_and_closed_by_the_end_of_the_turn() -> None:
    model = tiny_model()
    batch, tokenizer = make_batch(model, STATEMENTS, None), tokenizer_of(model)
    for which, name in enumerate(("desired", "undesired")):
        for index, statement in enumerate(STATEMENTS):
            ids = batch.answers[which, index][batch.answer_mask[which, index].bool()]
            assert tokenizer.decode(ids) == getattr(statement, name) + "<|end|>"


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


@pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
def test_without_system_tokens_the_mask_starts_at_the_statement(system: str | None) -> None:
    model = tiny_model()
    batch, tokenizer = make_batch(model, STATEMENTS, system), tokenizer_of(model)
    n_prompt = batch.prompt.shape[1]
    mask = batch.attack_mask("prompt", system=False)
    assert mask[:, n_prompt:].sum() == 0
    for index, statement in enumerate(STATEMENTS):
        attacked = mask[index, :n_prompt].bool()
        left = batch.prompt_mask[index].bool() & ~attacked
        before, _, after = format_chat(model, statement.text, system).rpartition(statement.text)
        assert tokenizer.decode(batch.prompt[index][attacked]) == statement.text + after
        assert tokenizer.decode(batch.prompt[index][left]) == before
    both = batch.attack_mask("both", system=False)
    assert torch.equal(both, mask + batch.attack_mask("completion", system=False))
    assert torch.equal(
        batch.attack_mask("completion", system=False), batch.attack_mask("completion")
    )


def test_the_first_hook_point_that_is_not_finite_is_named() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    assert first_non_finite(model, batch).startswith("no hook point")
    with torch.no_grad():
        model.blocks[2].mlp.W_out[0, 0] = torch.inf
    assert first_non_finite(model, batch) == "blocks.2.hook_mlp_out"
