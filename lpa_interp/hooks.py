"""Hook-point patterns and pure hook functions.

A hook function takes ``(activation, hook)`` and returns a new tensor; it never writes into its
argument. Interventions are lists of ``(hook_name, hook_function)`` for ``model.hooks(...)``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer

HookFunction = Callable[..., Tensor]
Intervention = list[tuple[str | Callable[..., Any], Callable[..., Any]]]
"""Hook names with hook functions, as ``model.hooks(fwd_hooks=...)`` takes them."""

_LAYERS = re.compile(r"^blocks\.(\{[^}]*\}|\*|\d+)\.(.+)$")
RESIDUAL_WRITERS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
"""Where a direction is ablated: every resid_pre, attention and MLP output (Arditi et al.)."""
D_MODEL_HOOKS = ("hook_embed", "hook_pos_embed", "resid", "attn_out", "mlp_out")


def resolve_hooks(model: HookedTransformer, patterns: Iterable[str]) -> list[str]:
    """Names of the hook points that patterns stand for, in network order, without repeats.

    A pattern is a hook name, a glob (``blocks.*.hook_mlp_out``) or layers in braces as numbers
    or fractions of depth: ``blocks.{4,8}.hook_resid_pre``, ``blocks.{0.25,0.5}.hook_mlp_out``.
    A fraction f of n layers is layer round(f n), at most n - 1.

    Raises:
        InputError: A pattern matches no hook point or names a layer out of range.
    """
    known = list(model.hook_dict)
    wanted: set[str] = set()
    for pattern in patterns:
        names = [
            name
            for expanded in expand_layers(pattern, model.cfg.n_layers)
            for name in fnmatch.filter(known, expanded)
        ]
        if not names:
            raise InputError(
                f"hook point {pattern!r}",
                "no such hook point in this model",
                "for example hook_embed, blocks.8.hook_mlp_out, blocks.{0.5}.hook_resid_post",
            )
        wanted.update(names)
    return [name for name in known if name in wanted]


def expand_layers(pattern: str, n_layers: int) -> list[str]:
    """The hook names, or globs, that a pattern's layers stand for; needs no model.

    Raises:
        InputError: A layer is not a number, or out of range.
    """
    match = _LAYERS.match(pattern)
    if match is None or match[1] == "*":
        return [pattern]
    layers = [_layer(part, pattern, n_layers) for part in match[1].strip("{}").split(",")]
    return [f"blocks.{layer}.{match[2]}" for layer in layers]


def _layer(text: str, pattern: str, n_layers: int) -> int:
    if not re.fullmatch(r"-?\d*\.?\d+", text.strip()):
        raise InputError(f"hook point {pattern!r}", f"{text!r} is not a layer")
    value = float(text)
    fraction = "." in text
    layer = min(round(value * n_layers), n_layers - 1) if fraction else int(value)
    if not 0 <= value <= 1 if fraction else not 0 <= layer < n_layers:
        allowed = f"layers 0 to {n_layers - 1}, or fractions of depth from 0.0 to 1.0"
        raise InputError(f"hook point {pattern!r}", f"layer {text} is out of range", allowed)
    return layer


def require_d_model(names: Sequence[str]) -> None:
    """Checks that hook points carry vectors of d_model.

    Raises:
        InputError: One of them carries something else.
    """
    for name in names:
        if not any(part in name.rsplit(".", 1)[-1] for part in D_MODEL_HOOKS):
            raise InputError(
                f"hook point {name!r}",
                "does not carry d_model",
                "hook_embed, hook_resid_pre, hook_resid_mid, hook_resid_post, "
                "hook_attn_out or hook_mlp_out",
            )


def has_open_hooks(model: HookedTransformer) -> bool:
    """Whether a forward hook is open anywhere on the model."""
    return any(point.fwd_hooks for point in model.hook_dict.values())


def layer_of(hook_name: str) -> int:
    """The layer of a hook point; -1 for the embedding."""
    match = re.match(r"^blocks\.(\d+)\.", hook_name)
    return int(match[1]) if match else -1


def ablate(direction: Float[Tensor, " d_model"]) -> HookFunction:
    """Removes the component along a unit direction at every position.

    Source: Arditi et al. 2024, equation 4: x - r r^T x.
    """

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        unit = direction.to(activation)
        return activation - (activation @ unit)[..., None] * unit

    return hook_function


def add(vector: Float[Tensor, " d_model"]) -> HookFunction:
    """Adds a vector at every position. Source: Arditi et al. 2024, equation 3."""

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return activation + vector.to(activation)

    return hook_function


def perturb(delta: Float[Tensor, "batch pos d_model"]) -> HookFunction:
    """Adds one vector per example and token."""

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return activation + delta.to(activation.dtype)

    return hook_function


def ablation(model: HookedTransformer, direction: Float[Tensor, " d_model"]) -> Intervention:
    """Cuts a direction out of everything that writes into the residual stream."""
    unit = torch.nn.functional.normalize(direction.float(), dim=0)
    names = [
        f"blocks.{layer}.{site}" for layer in range(model.cfg.n_layers) for site in RESIDUAL_WRITERS
    ]
    return [(name, ablate(unit)) for name in names]
