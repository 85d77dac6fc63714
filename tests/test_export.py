from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, Gemma3ForConditionalGeneration

import lpa_interp.export as export
from lpa_interp.errors import InputError
from lpa_interp.export import load_adapter, merged_hugging_face, save_adapter, save_merged
from lpa_interp.lora import LoraAdapter, attach_lora
from lpa_interp.model import HookedTransformer, load_hugging_face, load_model, source_of
from tests.tiny import SIZES, tiny_folder, tiny_model, tiny_tokenizer

KINDS = ["llama", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi"]
ALL_ROLES = ("q", "k", "v", "o", "up", "down")
TOKENS = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(0))
# PEFT reads an attribute that transformers renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def adapted(
    folder: Path, kind: str, roles: tuple[str, ...] = ALL_ROLES
) -> tuple[HookedTransformer, LoraAdapter]:
    """A tiny model with an adapter that changes its logits."""
    model = load_model(str(tiny_folder(folder / kind, kind)))
    adapter = attach_lora(model, roles, rank=3, alpha=6, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for update in adapter.updates.values():
            update.b.normal_(std=0.1)
    return model, adapter


def peft_logits(folder: Path, adapter_folder: Path) -> Tensor:
    """What the Hugging Face model with PEFT computes from a saved adapter."""
    base = load_hugging_face(str(folder), "float32")
    return PeftModel.from_pretrained(base, str(adapter_folder))(TOKENS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_our_adapter_and_gives_our_logits(kind: str, tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, kind)
    ours = model(TOKENS)
    with adapter.disabled():
        assert (model(TOKENS) - ours).abs().max() > 0.1
    save_adapter(model, adapter, tmp_path / "adapter")
    assert (peft_logits(tmp_path / kind, tmp_path / "adapter") - ours).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "roles"),
    [("gpt2", ("q", "v")), ("gpt2", ("o",)), ("gpt2", ("down",)), ("gpt_neox", ("k", "down"))],
)
def test_only_the_chosen_roles_are_exported(
    kind: str, roles: tuple[str, ...], tmp_path: Path
) -> None:
    model, adapter = adapted(tmp_path, kind, roles)
    ours = model(TOKENS)
    save_adapter(model, adapter, tmp_path / "adapter")
    assert (peft_logits(tmp_path / kind, tmp_path / "adapter") - ours).abs().max() < 1e-4
    adapter.detach()
    again = load_adapter(model, tmp_path / "adapter")
    assert {role for _, role in again.updates} == set(roles)
    assert torch.equal(model(TOKENS), ours)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_a_loaded_adapter_is_the_saved_one(kind: str, tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, kind)
    save_adapter(model, adapter, tmp_path / "adapter")
    again = load_adapter(load_model(str(tmp_path / kind)), tmp_path / "adapter")
    assert (again.rank, again.alpha) == (adapter.rank, adapter.alpha)
    saved, loaded = adapter.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "gpt_neox", "phi"])
def test_a_merged_folder_loads_as_the_adapted_model(kind: str, tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, kind)
    save_merged(model, adapter, tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"))
    assert (merged(TOKENS) - model(TOKENS)).abs().max() < 1e-5
    assert merged.tokenizer.chat_template == model.tokenizer.chat_template
    assert not list((tmp_path / "merged").glob("*.bin"))


def test_merging_works_for_detached_adapters_and_for_none(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "llama")
    ours = model(TOKENS)
    base = merged_hugging_face(model, None)(TOKENS).logits
    adapter.detach()
    assert (base - model(TOKENS)).abs().max() < 1e-4
    assert (merged_hugging_face(model, adapter)(TOKENS).logits - ours).abs().max() < 1e-4
    assert merged_hugging_face(model, adapter, "bfloat16").dtype == torch.bfloat16


def test_updates_merged_into_the_model_are_exported(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "qwen3")
    ours = model(TOKENS)
    adapter.merge()
    assert (merged_hugging_face(model, None)(TOKENS).logits - ours).abs().max() < 1e-4


def test_gemma_3_with_a_vision_tower_is_adapted_in_its_text_model_only(tmp_path: Path) -> None:
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "vocab_size": len(tiny_tokenizer()),
        "sliding_window": 8,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        **SIZES["gemma3_text"],
    }
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "gemma")
    tiny_tokenizer().save_pretrained(tmp_path / "gemma")
    model = load_model(str(tmp_path / "gemma"))
    adapter = attach_lora(model, ("q", "up"), rank=2, alpha=4, seed=0)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b)
    save_adapter(model, adapter, tmp_path / "adapter")
    theirs = peft_logits(tmp_path / "gemma", tmp_path / "adapter")
    assert (theirs - model(TOKENS)).abs().max() < 1e-4


def test_an_adapter_folder_is_replaced_and_other_folders_are_not(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "llama")
    save_adapter(model, adapter, tmp_path / "adapter")
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    with torch.no_grad():
        for update in adapter.updates.values():
            update.a.zero_()
    save_adapter(model, adapter, tmp_path / "adapter")
    after = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = next(name for name in before if "lora_A" in name)
    assert before[name].any() and not after[name].any()
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "adapter"}
    with pytest.raises(InputError, match="something else"):
        save_adapter(model, adapter, tmp_path / "llama")


def test_a_full_disk_leaves_the_old_adapter_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = adapted(tmp_path, "llama")
    save_adapter(model, adapter, tmp_path / "adapter")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(InputError, match="disk is full"):
        save_adapter(model, adapter, tmp_path / "adapter")
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "adapter"}
    monkeypatch.undo()
    adapter.detach()
    load_adapter(model, tmp_path / "adapter")


def test_a_fused_adapter_made_by_peft_is_loaded_exactly(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "gpt2", "gpt2")
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    peft_model = get_peft_model(load_hugging_face(str(tmp_path / "gpt2"), "float32"), config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    peft_model.save_pretrained(str(tmp_path / "adapter"))
    model = load_model(str(tmp_path / "gpt2"))
    load_adapter(model, tmp_path / "adapter")
    assert (model(TOKENS) - peft_model(TOKENS).logits).abs().max() < 1e-4


def test_a_fused_update_that_does_not_split_is_refused(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "gpt2", ("q", "k", "v"))
    save_adapter(model, adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    dense = {name: torch.ones_like(value) for name, value in load_file(path).items()}
    save_file(dense, path)
    adapter.detach()
    with pytest.raises(InputError, match="does not split"):
        load_adapter(model, tmp_path / "adapter")
    assert (model(TOKENS) - load_model(str(tmp_path / "gpt2"))(TOKENS)).abs().max() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"alpha_pattern": {"q_proj": 1.0}}, "differs between modules"),
        ({"r": 0}, "r = 0"),
        ({"r": 5}, "shape"),
    ],
)
def test_other_kinds_of_adapter_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    model, adapter = adapted(tmp_path, "llama")
    save_adapter(model, adapter, tmp_path / "adapter")
    adapter.detach()
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_adapter(model, tmp_path / "adapter")
    attach_lora(model, ("q",), 1, 1, seed=0)  # nothing was left attached


def test_pickles_missing_layers_and_damaged_files_are_refused(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "llama")
    with pytest.raises(InputError, match="is not an adapter"):
        load_adapter(model, tmp_path)
    save_adapter(model, adapter, tmp_path / "adapter")
    adapter.detach()
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    for name in [name for name in weights if "layers.3" in name]:
        weights.pop(name)
    save_file(weights, path)
    with pytest.raises(InputError, match="every layer"):
        load_adapter(model, tmp_path / "adapter")
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="damaged"):
        load_adapter(model, tmp_path / "adapter")
    path.rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match="pickles"):
        load_adapter(model, tmp_path / "adapter")


def test_another_base_model_is_a_warning(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "llama")
    save_adapter(model, adapter, tmp_path / "adapter")
    other = load_model(str(tiny_folder(tmp_path / "other", "llama", seed=1)))
    with pytest.warns(UserWarning, match="made for"):
        load_adapter(other, tmp_path / "adapter")
    source = source_of(other)
    assert source is not None and source.label == "other"


def test_merged_folders_are_never_written_over(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, "llama")
    with pytest.raises(InputError, match="exists already"):
        save_merged(model, adapter, tmp_path / "llama")
    (tmp_path / "empty").mkdir()
    save_merged(model, adapter, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_a_model_without_a_source_cannot_be_merged() -> None:
    with pytest.raises(InputError, match="load_model"):
        merged_hugging_face(tiny_model(), None)
