"""Where Hugging Face models keep the weights that adapters change.

TransformerLens splits, transposes and names weights its own way. A `Layout` says, for one
Hugging Face architecture, which module holds the weight of each role and in which order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lpa_interp.errors import InputError
from lpa_interp.lora import join_heads, weight_place
from lpa_interp.model import HookedTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FUSED_ROLES = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Layout:
    """Modules of one architecture, by role, as paths inside a block.

    ``fused`` is set where one module computes q, k and v: its outputs are ordered
    ``by_role`` (all of q, then k, then v) or ``by_head`` (q, k, v of the first head, ...).
    ``transposed`` modules hold [d_in, d_out], as GPT-2's Conv1D does. ``elsewhere`` is a part of
    the model outside the blocks that has modules of the same names.
    """

    blocks: str
    modules: dict[str, str]
    fused: Literal["by_role", "by_head"] | None = None
    transposed: bool = False
    elsewhere: str | None = None

    def path(self, layer: int, role: str) -> str:
        """The module of a role, from the root of the Hugging Face model."""
        return f"{self.blocks}.{layer}.{self.modules[role]}"

    def target(self, role: str) -> str:
        """The shortest module name that means this role and no other (PEFT's target)."""
        path = self.modules[role]
        last = path.rsplit(".", 1)[-1]
        same = {other for other in self.modules.values() if other.rsplit(".", 1)[-1] == last}
        return last if len(same) == 1 else path

    def is_fused(self, role: str) -> bool:
        """Whether the role shares its module with two others."""
        return self.fused is not None and role in FUSED_ROLES


_LLAMA = Layout(
    "model.layers",
    {
        **{role: f"self_attn.{role}_proj" for role in ("q", "k", "v", "o")},
        **{role: f"mlp.{role}_proj" for role in ("up", "gate", "down")},
    },
)
_PHI = Layout(
    "model.layers",
    {
        **{role: f"self_attn.{role}_proj" for role in ("q", "k", "v")},
        "o": "self_attn.dense",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
    },
)
_GPT2 = Layout(
    "transformer.h",
    {
        **dict.fromkeys(FUSED_ROLES, "attn.c_attn"),
        "o": "attn.c_proj",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    },
    fused="by_role",
    transposed=True,
)
_GPT_NEOX = Layout(
    "gpt_neox.layers",
    {
        **dict.fromkeys(FUSED_ROLES, "attention.query_key_value"),
        "o": "attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
    fused="by_head",
)
LAYOUTS: dict[str, Layout] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "GemmaForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": _LLAMA,
    "Gemma3ForCausalLM": _LLAMA,
    "Gemma3ForConditionalGeneration": replace(
        _LLAMA, blocks="model.language_model.layers", elsewhere="vision_tower"
    ),
    "PhiForCausalLM": _PHI,
    "GPT2LMHeadModel": _GPT2,
    "GPTNeoXForCausalLM": _GPT_NEOX,
}
"""By the architecture's name in ``config.json``."""


def layout_of(model: HookedTransformer) -> Layout:
    """The layout of the Hugging Face model that this model was converted from.

    Raises:
        InputError: The architecture has no layout here.
    """
    architecture = model.cfg.original_architecture
    if architecture not in LAYOUTS:
        raise InputError(
            f"architecture {architecture}",
            "cannot be written as a Hugging Face model",
            ", ".join(LAYOUTS),
        )
    return LAYOUTS[architecture]


def output_rows(model: HookedTransformer, layout: Layout, role: str) -> Tensor | slice:
    """The rows of a module's [d_out, d_in] weight that belong to a role."""
    if not layout.is_fused(role):
        return slice(None)
    part, heads, d_head = FUSED_ROLES.index(role), model.cfg.n_heads, model.cfg.d_head
    rows = torch.arange(3 * heads * d_head)
    if layout.fused == "by_role":
        return rows.view(3, heads * d_head)[part]
    return rows.view(heads, 3, d_head)[:, part].flatten()


def write_weights(
    model: HookedTransformer,
    hf_model: PreTrainedModel,
    weight_of: Callable[[tuple[int, str], nn.Module, str], Tensor] | None = None,
) -> None:
    """Copies the weights of all roles into the Hugging Face model, one at a time.

    Args:
        model: Where the weights come from; attached adapters take part.
        hf_model: Of the same architecture and sizes, changed in place, in its own dtype.
        weight_of: Gives the weight in TransformerLens' shape from ``(layer, role)``, the
            module and the parameter's name; without it, the weight as the model reads it.
    """
    layout = layout_of(model)
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            for role in layout.modules:
                module, name = weight_place(block, role)
                weight = (
                    weight_of((layer, role), module, name) if weight_of else getattr(module, name)
                )
                held = hf_model.get_parameter(f"{layout.path(layer, role)}.weight")
                rows_first = held.T if layout.transposed else held
                rows_first[output_rows(model, layout, role)] = join_heads(weight, role).T.to(held)
