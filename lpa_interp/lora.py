"""LoRA on HookedTransformer parameters, as PyTorch parametrizations.

The adapter adds ``scale * B A`` to a weight wherever the model reads it, so it works for every
architecture that TransformerLens converts, grouped-query attention included, and every hook
point sees the adapted model. Source: Hu et al. 2021, arXiv 2106.09685, equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import einops
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer

_PLACES = {
    "q": ("attn", "W_Q"),
    "k": ("attn", "W_K"),
    "v": ("attn", "W_V"),
    "o": ("attn", "W_O"),
    "up": ("mlp", "W_in"),
    "gate": ("mlp", "W_gate"),
    "down": ("mlp", "W_out"),
}


class LowRankUpdate(nn.Module):
    """The update of one weight. ``a`` is [rank, d_in], ``b`` is [d_out, rank] and starts at 0.

    The weight is read as a [d_in, d_out] matrix: attention weights have their heads joined.
    """

    def __init__(self, weight: Tensor, role: str, rank: int, alpha: float) -> None:
        super().__init__()
        self.role, self.scale, self.enabled = role, alpha / rank, True
        self.share = False
        self.shared: Tensor | None = None
        self.shape = tuple(weight.shape)
        d_in, d_out = join_heads(weight, role).shape
        # Adapter weights stay in float32 whatever the model's dtype: their updates are small.
        self.a = nn.Parameter(torch.empty(rank, d_in, dtype=torch.float32, device=weight.device))
        self.b = nn.Parameter(torch.zeros(d_out, rank, dtype=torch.float32, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its update, in the weight's shape and dtype."""
        if not self.enabled:
            return weight
        adapted = self.adapted(weight) if self.shared is None else self.shared
        # A tensor made without gradients must not stand in for one that needs them.
        if self.share and (torch.is_grad_enabled() or not self.a.requires_grad):
            self.shared = adapted
        return adapted

    def adapted(self, weight: Tensor) -> Tensor:
        """``weight + scale * B A``, in the weight's shape and dtype."""
        # One fused product: sums of weight-sized intermediates would be kept for the gradient.
        factors = self.b.to(weight.dtype), self.a.to(weight.dtype)
        return self._split_heads(
            torch.addmm(join_heads(weight, self.role).T, *factors, alpha=self.scale)
        )

    def delta(self) -> Tensor:
        """``scale * B A`` in the weight's shape, float32."""
        return self._split_heads(self.scale * (self.b @ self.a))

    def _split_heads(self, product: Float[Tensor, "d_out d_in"]) -> Tensor:
        """A view in the weight's shape: the product lies in memory as the weight does."""
        if self.role in ("q", "k", "v"):
            return einops.rearrange(product, "(n h) m -> n m h", n=self.shape[0])
        if self.role == "o":
            return einops.rearrange(product, "m (n h) -> n h m", n=self.shape[0])
        return product.T


def join_heads(weight: Tensor, role: str) -> Float[Tensor, "d_in d_out"]:
    """A TransformerLens weight as the [d_in, d_out] matrix that multiplies its input."""
    if role in ("q", "k", "v"):
        return einops.rearrange(weight, "n m h -> m (n h)")
    if role == "o":
        return einops.rearrange(weight, "n h m -> (n h) m")
    return weight


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """The updates attached to a model, by (layer, role)."""

    rank: int
    alpha: float
    updates: dict[tuple[int, str], LowRankUpdate]
    places: dict[tuple[int, str], tuple[nn.Module, str]]

    def parameters(self) -> list[nn.Parameter]:
        """The adapter's weights, the only ones that are trained."""
        return [parameter for update in self.updates.values() for parameter in (update.a, update.b)]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the adapter's weights, named ``layer.role.a`` and ``layer.role.b``."""
        return {
            f"{layer}.{role}.{name}": getattr(update, name).detach().clone()
            for (layer, role), update in self.updates.items()
            for name in ("a", "b")
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Sets the adapter's weights from `state_dict`."""
        with torch.no_grad():
            for (layer, role), update in self.updates.items():
                update.a.copy_(state[f"{layer}.{role}.a"])
                update.b.copy_(state[f"{layer}.{role}.b"])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the model is the base model."""
        before = {key: update.enabled for key, update in self.updates.items()}
        for update in self.updates.values():
            update.enabled = False
        try:
            yield
        finally:
            for key, update in self.updates.items():
                update.enabled = before[key]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, each adapted weight is computed once, for one backward pass over all its uses.

        The adapter's weights must not change inside.
        """
        for update in self.updates.values():
            update.share = True
        try:
            yield
        finally:
            for update in self.updates.values():
                update.share, update.shared = False, None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, the adapter takes no gradient and each adapted weight is computed once."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        try:
            with self.shared():
                yield
        finally:
            for parameter in self.parameters():
                parameter.requires_grad_(True)

    def detach(self) -> None:
        """Takes the updates off: the model is the base model again."""
        for module, name in self.places.values():
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)

    def merge(self) -> None:
        """Writes the updates into the weights for good."""
        for module, name in self.places.values():
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            getattr(module, name).requires_grad_(False)


def attach_lora(
    model: HookedTransformer, targets: Sequence[str], rank: int, alpha: float, seed: int
) -> LoraAdapter:
    """Attaches an adapter that does nothing yet (B = 0) to every layer.

    Args:
        model: The model, changed in place.
        targets: Roles among q, k, v, o, up, gate, down.
        rank: Rank r of each update.
        alpha: Updates are scaled by alpha / rank.
        seed: Of A's Kaiming-uniform start, as in PEFT.

    Raises:
        InputError: The model has no weight for a target (``gate`` in a model without gates), or
            has an adapter already.
    """
    updates: dict[tuple[int, str], LowRankUpdate] = {}
    places: dict[tuple[int, str], tuple[nn.Module, str]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer, block in enumerate(model.blocks):
            for role in targets:
                module, name = weight_place(block, role)
                if parametrize.is_parametrized(module, name):
                    raise InputError("model", "has an adapter already", "detach or merge it first")
                updates[layer, role] = LowRankUpdate(getattr(module, name), role, rank, alpha)
                places[layer, role] = (module, name)
    for key, (module, name) in places.items():
        parametrize.register_parametrization(module, name, updates[key])
    return LoraAdapter(rank, alpha, updates, places)


def update_of(module: nn.Module, name: str) -> LowRankUpdate | None:
    """The update that is attached to a weight, or None."""
    if not parametrize.is_parametrized(module, name):
        return None
    parametrizations: Any = module.parametrizations
    return next((p for p in parametrizations[name] if isinstance(p, LowRankUpdate)), None)


def weight_place(block: nn.Module, role: str) -> tuple[nn.Module, str]:
    """The module and parameter name of a role in a block; grouped K and V have a leading _.

    Raises:
        InputError: The block has no such weight.
    """
    part, name = _PLACES[role]
    module = getattr(block, part, None)
    for candidate in (f"_{name}", name):
        if module is None:
            continue
        held = dict(module.named_parameters(recurse=False))
        if candidate in held or parametrize.is_parametrized(module, candidate):
            return module, candidate
    raise InputError(f"train.lora_targets: {role!r}", "this model has no such weight")
