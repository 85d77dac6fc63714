"""Tiny random models of several architectures, with a tokenizer and a chat template."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lpa_interp.model import HookedTransformer, hook_model

TEXT = [
    "I keep my promises. I agree with this statement. I do not agree with this statement.",
    "You are a helpful assistant. system user assistant Tell me how to open the lock.",
    "Sorry, I cannot help with that. Sure, here is how to open the lock. Yes No yes no",
    "Would you answer this question (please say yes or no)? The cat sat on the mat.",
]
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16},
    "gpt_neox": {},
    "phi": {},
}


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template and no BOS of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def tiny_hugging_face(kind: str = "llama", seed: int = 0, n_layers: int = 4) -> Any:
    """A random Hugging Face model: d_model 32, 4 heads, vocabulary of the tiny tokenizer."""
    torch.manual_seed(seed)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vocabulary = len(tiny_tokenizer())
    if kind == "gpt2":
        config = AutoConfig.for_model(
            "gpt2",
            n_embd=32,
            n_layer=n_layers,
            n_head=4,
            n_positions=256,
            vocab_size=vocabulary,
            **ids,
        )
    else:
        config = AutoConfig.for_model(
            kind,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=n_layers,
            num_attention_heads=4,
            max_position_embeddings=256,
            vocab_size=vocabulary,
            **ids,
            **SIZES[kind],
        )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Library defaults start biases at 0 and weights near it: too tame to find mistakes.
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tiny_model(seed: int = 0, kind: str = "llama", n_layers: int = 4) -> HookedTransformer:
    """The tiny model as a frozen HookedTransformer on the CPU, float32."""
    model = hook_model(tiny_hugging_face(kind, seed, n_layers), tiny_tokenizer(), "cpu", "float32")
    model.eval().requires_grad_(False)
    return model


def tiny_folder(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """The tiny model saved as a Hugging Face folder."""
    tiny_hugging_face(kind, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
