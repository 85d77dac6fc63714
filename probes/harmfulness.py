"""The harmfulness direction: what the model holds of a request before it decides to refuse.

Harmful minus harmless mean activations at the last token of the instruction, where Zhao et al.
find the judgement of harm; the refusal direction (`probes.refusal`) is read at the tokens of the
template behind it.

Source: Zhao et al. 2025, arXiv 2507.11878.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpa_interp.chat import Row, post_instruction_row
from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Direction, ModelLabel
from probes.refusal import mean_differences


def instruction_end(model: HookedTransformer) -> int:
    """Position of the instruction's last token: the one before the template's closing tokens.

    Where a tokenizer merges the end of the instruction with the template, it is the merged token.
    """
    return -(len(post_instruction_row(model)) + 1)


def harmfulness_directions(
    model: HookedTransformer,
    harmful_rows: Sequence[Row],
    harmless_rows: Sequence[Row],
    label: ModelLabel,
    batch_size: int = 16,
    split: str = "train",
) -> list[Direction]:
    """The harmfulness direction at the input of each block, at the instruction's last token.

    Args:
        model: Any HookedTransformer; hooks that are open on it take part.
        harmful_rows: Rows of harmful prompts, ending in the template's tokens.
        harmless_rows: Rows of harmless prompts.
        label: Label of the model.
        batch_size: Prompts per forward pass.
        split: Name of the prompts' split.

    Returns:
        A unit direction named ``harmfulness`` at each ``blocks.L.hook_resid_pre``; ``raw_norm``
        is in activation units. Layer 0 is not among them where all prompts end in the same
        token.

    Raises:
        InputError: A side is empty, a row does not end in the template's tokens, or the sides
            differ at no layer.
    """
    ending = post_instruction_row(model)
    for side, rows in (("harmful", harmful_rows), ("harmless", harmless_rows)):
        if not rows:
            raise InputError(f"{side} prompts", "there are none")
        if any(row[-len(ending) :] != ending for row in rows):
            raise InputError(f"{side} prompts", "one does not end in the template", "use chat_rows")
    position = instruction_end(model)
    raw = mean_differences(model, harmful_rows, harmless_rows, (position,), batch_size)[0]
    n = len(harmful_rows) + len(harmless_rows)
    found = [
        _direction(vector, layer, position, label, n, split)
        for layer, vector in enumerate(raw)
        if vector.any()
    ]
    if not found:
        raise InputError("prompts", "harmful and harmless ones have the same mean activations")
    return found


def _direction(
    vector: np.ndarray, layer: int, position: int, label: ModelLabel, n: int, split: str
) -> Direction:
    wide = vector.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    return Direction(
        name="harmfulness",
        model=label,
        hook_name=f"blocks.{layer}.hook_resid_pre",
        layer=layer,
        position=position,
        method="mean_difference",
        raw_norm=norm,
        n=n,
        split=split,
        vector=(wide / norm).astype(np.float32),
    )
