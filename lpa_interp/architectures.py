"""Hugging Face configurations that TransformerLens 3.9 cannot read from a folder.

TransformerLens fixes the sizes of Gemma models in a table of names, and reads attributes of
Phi configurations that transformers 5 moved. Here the same keys of ``HookedTransformerConfig``
come from the configuration itself; the weights go through TransformerLens' own conversion.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def settings_from_config(config: Any) -> dict[str, Any] | None:
    """HookedTransformerConfig keys for Gemma and Phi models; None for any other.

    Of a Gemma 3 that also reads images, the text model is taken.

    Source: the branches of TransformerLens' ``loading_from_pretrained.convert_hf_model_config``
    for these architectures, with the sizes of ``config``.
    """
    architecture = config.architectures[0]
    if architecture == "GemmaForCausalLM":
        return _gemma(config, architecture)
    if architecture == "Gemma2ForCausalLM":
        return _gemma(config, architecture) | _gemma2(config)
    if architecture in ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"):
        text = config.get_text_config()
        return _gemma(text, architecture) | _gemma3(text)
    return _phi(config) if architecture == "PhiForCausalLM" else None


def unsupported_setting(config: Any, settings: dict[str, Any]) -> str | None:
    """What in the configuration TransformerLens' conversion would silently leave out.

    Args:
        config: The Hugging Face configuration.
        settings: The ``HookedTransformerConfig`` keys made from it.
    """
    text = config.get_text_config()
    for name in ("attention_bias", "mlp_bias"):  # GPT-NeoX's are converted
        if getattr(text, name, False) and text.model_type in ("llama", "mistral", "qwen3"):
            return f"{name} = true"
    if getattr(text, "qk_layernorm", False):
        return "qk_layernorm = true"
    if text.model_type == "phi" and text.num_key_value_heads != text.num_attention_heads:
        return "num_key_value_heads"
    windows = set(getattr(text, "layer_types", None) or ()) & {"sliding_attention"}
    if windows and not settings.get("use_local_attn"):
        return "sliding_window"
    for rope in _rope_settings(text):
        kind = rope.get("rope_type", "default")
        known = {
            "default": True,
            "llama3": settings.get("use_NTK_by_parts_rope", False),
            "yarn": settings.get("use_yarn_rope", False),
            "linear": settings.get("rotary_scaling_factor", 1.0) != 1.0,
        }
        if not known.get(kind, False):
            return f"rope_type = {kind}"
    return None


def _rope_settings(config: Any) -> list[dict[str, Any]]:
    """The rotary settings of each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope] if "rope_theta" in rope else [v for v in rope.values() if isinstance(v, dict)]


def _phi(config: Any) -> dict[str, Any]:
    d_head = config.hidden_size // config.num_attention_heads
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "initializer_range": config.initializer_range,
        "normalization_type": "LN",
        "positional_embedding_type": "rotary",
        "rotary_base": _rope_theta(config.rope_parameters),
        "rotary_dim": round(config.rope_parameters["partial_rotary_factor"] * d_head),
        "use_attn_scale": True,
        "parallel_attn_mlp": True,
        "original_architecture": "PhiForCausalLM",
    }


def _gemma(config: Any, architecture: str) -> dict[str, Any]:
    return {
        "d_model": config.hidden_size,
        "d_head": config.head_dim,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": min(config.max_position_embeddings, 8192),
        "eps": config.rms_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": "gelu_pytorch_tanh",
        "initializer_range": config.initializer_range,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_base": _rope_theta(_rope_settings(config)[0]),
        "rotary_dim": config.head_dim,
        "use_attn_scale": True,
        "gated_mlp": True,
        "final_rms": True,
        "original_architecture": architecture,
    }


def _local_layers(config: Any) -> dict[str, Any]:
    return {
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "window_size": config.sliding_window,
        "use_local_attn": True,
        "attn_types": [
            "local" if kind == "sliding_attention" else "global" for kind in config.layer_types
        ],
        "use_normalization_before_and_after": True,
    }


def _gemma2(config: Any) -> dict[str, Any]:
    return _local_layers(config) | {
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
    }


def _gemma3(config: Any) -> dict[str, Any]:
    everywhere = config.rope_parameters["full_attention"]
    return _local_layers(config) | {
        "rotary_base": _rope_theta(everywhere),
        "rotary_base_local": _rope_theta(config.rope_parameters["sliding_attention"]),
        "rotary_scaling_factor": float(everywhere.get("factor", 1.0)),
        "use_qk_norm": True,
    }


def _rope_theta(parameters: dict[str, Any]) -> float:
    return float(parameters["rope_theta"])


@contextmanager
def neutral_folder() -> Iterator[str]:
    """A temporary folder whose path names no model family.

    TransformerLens guesses the family from the path it is given ("llama", "gemma").
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", os.sep):
        if not any(family in parent.lower() for family in ("llama", "gemma")):
            with tempfile.TemporaryDirectory(dir=parent, prefix="config-") as folder:
                yield folder
            return
