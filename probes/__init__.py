"""Reading the inside: activations, probes, the refusal direction, SAE features, causal tests.

Names are imported on first use, so that ``import probes`` loads neither torch nor SAELens.
"""

from __future__ import annotations

import importlib
from typing import Any

_ROOMS = {
    "activations": ("COMPLETION_MEAN", "Activations", "collect", "collect_completions"),
    "balance": ("answer_balance", "balance_weights", "balanced_design", "keying_scores"),
    "cache": ("cached_activations",),
    "linear": ("statement_rows", "trait_direction", "trait_directions"),
    "methods": ("METHODS", "lda", "linear_svm", "logistic", "mass_mean", "mean_difference"),
    "nested": ("NestedScores", "nested_score"),
    "stability": ("split_half_cosine", "stability_rows"),
    "sweep": ("best_layer", "probe_sweep"),
    "text_sets": ("TextSet", "prompt_rows", "read_text_set", "statement_labels"),
    "trait_sets": ("trait_set", "trait_set_sources"),
    "transfer": ("transfer_matrix",),
    "refusal": ("RefusalSearch", "find_refusal_direction"),
    "cka": ("linear_cka",),
    "families": ("DirectionFamily", "direction_family", "labelled_family"),
    "geometry": (
        "direction_angles",
        "principal_angles",
        "subspace_angles",
        "trait_refusal_angles",
    ),
    "angle_intervals": ("cosine_interval",),
    "neutral": ("NeutralPrompts", "neutral_prompts"),
    "personas": ("persona_rows", "persona_texts", "read_persona"),
    "harmfulness": ("harmfulness_directions", "instruction_end"),
    "nulls": ("COVARIANCE", "NULLS", "PERMUTED", "RANDOM", "against_null"),
    "representation_shift": ("representation_shifts", "shift_directions"),
    "subspaces": (
        "Eraser",
        "Subspace",
        "ablate_subspace",
        "erasure",
        "leace_eraser",
        "top_k_subspace",
    ),
    "weight_space": ("update_directions", "weight_alignments"),
    "mediation": ("ablation_effects", "class_midpoint", "project"),
    "refusal_tokens": ("RefusalTokens", "own_refusal_tokens"),
    "controls": ("NamedSubspace", "named_subspace", "with_controls"),
    "causal_share": ("SubspaceScores", "mediated_shares", "refusal_scores"),
    "dose": ("dose_effects",),
    "patching": ("PatchScores", "patch_activations", "patch_effects", "patch_scores"),
    "orthogonalise": ("orthogonalised",),
    "steering": ("direction_hooks", "open_direction"),
    "features": ("load_pretrained", "load_sae", "train_sae"),
    "sae_reading": ("content_features", "sae_quality"),
    "shifts": ("feature_overlaps", "feature_shifts"),
    "directions": ("load_direction", "load_directions", "save_directions"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Imports a public name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
