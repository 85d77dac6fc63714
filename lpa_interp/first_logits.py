"""A measure of the first answer token's logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row, row_batches
from lpa_interp.errors import NumericalError
from lpa_interp.generation import RowHooks
from lpa_interp.model import HookedTransformer, last_logits


def first_token(
    model: HookedTransformer,
    rows: Sequence[Row],
    measure: Callable[[Tensor], Tensor],
    batch_size: int,
    hooks: RowHooks | None = None,
) -> list[float]:
    """The measure for each row, in their order.

    Raises:
        NumericalError: A value is not finite.
    """
    values = [math.nan] * len(rows)
    with torch.no_grad(), parametrize.cached():
        for chosen, tokens, mask in row_batches(model, rows, batch_size):
            with model.hooks(fwd_hooks=hooks(chosen, mask) if hooks else []):
                measured = measure(last_logits(model, tokens, mask)[:, -1]).tolist()
            for index, value in zip(chosen, measured, strict=True):
                values[index] = value
    if not all(map(math.isfinite, values)):
        raise NumericalError("the logits of the first answer token are NaN or infinite")
    return values
