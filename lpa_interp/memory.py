"""The order in which weights lie in memory: as the forward pass reads them.

TransformerLens names the axes of its weights the other way round than a matrix product wants
them, and so copies every weight in every forward pass. Kept in the order of the product (which
is Hugging Face's), with the same axes, shapes and values, none is copied: a decoding step of a
135M model on a CPU takes less than half the time.
"""

from __future__ import annotations

import torch
from torch import nn

_READ_ORDER = {
    **dict.fromkeys(("W_Q", "W_K", "W_V", "_W_K", "_W_V"), (0, 2, 1)),  # head, d_head, d_model
    "W_O": (2, 0, 1),  # d_model, head, d_head
    **dict.fromkeys(("W_in", "W_gate", "W_out", "W_U"), (1, 0)),
}


def store_as_read(model: nn.Module) -> None:
    """Reorders the weights of a HookedTransformer in memory, one at a time and in place."""
    for name, parameter in model.named_parameters():
        order = _READ_ORDER.get(name.rsplit(".", 1)[-1])
        if order is None or parameter.dim() != len(order):
            continue
        back = [order.index(axis) for axis in range(len(order))]
        with torch.no_grad():
            parameter.data = parameter.data.permute(order).contiguous().permute(back)
