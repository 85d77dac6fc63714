"""Adapters in PEFT layout and merged Hugging Face folders, out and back in.

Weights are written as safetensors, never as pickles, and a folder is there whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lpa_interp.chat import tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.layouts import FUSED_ROLES, Layout, layout_of, output_rows, write_weights
from lpa_interp.lora import LoraAdapter, LowRankUpdate, attach_lora
from lpa_interp.model import HookedTransformer, load_hugging_face, source_of
from lpa_interp.sources import complete_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REFUSED_SETTINGS = (
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "layers_to_transform",
    "lora_bias",
)

Matrices = dict[str, Float[Tensor, "d_out d_in"]]


def save_adapter(model: HookedTransformer, adapter: LoraAdapter, folder: Path) -> None:
    """Writes an adapter that ``peft.PeftModel.from_pretrained`` loads, in float32.

    Where the Hugging Face model computes q, k and v in one module, their updates become one
    update of that module with the ranks added up: A is stacked and B holds one block a role.
    An adapter that is in ``folder`` already is replaced.

    Raises:
        InputError: The architecture has no known layout, or ``folder`` holds something else.
    """
    layout = layout_of(model)
    if folder.exists() and not (folder.is_dir() and _is_adapter_or_empty(folder)):
        raise InputError(folder, "holds something else than an adapter", "give a new folder")
    source = source_of(model)
    roles = sorted({role for _, role in adapter.updates}, key=list(layout.modules).index)
    config = _peft_config(layout, adapter, roles) | {
        "base_model_name_or_path": source.location if source else None
    }
    with complete_folder(folder, replace=True) as unfinished:
        text = json.dumps(config, indent=2) + "\n"
        (unfinished / CONFIG_NAME).write_text(text, encoding="utf-8")
        metadata = {"format": "pt", "roles": ",".join(roles)}
        save_file(_peft_weights(model, layout, adapter), unfinished / WEIGHTS_NAME, metadata)


def _is_adapter_or_empty(folder: Path) -> bool:
    return (folder / CONFIG_NAME).is_file() or not any(folder.iterdir())


def _peft_config(layout: Layout, adapter: LoraAdapter, roles: list[str]) -> dict[str, Any]:
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


def _peft_weights(model: HookedTransformer, layout: Layout, adapter: LoraAdapter) -> Matrices:
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


def load_adapter(model: HookedTransformer, folder: Path) -> LoraAdapter:
    """Attaches the adapter of a PEFT folder to the model and returns it.

    Raises:
        InputError: Not a LoRA folder with safetensors, a kind of LoRA that differs from
            scale * B A on whole weights, or weights that do not fit the model.
    """
    layout, config = layout_of(model), _read_config(folder)
    source, base = source_of(model), config.get("base_model_name_or_path")
    if source is not None and base not in (None, source.location, source.label):
        warn(f"{folder}: the adapter was made for {base}, not {source.location}", stacklevel=2)
    weights, written_roles = _read_weights(folder)
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
                a, b = _unfuse(model, layout, role, written_roles, int(config["r"]), a, b)
            state[f"{layer}.{role}.a"], state[f"{layer}.{role}.b"] = a, b
    unknown = sorted(set(weights) - used)
    if unknown:
        raise InputError(folder / WEIGHTS_NAME, f"{unknown[0]} has no place in this model")
    return _attach(model, config, state, folder / WEIGHTS_NAME)


def _read_config(folder: Path) -> dict[str, Any]:
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
    if not all(isinstance(config.get(key), int | float) for key in ("r", "lora_alpha")):
        raise InputError(path, "r or lora_alpha is not a number")
    return config


def _read_weights(folder: Path) -> tuple[Matrices, tuple[str, ...]]:
    """The matrices and, where we wrote them, the roles that the adapter has."""
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


def _unfuse(
    model: HookedTransformer,
    layout: Layout,
    role: str,
    written_roles: tuple[str, ...],
    rank: int,
    a: Tensor,
    b: Tensor,
) -> tuple[Tensor, Tensor]:
    """One role's share of the update of a module that computes q, k and v.

    Raises:
        InputError: The ranks of the roles overlap in B, so that they cannot be taken apart.
    """
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


def _attach(
    model: HookedTransformer, config: dict[str, Any], state: Matrices, place: Path
) -> LoraAdapter:
    keys = {(int(layer), role) for layer, role, _ in (name.split(".") for name in state)}
    roles = sorted({role for _, role in keys})
    if not roles or len(keys) != len(roles) * model.cfg.n_layers:
        raise InputError(place, "does not adapt the same modules in every layer of this model")
    adapter = attach_lora(model, roles, int(config["r"]), float(config["lora_alpha"]), seed=0)
    for name, tensor in adapter.state_dict().items():
        if state[name].shape != tensor.shape:
            adapter.detach()
            sizes = f"{list(state[name].shape)}, not {list(tensor.shape)}"
            raise InputError(place, f"update {name} has shape {sizes}")
    adapter.load_state_dict(state)
    return adapter


def merged_hugging_face(
    model: HookedTransformer, adapter: LoraAdapter | None, dtype: str | None = None
) -> PreTrainedModel:
    """The model's weights, with the adapter's updates added, as a Hugging Face model on the CPU.

    Everything but the weights that adapters can change comes from the model's source.

    Args:
        model: Loaded with `load_model`.
        adapter: Made for this model, still attached or not; None writes the weights without
            any attached adapter. Updates merged before are part of the weights.
        dtype: ``float32`` or ``bfloat16``; None keeps the model's.

    Raises:
        InputError: The model has no source that transformers can load, or no known layout.
    """
    layout_of(model)
    source = source_of(model)
    if source is None:
        raise InputError("model", "was not loaded with load_model: it has no Hugging Face source")
    try:
        hf_model = load_hugging_face(
            source.location, dtype or str(model.cfg.dtype).removeprefix("torch.")
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model {source.location}", f"cannot be loaded: {error}") from error

    def weight_of(key: tuple[int, str], module: nn.Module, name: str) -> Tensor:
        if parametrize.is_parametrized(module, name):
            held = module.get_parameter(f"parametrizations.{name}.original")
        else:
            held = module.get_parameter(name)
        update = adapter.updates.get(key) if adapter is not None else None
        return held if update is None else held + update.delta().to(held)

    write_weights(model, hf_model, weight_of)
    return hf_model


def save_merged(model: HookedTransformer, adapter: LoraAdapter | None, folder: Path) -> None:
    """Writes a Hugging Face folder (safetensors, tokenizer, chat template) with merged weights.

    `load_model` reads it back. The folder is complete or not there.

    Raises:
        InputError: ``folder`` exists and is not empty, or see `merged_hugging_face`.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(folder, "exists already", "give a new folder")
    hf_model = merged_hugging_face(model, adapter)
    with complete_folder(folder) as unfinished:
        hf_model.save_pretrained(unfinished)
        tokenizer_of(model).save_pretrained(unfinished)
