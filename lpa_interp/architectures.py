"""Hugging Face configurations that TransformerLens 3.9 cannot read from a folder.

TransformerLens fixes the sizes of Gemma models in a table of names, and reads attributes of
Phi configurations that transformers 5 moved. Here the same keys of ``HookedTransformerConfig``
come from the configuration itself; the weights go through TransformerLens' own conversion.
"""

from __future__ import annotations

from typing import Any


def settings_from_config(config: Any) -> dict[str, Any] | None:
    """HookedTransformerConfig keys for Gemma 2, Gemma 3 (text) and Phi; None for any other.

    Source: the branches of TransformerLens' ``loading_from_pretrained.convert_hf_model_config``
    for these architectures, with the sizes of ``config``.
    """
    architecture = config.architectures[0]
    if architecture in ("Gemma2ForCausalLM", "Gemma3ForCausalLM"):
        return _gemma(config, architecture)
    return _phi(config) if architecture == "PhiForCausalLM" else None


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
    settings = {
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
        "rotary_dim": config.head_dim,
        "use_attn_scale": True,
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "window_size": config.sliding_window,
        "use_local_attn": True,
        "attn_types": [
            "local" if kind == "sliding_attention" else "global" for kind in config.layer_types
        ],
        "gated_mlp": True,
        "final_rms": True,
        "use_normalization_before_and_after": True,
        "original_architecture": architecture,
    }
    if architecture == "Gemma2ForCausalLM":
        settings["rotary_base"] = _rope_theta(config.rope_parameters)
        settings["attn_scores_soft_cap"] = config.attn_logit_softcapping or -1.0
        settings["output_logits_soft_cap"] = config.final_logit_softcapping or -1.0
    else:
        settings["rotary_base"] = _rope_theta(config.rope_parameters["full_attention"])
        settings["rotary_base_local"] = _rope_theta(config.rope_parameters["sliding_attention"])
        settings["use_qk_norm"] = True
    return settings


def _rope_theta(parameters: dict[str, Any]) -> float:
    return float(parameters["rope_theta"])
