from __future__ import annotations

import pytest
import torch

from lpa_interp.chat import stack_rows
from lpa_interp.errors import InputError
from lpa_interp.generation import generate
from lpa_interp.hooks import ablation
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer
from probes.orthogonalise import orthogonalised, writing_weights
from tests.planted import harmful_rows, refusing_model
from tests.tiny import tiny_model


def some_direction(model: HookedTransformer) -> torch.Tensor:
    return torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))


def reads(model: HookedTransformer) -> dict[str, torch.Tensor]:
    """Logits and everything in and written into the residual stream, on two prompts."""
    tokens, mask = stack_rows(harmful_rows(model, 2), 0, None)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens, attention_mask=mask)
    kept = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    found = {name: value for name, value in cache.items() if name.endswith(kept)}
    return found | {"logits": logits}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2", "phi"])
def test_orthogonal_weights_equal_ablation_at_every_writer(kind: str) -> None:
    model = tiny_model(kind=kind)
    direction = some_direction(model)
    unit = direction / direction.norm()
    before = {name: p.data.clone() for name, p in model.named_parameters()}
    plain = reads(model)
    with model.hooks(fwd_hooks=ablation(model, direction)):
        hooked = reads(model)
    with orthogonalised(model, 7 * direction) as same:
        assert same is model
        projected = reads(model)
    assert projected.keys() == hooked.keys()
    for name, value in projected.items():
        torch.testing.assert_close(value, hooked[name], atol=1e-5, rtol=1e-5)
        if name != "logits":
            assert (value @ unit).abs().max() < 1e-5
    assert (plain["logits"] - hooked["logits"]).abs().max() > 1e-2
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.data, before[name])
    torch.testing.assert_close(reads(model)["logits"], plain["logits"], atol=0, rtol=0)


def test_only_writers_change_and_they_keep_their_order_in_memory() -> None:
    model = tiny_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    written = {names[id(parameter)] for parameter, _ in writing_weights(model)}
    assert {name.rsplit(".", 1)[1] for name in written} == {"W_E", "W_O", "b_O", "W_out", "b_out"}
    before = {name: (p.data.clone(), p.data.stride()) for name, p in model.named_parameters()}
    with orthogonalised(model, some_direction(model)):
        for name, parameter in model.named_parameters():
            changed = not torch.equal(parameter.data, before[name][0])
            zero = not before[name][0].any()  # biases that this architecture lacks
            assert changed == (name in written and not zero)
            assert parameter.data.stride() == before[name][1]


def test_a_tied_unembedding_still_reads_the_direction() -> None:
    model = tiny_model()
    model.unembed.W_U.data = model.embed.W_E.data.T
    read = model.unembed.W_U.data.clone()
    with orthogonalised(model, some_direction(model)):
        assert torch.equal(model.unembed.W_U.data, read)
    assert torch.equal(model.unembed.W_U.data, model.embed.W_E.data.T)


def test_an_adapter_is_projected_too_and_may_be_switched_off_inside() -> None:
    model = tiny_model()
    adapter = attach_lora(model, ["q", "o", "down"], rank=2, alpha=4, seed=0)
    with torch.no_grad():
        for update in adapter.updates.values():
            update.b.normal_(generator=torch.Generator().manual_seed(1))
    direction = some_direction(model)
    state = adapter.state_dict()
    with model.hooks(fwd_hooks=ablation(model, direction)):
        hooked = reads(model)["logits"]
        with adapter.disabled():
            hooked_base = reads(model)["logits"]
    assert (hooked - hooked_base).abs().max() > 1e-2
    with orthogonalised(model, direction):
        torch.testing.assert_close(reads(model)["logits"], hooked, atol=1e-5, rtol=1e-5)
        with adapter.disabled():
            torch.testing.assert_close(reads(model)["logits"], hooked_base, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in adapter.state_dict().items())


def test_a_model_that_cannot_write_its_refusal_direction_completes_as_an_ablated_one() -> None:
    model, direction, _ = refusing_model()
    rows = harmful_rows(model, 4)
    hooked = generate(model, rows, 6, hooks=ablation(model, direction))
    with orthogonalised(model, direction):
        assert generate(model, rows, 6) == hooked
    assert generate(model, rows, 6) != hooked


def test_weights_are_restored_after_an_error() -> None:
    model = tiny_model()
    before = model.embed.W_E.data
    with pytest.raises(RuntimeError, match="inside"), orthogonalised(model, some_direction(model)):
        assert model.embed.W_E.data is not before
        raise RuntimeError("inside")
    assert model.embed.W_E.data.data_ptr() == before.data_ptr()


def test_bad_directions_and_models_with_norms_after_their_writers_are_refused() -> None:
    model = tiny_model()
    for bad in (torch.zeros(32), torch.full((32,), torch.nan)):
        with pytest.raises(InputError, match="zero or not finite"), orthogonalised(model, bad):
            pass
    with pytest.raises(InputError, match="d_model is 32"), orthogonalised(model, torch.ones(16)):
        pass
    gemma = tiny_model(kind="gemma2")
    with (
        pytest.raises(InputError, match=r"a norm after each.*open_direction\(model, direction\)"),
        orthogonalised(gemma, torch.ones(32)),
    ):
        pass


def test_behind_a_norm_projected_weights_write_no_direction_but_are_not_ablation() -> None:
    """Why such models are refused: what is left of each output changes its size."""
    model = tiny_model(kind="gemma2", n_layers=1)
    block = model.blocks[0]
    unit = some_direction(model).double()
    unit = unit / unit.norm()
    gain = block.ln1_post.w.double()
    tokens = torch.arange(3, 15)[None]

    def written() -> torch.Tensor:
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
        return cache["blocks.0.hook_attn_out"][0].double()

    plain = written()
    ablated = plain - (plain @ unit)[:, None] * unit
    before = block.attn.W_O.data
    wide = before.double() * gain
    wide = (wide - (wide @ unit)[..., None] * unit) / gain
    block.attn.W_O.data = wide.float()
    projected = written()
    block.attn.W_O.data = before
    assert (projected @ unit).abs().max() < 1e-5 < (plain @ unit).abs().max()
    growth = (projected * ablated).sum(1) / (ablated * ablated).sum(1)
    torch.testing.assert_close(projected, growth[:, None] * ablated, atol=1e-4, rtol=1e-3)
    assert growth.min() > 1 and growth.max() - growth.min() > 0.01


def test_hooks_cut_the_direction_out_behind_such_a_norm() -> None:
    model = tiny_model(kind="gemma2")
    direction = some_direction(model)
    with torch.no_grad(), model.hooks(fwd_hooks=ablation(model, direction)):
        _, cache = model.run_with_cache(torch.arange(3, 15)[None])
    for layer in range(1, model.cfg.n_layers):
        along = cache[f"blocks.{layer}.hook_resid_pre"] @ direction / direction.norm()
        assert along.abs().max() < 1e-4
