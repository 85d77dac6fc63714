"""Adapters in PEFT layout and merged Hugging Face folders, out and back in.

Weights are written as safetensors, never as pickles, and a folder is there whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lpa_interp.chat import tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.layouts import layout_of, write_weights
from lpa_interp.lora import LoraAdapter, attach_lora
from lpa_interp.model import HookedTransformer, load_hugging_face, source_of
from lpa_interp.peft_files import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Matrices,
    peft_config,
    peft_weights,
    read_config,
    read_weights,
    role_matrices,
)
from lpa_interp.sources import complete_folder, quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_adapter(model: HookedTransformer, adapter: LoraAdapter, folder: Path) -> None:
    """Writes an adapter that ``peft.PeftModel.from_pretrained`` loads, in float32.

    An adapter that is in ``folder`` already is replaced.

    Raises:
        InputError: The architecture has no known layout, or ``folder`` holds something else.
    """
    layout = layout_of(model)
    if folder.exists() and not (folder.is_dir() and _is_adapter_or_empty(folder)):
        raise InputError(folder, "holds something else than an adapter", "give a new folder")
    source = source_of(model)
    roles = sorted({role for _, role in adapter.updates}, key=list(layout.modules).index)
    config = peft_config(layout, adapter, roles) | {
        "base_model_name_or_path": source.location if source else None
    }
    with complete_folder(folder, replace=True) as unfinished:
        text = json.dumps(config, indent=2) + "\n"
        (unfinished / CONFIG_NAME).write_text(text, encoding="utf-8")
        metadata = {"format": "pt", "roles": ",".join(roles)}
        save_file(peft_weights(model, layout, adapter), unfinished / WEIGHTS_NAME, metadata)


def _is_adapter_or_empty(folder: Path) -> bool:
    return (folder / CONFIG_NAME).is_file() or not any(folder.iterdir())


def load_adapter(model: HookedTransformer, folder: Path) -> LoraAdapter:
    """Attaches the adapter of a PEFT folder to the model and returns it.

    Raises:
        InputError: Not a LoRA folder with safetensors, a kind of LoRA that differs from
            scale * B A on whole weights, or weights that do not fit the model.
    """
    layout, config = layout_of(model), read_config(folder)
    source, base = source_of(model), config.get("base_model_name_or_path")
    if source is not None and base not in (None, source.location, source.label):
        warn(f"{folder}: the adapter was made for {base}, not {source.location}", stacklevel=2)
    weights, written_roles = read_weights(folder)
    state = role_matrices(model, layout, weights, written_roles, int(config["r"]))
    return _attach(model, config, state, folder / WEIGHTS_NAME)


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
        return held if update is None else update.adapted(held)

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
    with complete_folder(folder) as unfinished, quiet_transformers():
        hf_model.save_pretrained(unfinished)
        tokenizer_of(model).save_pretrained(unfinished)
