"""Reading the inside: activations, probes, the refusal direction, SAE features, causal tests.

Names are imported on first use, so that ``import probes`` loads neither torch nor SAELens.
"""

from __future__ import annotations

import importlib
from typing import Any

_ROOMS = {
    "activations": ("Activations", "collect"),
    "linear": (
        "METHODS",
        "best_layer",
        "logistic",
        "mean_difference",
        "probe_sweep",
        "statement_labels",
        "statement_rows",
        "trait_direction",
        "trait_directions",
    ),
    "refusal": ("RefusalSearch", "find_refusal_direction"),
    "geometry": ("trait_refusal_angles",),
    "mediation": ("ablation_effects", "class_midpoint", "project"),
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
