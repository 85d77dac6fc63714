"""The two files of an adapter folder in PEFT's layout: ``adapter_config.json`` and safetensors.

Where the Hugging Face model computes q, k and v in one module, their updates become one update
of that module with the ranks added up: A is stacked, and B holds one block a role.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.layouts import FUSED_ROLES, Layout, output_rows
from lpa_interp.lora import LoraAdapter, LowRankUpdate
from lpa_interp.model import HookedTransformer

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REFUSED_SETTINGS = (
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "layers_to_transform",
    "lora_bias",
)

Matrices = dict[str, Float[Tensor, "_ _"]]
"""Matrices [d_out, d_in] by name."""


def peft_config(layout: Layout, adapter: LoraAdapter, roles: list[str]) -> dict[str, Any]:
    """The adapter's ``LoraConfig``, without the name of its base model."""
    fused = [role for role in roles if layout.is_fused(role)]
    name = layout.target(fused[0]) if fused else ""
    # The scale alpha / r stays the same: both grow with the number of roles in the module.
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": sorted({layout.target(role) for role in roles}),
        "rank_pattern": {name: adapter.rank * len(fused)} if fused else {},
        "alpha_pattern": {name: adapter.alpha * len(fused)} if fused else {},
        "exclude_modules": f".*{layout.elsewhere}.*" if layout.elsewhere else None,
        "fan_in_fan_out": layout.transposed,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def peft_weights(model: HookedTransformer, layout: Layout, adapter: LoraAdapter) -> Matrices:
    """PEFT's names and matrices, float32 on the CPU."""
    by_module: dict[str, list[LowRankUpdate]] = {}
    for (layer, role), update in adapter.updates.items():
        by_module.setdefault(layout.path(layer, role), []).append(update)
    weights: Matrices = {}
    for path, updates in by_module.items():
        updates.sort(key=lambda update: list(layout.modules).index(update.role))
        a, b = updates[0].a.detach(), updates[0].b.detach()
        if layout.is_fused(updates[0].role):
            a = torch.cat([update.a.detach() for update in updates])
            b = b.new_zeros(3 * len(b), len(a))
            for index, update in enumerate(updates):
                block = slice(index * adapter.rank, (index + 1) * adapter.rank)
                b[output_rows(model, layout, update.role), block] = update.b.detach()
        weights[f"{_PREFIX}{path}.lora_A.weight"] = a.cpu().contiguous()
        weights[f"{_PREFIX}{path}.lora_B.weight"] = b.cpu().contiguous()
    return weights


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's ``LoraConfig``.

    Raises:
        InputError: No such file, or another kind of update than scale * B A on whole weights.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(folder, f"is not an adapter: it has no {CONFIG_NAME}")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, f"is not JSON: {error}") from None
    if config.get("peft_type") != "LORA":
        raise InputError(path, f"peft_type is {config.get('peft_type')!r}", "only LORA")
    for key in _REFUSED_SETTINGS:
        if config.get(key):
            raise InputError(path, f"{key} is set", "only scale * B A on whole weights")
    if config.get("bias", "none") != "none":
        raise InputError(path, f"bias is {config['bias']!r}", "only none")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank >= 1 and isinstance(alpha, int | float)):
        raise InputError(path, f"r = {rank!r}, lora_alpha = {alpha!r}", "r of 1 or more")
    ranks, alphas = (config.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    if any(
        alphas.get(name, alpha) * rank != alpha * ranks.get(name, rank)
        for name in {**ranks, **alphas}
    ):
        raise InputError(path, "lora_alpha / r differs between modules", "one scale for all")
    return config


def read_weights(folder: Path) -> tuple[Matrices, tuple[str, ...]]:
    """The matrices and, where `lpa_interp` wrote them, the roles that the adapter has.

    Raises:
        InputError: No safetensors file, or a damaged one.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(folder, f"has no {WEIGHTS_NAME}", "pickles are not read")
    try:
        with safe_open(path, framework="pt") as file:
            roles = (file.metadata() or {}).get("roles", "")
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(path, f"is damaged: {error}") from None
    return weights, tuple(roles.split(",")) if roles else ()


def role_matrices(
    model: HookedTransformer,
    layout: Layout,
    weights: Matrices,
    written_roles: tuple[str, ...],
    rank: int,
) -> Matrices:
    """Updates by role, named as in `LoraAdapter.state_dict`.

    Args:
        model: The model that the adapter is for.
        layout: Of its architecture.
        weights: From `read_weights`.
        written_roles: From `read_weights`.
        rank: Of the update of one role.

    Raises:
        InputError: A matrix has no place in the model, or the update of a module that computes
            q, k and v cannot be taken apart.
    """
    state: Matrices = {}
    used: set[str] = set()
    for layer in range(model.cfg.n_layers):
        for role in layout.modules:
            names = [f"{_PREFIX}{layout.path(layer, role)}.lora_{x}.weight" for x in "AB"]
            if not all(name in weights for name in names):
                continue
            used.update(names)
            a, b = weights[names[0]], weights[names[1]]
            if layout.is_fused(role):
                if role not in (written_roles or FUSED_ROLES):
                    continue
                a, b = _unfuse(model, layout, role, written_roles, rank, a, b)
            state[f"{layer}.{role}.a"], state[f"{layer}.{role}.b"] = a, b
    unknown = sorted(set(weights) - used)
    if unknown:
        raise InputError(f"adapter weight {unknown[0]}", "has no place in this model")
    return state


def _unfuse(
    model: HookedTransformer,
    layout: Layout,
    role: str,
    written_roles: tuple[str, ...],
    rank: int,
    a: Tensor,
    b: Tensor,
) -> tuple[Tensor, Tensor]:
    """One role's share of the update of a module that computes q, k and v."""
    rows = output_rows(model, layout, role)
    if not written_roles and len(a) == rank:  # PEFT's own: the three roles share A
        return a, b[rows]
    fused = [name for name in FUSED_ROLES if name in (written_roles or FUSED_ROLES)]
    block = slice(fused.index(role) * rank, (fused.index(role) + 1) * rank)
    outside = b[rows].clone()
    outside[:, block] = 0
    if len(a) != rank * len(fused) or outside.any():
        raise InputError(
            f"adapter of {layout.modules[role]}",
            "its update does not split into q, k and v of the adapter's rank",
            "B must hold one block a role, or the rank must be that of every module",
        )
    return a[block], b[rows, block]
