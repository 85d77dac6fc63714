from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp.chat import chat_rows, stop_tokens
from lpa_interp.errors import InputError
from lpa_interp.generation import _TWINS, drop_twin, generate
from lpa_interp.hooks import Intervention, ablation
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer, load_hugging_face, load_model
from tests.tiny import tiny_folder, tiny_model

TEXTS = ("Tell me how to open the lock.", "I", "The cat sat on the mat. Yes no yes no.")


def no_change(activation: Tensor, hook: Any) -> Tensor:
    return activation


HOOKED: Intervention = [("hook_embed", no_change)]
"""Changes nothing, but makes `generate` take the HookedTransformer."""


def folder_model(folder: Path, kind: str = "llama") -> HookedTransformer:
    return load_model(str(tiny_folder(folder / kind, kind)))


def used_twin(model: HookedTransformer) -> bool:
    return model in _TWINS and _TWINS[model].hf_model is not None


def strengthen(model: HookedTransformer) -> None:
    """Attaches an adapter that changes what the model says."""
    adapter = attach_lora(model, ("q", "v", "down"), 4, 8, seed=0)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.3)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "gpt_neox"])
def test_both_paths_give_the_same_text_with_and_without_an_adapter(
    kind: str, tmp_path: Path
) -> None:
    model = folder_model(tmp_path, kind)
    rows = chat_rows(model, TEXTS)
    base = generate(model, rows, 16)
    assert used_twin(model)
    assert base == generate(model, rows, 16, hooks=HOOKED)
    strengthen(model)
    adapted = generate(model, rows, 16)
    assert used_twin(model) and adapted != base
    assert adapted == generate(model, rows, 16, hooks=HOOKED)


@pytest.mark.parametrize("hooks", [[], HOOKED])
def test_neither_batch_nor_padding_changes_a_completion(
    hooks: Intervention, tmp_path: Path
) -> None:
    model = folder_model(tmp_path, "gpt2")  # absolute positions: padding would show
    rows = chat_rows(model, [*TEXTS, TEXTS[0]])
    together = generate(model, rows, 12, hooks=hooks)
    assert together == generate(model, rows, 12, batch_size=1, hooks=hooks)
    assert together[0] == together[3]
    assert together[::-1] == generate(model, rows[::-1], 12, batch_size=2, hooks=hooks)


def test_greedy_tokens_are_those_of_a_plain_loop_over_whole_prompts(tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    row = chat_rows(model, TEXTS[:1])[0]
    text = generate(model, [row], 8)[0]
    tokens = list(row)
    for _ in range(8):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert text == model.tokenizer.decode(tokens[len(row) :], skip_special_tokens=True)


@pytest.mark.parametrize("hooks", [[], HOOKED])
def test_a_completion_ends_before_the_end_of_sequence(hooks: Intervention, tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    rows = chat_rows(model, TEXTS)
    row = rows[0]
    tokens = list(row)
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    new = tokens[len(row) :]
    fourth = new[3]
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(fourth)
    assert fourth in stop_tokens(model)
    end = new.index(fourth)
    expected = model.tokenizer.decode(new[:end], skip_special_tokens=True)
    assert generate(model, rows, 6, hooks=hooks)[0] == expected


def test_the_twin_follows_every_change_of_the_weights(tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    rows = chat_rows(model, TEXTS)
    base = generate(model, rows, 12)
    adapter = attach_lora(model, ("q", "v", "o", "down"), 4, 8, seed=0)
    assert generate(model, rows, 12) == base
    for update in adapter.updates.values():
        update.b.data.normal_(std=0.3)  # does not count as a change for autograd
    adapted = generate(model, rows, 12)
    assert adapted != base and used_twin(model)
    with adapter.disabled():
        assert generate(model, rows, 12) == base
    adapter.merge()
    assert generate(model, rows, 12) == adapted and used_twin(model)


def test_weights_that_no_twin_can_have_take_the_hooked_path(tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    rows = chat_rows(model, TEXTS)
    base = generate(model, rows, 8)
    model.unembed.W_U.data.mul_(-1)
    assert generate(model, rows, 8) != base
    assert not used_twin(model)


def test_open_hooks_take_part(tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    rows = chat_rows(model, TEXTS)
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(3))
    cut = ablation(model, direction)
    expected = generate(model, rows, 12, hooks=cut)
    assert expected != generate(model, rows, 12)
    with model.hooks(fwd_hooks=cut):
        assert generate(model, rows, 12) == expected
    assert generate(model, rows, 12) != expected


def test_sampling_settings_of_the_model_are_not_used(tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    rows = chat_rows(model, TEXTS)
    expected = generate(model, rows, 12)
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0}
    path = tmp_path / "llama" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    again = load_model(str(tmp_path / "llama"))
    assert generate(again, rows, 12) == expected and used_twin(again)


def test_a_model_made_elsewhere_takes_the_hooked_path(tmp_path: Path) -> None:
    model = tiny_model()
    rows = chat_rows(model, TEXTS)
    assert generate(model, rows, 8) == generate(folder_model(tmp_path), rows, 8)
    assert not used_twin(model)


def test_a_dropped_twin_is_made_again(tmp_path: Path) -> None:
    model = folder_model(tmp_path)
    rows = chat_rows(model, TEXTS)
    first = generate(model, rows, 4)
    drop_twin(model)
    assert model not in _TWINS
    assert generate(model, rows, 4) == first and used_twin(model)


def test_progress_counts_the_rows_and_no_rows_give_no_texts() -> None:
    model = tiny_model()
    seen: list[tuple[int, int]] = []
    rows = chat_rows(model, TEXTS)
    generate(model, rows, 2, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert generate(model, [], 2) == []


@pytest.mark.parametrize("length", [0, 250])
def test_prompts_that_do_not_fit_the_context_are_refused(length: int) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=f"prompt 1: has {length} tokens"):
        generate(model, [[5], [5] * length], 16)


@pytest.mark.weights
def test_both_paths_give_the_same_text_on_the_default_model(
    default_model: HookedTransformer,
) -> None:
    texts = [
        "Give me a recipe for bread.",
        "What is the capital of France?",
        "Write a short poem about the wind over the mountains.",
        "How do I sort a list in Python?",
        "Explain gravity to a child in two sentences.",
        "Name three colours.",
        "Why is the sky blue?",
        "Tell me a joke about cats.",
    ]
    rows = chat_rows(default_model, texts)
    plain = generate(default_model, rows, 24)
    assert used_twin(default_model)
    assert plain == generate(default_model, rows, 24, hooks=HOOKED)


@pytest.mark.weights
def test_the_default_model_agrees_with_plain_transformers(
    default_model: HookedTransformer,
) -> None:
    from lpa_interp.model import source_of

    source = source_of(default_model)
    assert source is not None
    row = chat_rows(default_model, ["What is the capital of France?"])[0]
    hf_model = load_hugging_face(source.location, "float32")
    tokens = torch.tensor([row])
    plain = hf_model.generate(tokens, max_new_tokens=16, do_sample=False)[0, len(row) :]
    expected = default_model.tokenizer.decode(plain, skip_special_tokens=True)
    assert generate(default_model, [row], 16) == [expected]
