"""Products with weights in the fused pass: their precision, and updates that are kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpa_interp.lora import LowRankUpdate, join_heads, update_of

_PRODUCTS: ContextVar[torch.dtype | None] = ContextVar("products", default=None)


@contextmanager
def products_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, products with weights are computed in this dtype; None leaves the model's own.

    Weights, residual stream, norms, attention and losses keep the model's dtype, and copies of
    the weights in the narrow one are kept beside them.
    """
    before = _PRODUCTS.set(dtype)
    try:
        yield
    finally:
        _PRODUCTS.reset(before)


def product_dtype() -> torch.dtype | None:
    """The dtype that `products_in` asks for."""
    return _PRODUCTS.get()


def project(module: nn.Module, name: str, role: str, x: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` through a weight, and through its low-rank update apart where merging would cost.

    While the update is trained, the gradient of a low-rank factor is then a product with its few
    columns; through the merged weight it would need the gradient of the whole weight first. In
    bfloat16 an update smaller than half a step of the weight's grid would vanish when merged, or
    when added to a product that was rounded to it: there it is kept apart always and added in
    float32, which is what comes out.
    """
    weight, update = _weight_and_update(module, name)
    product, wide = (
        _PRODUCTS.get() or weight.dtype,
        torch.promote_types(weight.dtype, torch.float32),
    )
    x, matrix = x.to(product), join_heads(_narrowed(weight, product), role).T
    base = F.linear(x, matrix, None if bias is None else bias.flatten().to(product))
    if update is None:  # the MLP's middle stays narrow: it is rounded for the next product anyway
        return base if role in ("gate", "up") else base.to(wide)
    low = F.linear(x, update.a.to(product))
    return base.to(wide).add_(F.linear(low * update.scale, update.b.to(product)))


def _weight_and_update(module: nn.Module, name: str) -> tuple[Tensor, LowRankUpdate | None]:
    """The weight to multiply with, and the update that is kept apart from it, if any."""
    update = update_of(module, name)
    if update is None:
        return getattr(module, name), None
    weights: Any = module.parametrizations
    original: Tensor = weights[name].original
    if not update.enabled:
        return original, None
    narrow = original.dtype not in (torch.float32, torch.float64)
    if update.a.requires_grad or narrow:
        return original, update
    return getattr(module, name), None  # merged


def _narrowed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in another dtype, made once for each state of the weight."""
    if weight.dtype == dtype:
        return weight
    kept = getattr(weight, "_narrowed", None)
    if kept is None or kept[0] != weight._version or kept[1].dtype != dtype:
        kept = (weight._version, weight.detach().to(dtype))
        weight._narrowed = kept  # type: ignore[attr-defined]
    narrowed: Tensor = kept[1]
    return narrowed
