from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.lora import LoraAdapter, attach_lora, join_heads, weight_place
from lpa_interp.model import HookedTransformer
from tests.tiny import tiny_model

TOKENS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
ROLES = ("q", "k", "v", "o", "up", "gate", "down")


def adapted(
    kind: str = "llama", roles: tuple[str, ...] = ROLES
) -> tuple[HookedTransformer, LoraAdapter]:
    """A tiny model with an adapter whose B is not zero."""
    model = tiny_model(kind=kind)
    adapter = attach_lora(model, roles, rank=3, alpha=6, seed=0)
    torch.manual_seed(1)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.1)
    return model, adapter


def loss(model: HookedTransformer) -> Tensor:
    value: Tensor = model(TOKENS, return_type="loss")
    return value


def test_a_fresh_adapter_changes_nothing() -> None:
    model = tiny_model()
    before = model(TOKENS)
    attach_lora(model, ROLES, rank=4, alpha=8, seed=0)
    assert torch.equal(model(TOKENS), before)


def test_the_start_depends_on_the_seed_alone() -> None:
    first, same, other = (
        attach_lora(tiny_model(), ("q",), 2, 4, seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["0.q.a"], other["0.q.a"])


@pytest.mark.parametrize("role", ROLES)
def test_the_adapted_weight_is_that_of_float64_arithmetic(role: str) -> None:
    model = tiny_model()  # 4 query heads, 2 key-value heads
    module, name = weight_place(model.blocks[1], role)
    before = getattr(module, name).double()
    adapter = attach_lora(model, (role,), rank=3, alpha=6, seed=0)
    update = adapter.updates[1, role]
    torch.nn.init.normal_(update.b)
    a, b = update.a.double(), update.b.double()
    joined = 2.0 * (b @ a).T  # [d_in, d_out]
    expected = torch.empty_like(before)
    if role in ("q", "k", "v"):
        d_head = before.shape[2]
        for head in range(before.shape[0]):
            expected[head] = before[head] + joined[:, head * d_head : (head + 1) * d_head]
    elif role == "o":
        d_head = before.shape[1]
        for head in range(before.shape[0]):
            expected[head] = before[head] + joined[head * d_head : (head + 1) * d_head]
    else:
        expected = before + joined
    assert (getattr(module, name).double() - expected).abs().max() < 1e-5
    assert (update.delta().double() + before - expected).abs().max() < 1e-5
    assert before.shape[0] == 2 or role not in ("k", "v")


def test_the_products_of_joined_weights_are_those_of_the_heads() -> None:
    model = tiny_model()
    attention = model.blocks[0].attn
    x = torch.randn(5, 32)
    by_head = torch.einsum("pm,nmh->pnh", x, attention.W_Q)
    assert torch.allclose(x @ join_heads(attention.W_Q, "q"), by_head.flatten(1), atol=1e-5)
    z = torch.randn(5, 4, 8)
    out = torch.einsum("pnh,nhm->pm", z, attention.W_O)
    assert torch.allclose(z.flatten(1) @ join_heads(attention.W_O, "o"), out, atol=1e-5)


def test_disabled_is_the_base_model_even_inside_frozen() -> None:
    model, adapter = adapted()
    ours = model(TOKENS)
    with adapter.disabled():
        base = model(TOKENS)
    assert torch.equal(base, tiny_model()(TOKENS))
    assert torch.equal(model(TOKENS), ours)
    with adapter.frozen():
        assert torch.equal(model(TOKENS), ours)
        with adapter.disabled():
            assert torch.equal(model(TOKENS), base)
        assert torch.equal(model(TOKENS), ours)


def test_frozen_computes_each_weight_once_and_gives_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, adapter = adapted(roles=("q", "down"))
    update, calls = adapter.updates[0, "q"], []
    compute = type(update).adapted
    monkeypatch.setattr(
        type(update), "adapted", lambda self, weight: calls.append(1) or compute(self, weight)
    )
    with adapter.frozen():
        for _ in range(3):
            assert not model(TOKENS).requires_grad
    assert len(calls) == len(adapter.updates)
    assert all(parameter.requires_grad for parameter in adapter.parameters())
    assert model(TOKENS).requires_grad
    assert len(calls) == 2 * len(adapter.updates)


def test_frozen_forgets_its_weights_afterwards() -> None:
    model, adapter = adapted()
    with adapter.frozen():
        before = model(TOKENS)
    with torch.no_grad():
        adapter.updates[0, "q"].b.mul_(2)
    assert not torch.equal(model(TOKENS), before)


def test_shared_weights_give_the_gradients_of_separate_ones() -> None:
    model, adapter = adapted()
    (loss(model) + 2 * loss(model)).backward()
    separate = [parameter.grad.clone() for parameter in adapter.parameters()]  # type: ignore[union-attr]
    for parameter in adapter.parameters():
        parameter.grad = None
    with adapter.shared():
        with torch.no_grad():
            loss(model)  # must not leave weights without gradients behind
        (loss(model) + 2 * loss(model)).backward()
    for parameter, expected in zip(adapter.parameters(), separate, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_only_the_adapter_gets_gradients() -> None:
    model, adapter = adapted()
    loss(model).backward()
    ours = {id(parameter) for parameter in adapter.parameters()}
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in ours)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_merge_keeps_the_logits_and_takes_the_adapter_off(kind: str) -> None:
    model, adapter = adapted(kind, ("q", "k", "v", "o", "up", "down"))
    ours = model(TOKENS)
    adapter.merge()
    assert torch.equal(model(TOKENS), ours)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in tiny_model(kind=kind).named_parameters()
    }


def test_detach_restores_every_bit() -> None:
    model, adapter = adapted()
    model(TOKENS)
    adapter.detach()
    fresh = tiny_model().state_dict()
    assert model.state_dict().keys() == fresh.keys()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())


def test_saved_weights_set_an_adapter() -> None:
    model, adapter = adapted()
    state = adapter.state_dict()
    other = tiny_model()
    again = attach_lora(other, ROLES, rank=3, alpha=6, seed=5)
    again.load_state_dict(state)
    assert torch.equal(other(TOKENS), model(TOKENS))
    state["0.q.a"].zero_()
    assert adapter.updates[0, "q"].a.any()  # the state is a copy


def test_a_model_without_gates_has_no_gate_to_adapt() -> None:
    with pytest.raises(InputError, match="'gate'"):
        attach_lora(tiny_model(kind="gpt2"), ("q", "gate"), 2, 4, seed=0)


def test_a_second_adapter_is_refused_until_the_first_is_off() -> None:
    model, adapter = adapted(roles=("q",))
    with pytest.raises(InputError, match="already"):
        attach_lora(model, ("v", "q"), 2, 4, seed=0)
    adapter.detach()
    attach_lora(model, ("v", "q"), 2, 4, seed=0)


def test_adapter_weights_are_float32_on_a_bfloat16_model() -> None:
    model = tiny_model().to(torch.bfloat16)
    adapter = attach_lora(model, ("q", "o"), 2, 4, seed=0)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert model.blocks[0].attn.W_Q.dtype == torch.bfloat16
