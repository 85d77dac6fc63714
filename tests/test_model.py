from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lpa_interp.errors import InputError
from lpa_interp.model import (
    HookedTransformer,
    hook_model,
    last_logits,
    load_hugging_face,
    load_model,
    new_cache,
    official_name,
    pick_device,
    source_of,
    unembed,
)
from lpa_interp.sources import find_source
from tests.tiny import SIZES, tiny_folder, tiny_hugging_face, tiny_model, tiny_tokenizer

KINDS = ["gpt2", *SIZES]


def random_hugging_face(kind: str, **changes: Any) -> Any:
    """A random model with large weights and settings that the tiny ones leave alone."""
    settings = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "vocab_size": len(tiny_tokenizer()),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **(settings | SIZES.get(kind, {}) | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def difference(model: HookedTransformer, hf_model: Any, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        theirs = hf_model(tokens).logits.log_softmax(-1)
        return float((model(tokens).log_softmax(-1) - theirs).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_hugging_face_under_left_padding(
    kind: str, tmp_path: Path
) -> None:
    folder = tiny_folder(tmp_path / kind, kind)
    model, hf_model = load_model(str(folder)), load_hugging_face(str(folder), "float32")
    tokens = torch.randint(3, 300, (3, 14))
    mask = torch.ones_like(tokens)
    mask[0, :5] = mask[1, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = hf_model(tokens, attention_mask=mask, position_ids=positions).logits
        ours = model(tokens, attention_mask=mask)
    gap = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().amax(-1)
    assert gap[mask.bool()].max() < 1e-4


THETA = {"rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
LLAMA3 = {
    **THETA,
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPE = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", **THETA}}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"rope_parameters": LLAMA3}),
        ("mistral", {"sliding_window": 8}),
        ("mistral", {"head_dim": 16}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("gemma", {"num_key_value_heads": 2, "head_dim": 16}),
        ("gemma2", {"sliding_window": 8}),
        ("gemma3_text", {"sliding_window": 8, "num_hidden_layers": 7}),
        ("gemma3_text", {"num_hidden_layers": 7, "rope_parameters": GEMMA_ROPE}),
        ("gpt_neox", {"use_parallel_residual": False}),
    ],
)
def test_windows_rotary_settings_and_sizes_are_converted(
    kind: str, changes: dict[str, Any]
) -> None:
    hf_model = random_hugging_face(kind, **changes)
    model = hook_model(hf_model, tiny_tokenizer(), "cpu", "float32")
    assert difference(model, hf_model, torch.randint(3, 300, (2, 200))) < 1e-3


@pytest.mark.parametrize(
    ("kind", "changes", "left_out"),
    [
        ("llama", {"rope_parameters": LINEAR}, "rope_type = linear"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
            "window",
        ),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("phi", {"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
def test_what_the_conversion_would_leave_out_is_refused(
    kind: str, changes: dict[str, Any], left_out: str
) -> None:
    with pytest.raises(InputError, match=left_out):
        hook_model(random_hugging_face(kind, **changes), tiny_tokenizer(), "cpu", "float32")


def test_an_architecture_without_conversion_is_refused() -> None:
    hf_model = random_hugging_face("stablelm", num_key_value_heads=2)
    with pytest.raises(InputError, match="StableLmForCausalLM: TransformerLens cannot"):
        hook_model(hf_model, tiny_tokenizer(), "cpu", "float32")


@pytest.mark.parametrize("kind", KINDS)
def test_last_logits_are_the_last_of_all_logits(kind: str) -> None:
    model = tiny_model(kind=kind)
    tokens = torch.randint(3, 300, (2, 9))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    every = model(tokens, attention_mask=mask)
    assert torch.allclose(last_logits(model, tokens, mask, 4), every[:, -4:], atol=1e-5)
    resid = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
    assert torch.allclose(unembed(model, resid), every, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "phi"])
def test_the_cache_gives_the_logits_of_the_whole_prompt(kind: str) -> None:
    model = tiny_model(kind=kind)
    tokens = torch.randint(3, 300, (2, 9))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    cache = new_cache(model, 2)
    last_logits(model, tokens[:, :6], mask[:, :6], cache=cache)
    rest = last_logits(model, tokens[:, 6:], mask[:, 6:], 3, cache=cache)
    assert torch.allclose(rest, last_logits(model, tokens, mask, 3), atol=1e-5)


def test_weights_lie_in_memory_as_the_forward_pass_reads_them() -> None:
    model = tiny_model(kind="llama")
    block = model.blocks[0]
    assert block.attn.W_Q.permute(0, 2, 1).is_contiguous()
    assert block.attn._W_K.permute(0, 2, 1).is_contiguous()
    assert block.attn.W_O.permute(2, 0, 1).is_contiguous()
    for weight in (block.mlp.W_in, block.mlp.W_gate, block.mlp.W_out, model.unembed.W_U):
        assert weight.T.is_contiguous()


def test_a_loaded_model_is_frozen_unprocessed_and_knows_its_source(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "llama")
    model, hf_model = load_model(str(folder)), load_hugging_face(str(folder), "float32")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert torch.equal(model.blocks[1].ln1.w, hf_model.model.layers[1].input_layernorm.weight)
    assert torch.equal(model.blocks[1].mlp.W_in, hf_model.model.layers[1].mlp.up_proj.weight.T)
    source = source_of(model)
    assert source is not None and source.location == str(folder.resolve())
    assert source_of(tiny_model()) is None
    assert model.tokenizer.padding_side == "left"


def test_bfloat16_is_the_dtype_of_every_weight_but_the_norms(tmp_path: Path) -> None:
    model = load_model(str(tiny_folder(tmp_path / "llama")), dtype="bfloat16")
    assert model.cfg.dtype == torch.bfloat16
    assert model.blocks[0].attn.W_Q.dtype == torch.bfloat16
    assert model(torch.tensor([[1, 5, 9]])).dtype == torch.bfloat16


def test_the_path_of_a_model_does_not_change_how_it_is_read(tmp_path: Path) -> None:
    # TransformerLens takes a family's name in the path for the family.
    folder = tiny_folder(tmp_path / "gemma-2-llama", "qwen2")
    model = load_model(str(folder))
    assert model.cfg.original_architecture == "Qwen2ForCausalLM"
    tokens = torch.randint(3, 300, (2, 9))
    assert difference(model, load_hugging_face(str(folder), "float32"), tokens) < 1e-4


def test_the_tokenizer_is_used_as_it_is() -> None:
    tokenizer = tiny_tokenizer()
    model = hook_model(tiny_hugging_face(), tokenizer, "cpu", "float32")
    assert model.tokenizer is tokenizer
    assert model.cfg.default_prepend_bos is False


@pytest.mark.parametrize("name", ["nonsense", "gpt-5000"])
def test_an_unknown_name_is_one_line_that_says_what_is_allowed(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown name .*\.gguf file") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2-small", "someone/something", "gelu-1l"])
def test_a_model_that_is_not_here_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_names_that_transformer_lens_knows_become_hub_ids() -> None:
    assert official_name("gpt2-small") == "gpt2"
    assert official_name("someone/something") == "someone/something"


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "llama")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_hugging_face().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(str(folder))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    for device in ("cuda", "mps"):
        with pytest.raises(InputError, match="not available here"):
            pick_device(device)


@pytest.mark.weights
def test_the_default_model_loads_within_ten_seconds_the_second_time(
    default_model: HookedTransformer,
) -> None:
    started = time.process_time()
    again = load_model()
    assert time.process_time() - started < 10
    assert torch.equal(again.W_E, default_model.W_E)


@pytest.mark.weights
def test_the_default_model_agrees_with_hugging_face(default_model: HookedTransformer) -> None:
    location = find_source("smollm2-135m-instruct").location
    tokens = torch.tensor([default_model.tokenizer("The capital of France is").input_ids])
    assert difference(default_model, load_hugging_face(location, "float32"), tokens) < 1e-3
