"""One forward pass over the prompts gives the activations at all wanted hook points.

Rows are left-padded, so positions are counted from the end of a prompt: -1 is its last token.
Only the wanted positions are kept, and the layers above the last hook point are not run, so
memory is bounded by one batch plus the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from lpa_interp.chat import Row, row_batches
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.hooks import Intervention, layer_of, require_d_model, resolve_hooks
from lpa_interp.model import HookedTransformer


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of n prompts, float32, in the order of the rows they were read from.

    ``values`` maps hook names (in network order) to read-only arrays of shape
    [n, n_positions, d_model]; ``positions`` are counted from the end of the prompt.
    """

    values: Mapping[str, np.ndarray]
    positions: tuple[int, ...]

    @property
    def hook_names(self) -> tuple[str, ...]:
        """The hook points, in network order."""
        return tuple(self.values)

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(next(iter(self.values.values())))

    def at(self, hook_name: str, position: int = -1) -> Float32[np.ndarray, "n d_model"]:
        """The activations at one hook point and position.

        Raises:
            InputError: They were not collected.
        """
        if hook_name not in self.values:
            raise InputError(f"hook point {hook_name!r}", "not collected", ", ".join(self.values))
        if position not in self.positions:
            raise InputError(f"position {position}", "not collected", str(self.positions))
        array: np.ndarray = self.values[hook_name][:, self.positions.index(position)]
        return array

    def means(self, hook_name: str) -> Float64[np.ndarray, "n_positions d_model"]:
        """Mean over prompts in float64: differences of close means keep their digits."""
        if hook_name not in self.values:
            raise InputError(f"hook point {hook_name!r}", "not collected", ", ".join(self.values))
        mean: np.ndarray = self.values[hook_name].mean(axis=0, dtype=np.float64)
        return mean

    def select(self, indices: Sequence[int] | np.ndarray) -> Activations:
        """The activations of some of the prompts, in the order of ``indices``."""
        chosen = np.asarray(indices)
        return _frozen({n: array[chosen] for n, array in self.values.items()}, self.positions)


def collect(
    model: HookedTransformer,
    rows: Sequence[Row],
    hook_names: Sequence[str],
    positions: Sequence[int] = (-1,),
    batch_size: int = 16,
) -> Activations:
    """Reads activations at several hook points in one forward pass per batch.

    Args:
        model: Any HookedTransformer; hooks that are open on it take part.
        rows: Token ids of the prompts, unpadded.
        hook_names: Hook names or patterns as in `lpa_interp.hooks.resolve_hooks`; each must
            carry d_model.
        positions: Negative positions, counted from the end of each prompt.
        batch_size: Prompts per forward pass.

    Returns:
        Activations with one array [n, n_positions, d_model] per hook point.

    Raises:
        InputError: No rows, an unknown hook point, or a position outside the shortest row.
        NumericalError: An activation is not finite.
    """
    names = resolve_hooks(model, hook_names)
    require_d_model(names)
    wanted = _checked_positions(rows, positions)
    shape = (len(rows), len(wanted), model.cfg.d_model)
    values = {name: np.empty(shape, dtype=np.float32) for name in names}
    stop = max(layer_of(name) for name in names) + 1
    kept: dict[str, Tensor] = {}
    hooks: Intervention = [(name, _keep(kept, wanted)) for name in names]
    for indices, tokens, mask in row_batches(model, rows, batch_size):
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            model(tokens, attention_mask=mask, stop_at_layer=stop)
        for name in names:
            if not torch.isfinite(kept[name]).all():
                raise NumericalError(f"activation is NaN or infinite at {name}")
            values[name][indices] = kept[name].numpy()
    return _frozen(values, wanted)


def _keep(kept: dict[str, Tensor], positions: tuple[int, ...]) -> Callable[..., None]:
    """A hook function that reads the wanted positions and changes nothing."""

    def hook_function(activation: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
        kept[hook.name] = activation[:, list(positions)].float().cpu()

    return hook_function


def _checked_positions(rows: Sequence[Row], positions: Sequence[int]) -> tuple[int, ...]:
    if not rows:
        raise InputError("rows", "there are no prompts to read")
    wanted = tuple(int(position) for position in positions)
    shortest = min(len(row) for row in rows)
    if not wanted or len(set(wanted)) != len(wanted):
        raise InputError(f"positions {wanted}", "must be one or more different positions")
    if max(wanted) >= 0 or min(wanted) < -shortest:
        allowed = f"-{shortest} to -1: they count from the end, and the shortest row has {shortest}"
        raise InputError(f"positions {wanted}", "out of range", allowed)
    return wanted


def _frozen(values: dict[str, np.ndarray], positions: tuple[int, ...]) -> Activations:
    for array in values.values():
        array.setflags(write=False)
    return Activations(MappingProxyType(values), positions)
