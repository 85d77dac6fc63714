from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lpa_interp import batches
from lpa_interp.attack import attack_loss
from lpa_interp.batches import TraitBatch, answer_logits, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.fused import OUTER_HOOKS, _norm, _rotate, can_fuse, fused_resid
from lpa_interp.hooks import ablate
from lpa_interp.lora import LoraAdapter, attach_lora
from lpa_interp.model import HookedTransformer
from tests import tiny
from tests.statements import STATEMENTS
from tests.tiny import SIZES, tiny_model
from tests.whole_passes import answering_model, random_deltas, whole_passes

FUSED = ["llama", "mistral", "qwen2", "qwen3", "sequential gpt_neox"]
SITES = ["hook_embed", *(f"blocks.{i % 4}.{name}" for i, name in enumerate(OUTER_HOOKS[1:]))]
ROLES = ("q", "k", "v", "o", "up", "down")


def model_of(kind: str) -> HookedTransformer:
    """A tiny model; GPT-NeoX's blocks can be sequential, with LayerNorm and half-turned heads."""
    with pytest.MonkeyPatch.context() as patch:
        if kind.startswith("sequential"):
            patch.setitem(tiny.SIZES, "gpt_neox", {"use_parallel_residual": False})
        return tiny_model(kind=kind.removeprefix("sequential "))


def cast(model: HookedTransformer, dtype: torch.dtype) -> HookedTransformer:
    model.to(dtype)
    model.cfg.dtype = dtype
    return model


def adapted(model: HookedTransformer) -> LoraAdapter:
    """An adapter whose B is not zero."""
    adapter = attach_lora(model, ROLES, rank=3, alpha=6, seed=0)
    generator = torch.Generator().manual_seed(1)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.1, generator=generator)
    return adapter


@contextmanager
def only(kind: str) -> Iterator[None]:
    """Inside, `answer_logits` must take the pass of this name, and take it at least once."""
    taken: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, way in {"packed": "run_packed", "cached": "_cached"}.items():
            run = getattr(batches, way)
            patch.setattr(batches, way, lambda *a, n=name, run=run: taken.append(n) or run(*a))
        if kind == "cached":
            patch.setattr(batches, "can_fuse", lambda *_: False)
        yield
    assert set(taken) == {kind}


def loss_of(logits: Tensor, batch: TraitBatch) -> Tensor:
    """A random function of all log-probabilities of the real answer tokens."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    log_probs = logits.float().log_softmax(-1) * weights * batch.answer_mask[..., None]
    return log_probs.sum() / batch.answer_mask.sum()


def assert_close(found: Tensor, expected: Tensor) -> None:
    size = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("adapter", ["none", "frozen", "trained"])
@pytest.mark.parametrize("kind", FUSED)
def test_packed_cached_and_whole_passes_give_the_same_logits_and_gradients(
    kind: str, adapter: str
) -> None:
    model = model_of(kind)
    batch = make_batch(model, STATEMENTS[:4], None)
    deltas = random_deltas(model, batch, SITES)
    wanted = list(deltas.values())
    lora = adapted(model) if adapter != "none" else None
    if lora is not None and adapter == "trained":
        wanted += lora.parameters()
    with lora.frozen() if lora is not None and adapter == "frozen" else nullcontext():
        whole = whole_passes(model, batch, deltas)
        expected = torch.autograd.grad(loss_of(whole, batch), wanted)
        for way in ("packed", "cached"):
            with only(way):
                logits = answer_logits(model, batch, deltas)
            real = batch.answer_mask.bool()
            torch.testing.assert_close(logits[real], whole[real], rtol=1e-5, atol=1e-5)
            found = torch.autograd.grad(loss_of(logits, batch), wanted)
            for ours, theirs in zip(found, expected, strict=True):
                assert_close(ours, theirs)


@pytest.mark.parametrize("kind", FUSED)
def test_hooks_that_are_open_take_part_inside_a_block_by_falling_back(kind: str) -> None:
    model = model_of(kind)
    batch = make_batch(model, STATEMENTS, None)
    deltas = random_deltas(model, batch, ["hook_embed"])
    outer = [(name, ablate(torch.eye(32)[5])) for name in SITES]
    inner = [("blocks.2.attn.hook_z", lambda activation, hook: 2 * activation)]
    real, plain = batch.answer_mask.bool(), whole_passes(model, batch, deltas)
    for hooks, way in ((outer, "packed"), (inner, "cached")):
        with model.hooks(fwd_hooks=hooks):
            assert can_fuse(model, 64) == (way == "packed")
            with torch.no_grad(), only(way) if way == "packed" else nullcontext():
                found = answer_logits(model, batch, deltas)
            expected = whole_passes(model, batch, deltas)
        torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected[real], plain[real], atol=1e-2)
    assert can_fuse(model, 64)


@pytest.mark.parametrize("kind", FUSED)
def test_answers_do_not_see_each_other(kind: str) -> None:
    model = model_of(kind)
    batch = make_batch(model, STATEMENTS, None)
    answers = batch.answers.clone()
    answers[1] = torch.randint_like(answers[1], 3, model.cfg.d_vocab)
    lengths = batch.answer_mask.clone()
    lengths[1] = 1
    with only("packed"):
        before = answer_logits(model, batch)
        after = answer_logits(model, replace(batch, answers=answers, answer_mask=lengths))
        alone = answer_logits(model, batch.desired_only())
    torch.testing.assert_close(after[0], before[0], rtol=1e-6, atol=1e-6)
    real = batch.answer_mask[0].bool()
    torch.testing.assert_close(alone[0][real], before[0][real], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[1], before[1], atol=1e-2)


@pytest.mark.parametrize("kind", FUSED)
def test_padding_on_the_left_does_not_matter(kind: str) -> None:
    model = model_of(kind)
    together = make_batch(model, STATEMENTS, None)
    assert (together.prompt_mask == 0).any()
    with only("packed"):
        logits = answer_logits(model, together)
        for index, statement in enumerate(STATEMENTS):
            alone = make_batch(model, [statement], None)
            expected = answer_logits(model, alone)[:, 0]
            real = alone.answer_mask[:, 0].bool()
            ours = logits[:, index, : real.shape[1]]
            torch.testing.assert_close(ours[real], expected[real], rtol=1e-5, atol=1e-5)


def test_the_pass_stops_before_the_block_it_is_told() -> None:
    model = tiny_model()
    tokens = torch.randint(3, 300, (2, 7), generator=torch.Generator().manual_seed(0))
    allowed = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    for layer in (1, 3, None):
        stop = model.cfg.n_layers if layer is None else layer
        found = fused_resid(model, tokens, torch.arange(7).expand(2, 7), allowed, layer)
        torch.testing.assert_close(found, model(tokens, stop_at_layer=stop))


def test_architectures_with_other_blocks_are_left_to_the_cached_pass() -> None:
    assert [kind for kind in [*SIZES, "gpt2"] if can_fuse(model_of(kind), 64)] == FUSED[:-1]
    assert can_fuse(model_of("sequential gpt_neox"), 64)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("attn_scores_soft_cap", 50.0),
        ("use_split_qkv_input", True),
        ("use_hook_mlp_in", True),
        ("attn_only", True),
        ("parallel_attn_mlp", True),
        ("use_normalization_before_and_after", True),
        ("normalization_type", "LNPre"),
        ("positional_embedding_type", "standard"),
        ("attention_dir", "bidirectional"),
        ("original_architecture", "Olmo2ForCausalLM"),
    ],
)
def test_a_setting_that_the_pass_does_not_know_is_left_to_the_cached_pass(
    setting: str, value: object
) -> None:
    model = tiny_model()
    assert can_fuse(model, 64)
    setattr(model.cfg, setting, value)
    assert not can_fuse(model, 64)


def test_a_local_attention_window_is_left_to_the_cached_pass_where_it_is_too_short() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.SIZES, "mistral", {"num_key_value_heads": 2, "sliding_window": 20})
        model = tiny_model(kind="mistral")
    assert can_fuse(model, 20) and not can_fuse(model, 21)
    batch = make_batch(model, STATEMENTS, None)
    real = batch.answer_mask.bool()
    expected = whole_passes(model, batch)[real]
    torch.testing.assert_close(answer_logits(model, batch)[real], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_bfloat16_strays_no_further_from_float32_than_the_plain_pass(kind: str) -> None:
    model = model_of(kind)
    batch = make_batch(model, STATEMENTS, None)
    real = batch.answer_mask.bool()
    exact = answer_logits(model, batch)[real]
    cast(model, torch.bfloat16)
    with only("packed"):
        ours = answer_logits(model, batch)[real].float()
    plain = whole_passes(model, batch)[real].float()
    assert (ours - exact).norm() <= 1.2 * (plain - exact).norm()
    assert (ours - exact).norm() <= 0.03 * exact.norm()


def test_gradients_of_norm_and_rotation_agree_with_finite_differences() -> None:
    model = cast(model_of("qwen3"), torch.float64)
    block, generator = model.blocks[1], torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 32, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: _norm(block.ln1, z), (x,))
    heads = torch.randn(1, 3, 2, 16, dtype=torch.float64, generator=generator).requires_grad_()
    angle = torch.rand(1, 3, 1, 8, dtype=torch.float64, generator=generator)
    turn = (angle.cos().repeat(1, 1, 1, 2), angle.sin().repeat(1, 1, 1, 2))
    assert torch.autograd.gradcheck(lambda z: _rotate(block.attn, z, turn), (heads,))
    turned = _rotate(block.attn, heads, turn)
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))


@pytest.mark.parametrize("way", ["packed", "cached"])
def test_gradients_of_the_attack_agree_with_finite_differences(way: str) -> None:
    model = cast(answering_model(n_layers=2), torch.float64)
    batch = make_batch(model, STATEMENTS[3:5], None)
    site = "blocks.0.hook_mlp_out"
    start = random_deltas(model, batch, [site])[site].detach()
    # All coordinates of all tokens would take thousands of passes: a random plane through them.
    plane = torch.randn(3, *start.shape).double()
    config = TrainConfig.model_validate({"preset": "custom"})

    def loss(at: Tensor) -> Tensor:
        delta = start + torch.einsum("k,kbtd->btd", at, plane)
        return attack_loss(model, batch, {site: delta}, config)[0]

    at = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with only(way):
        assert torch.autograd.gradcheck(loss, (at,), rtol=1e-6)
