"""One forward pass over the texts gives the activations at all wanted hook points.

Rows are left-padded, so positions are counted from the end of a prompt: -1 is its last token.
Only the wanted positions, or the mean over a completion, are kept, and the layers above the
last hook point are not run, so memory is bounded by one batch plus the result.
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

COMPLETION_MEAN = 0
"""The position that stands for the mean over the tokens of a completion."""

Reader = Callable[[Tensor], Tensor]
"""From an activation [batch, pos, d_model] to what is kept of it, [batch, n_positions, d_model]."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of n texts, float32, in the order of the rows they were read from.

    ``values`` maps hook names (in network order) to read-only arrays of shape
    [n, n_positions, d_model]; ``positions`` are counted from the end of the prompt, and
    `COMPLETION_MEAN` stands for the mean over a completion.
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
    wanted = _checked_positions(rows, positions)

    def read(activation: Tensor) -> Tensor:
        return activation[:, list(wanted)]

    return _stream(model, rows, hook_names, wanted, lambda indices: read, batch_size)


def collect_completions(
    model: HookedTransformer,
    prompt_rows: Sequence[Row],
    completion_rows: Sequence[Row],
    hook_names: Sequence[str],
    batch_size: int = 16,
) -> Activations:
    """Reads the mean activation over the tokens of each completion, as it follows its prompt.

    Source: Chen et al. 2025, arXiv 2507.21509, section 2 (persona vectors).

    Args:
        model: Any HookedTransformer; hooks that are open on it take part.
        prompt_rows: Token ids of the prompts, unpadded, up to where the answer begins.
        completion_rows: Token ids of the completions, one per prompt.
        hook_names: As in `collect`.
        batch_size: Texts per forward pass.

    Returns:
        Activations with the one position `COMPLETION_MEAN`: float32 means of float64 sums.

    Raises:
        InputError: Nothing to read, numbers that differ, an empty prompt or completion, a text
            longer than the context, or an unknown hook point.
        NumericalError: An activation is not finite.
    """
    _check_completions(model, prompt_rows, completion_rows)
    rows = [[*prompt, *answer] for prompt, answer in zip(prompt_rows, completion_rows, strict=True)]

    def reader_of(indices: list[int]) -> Reader:
        return _tail_mean([len(completion_rows[index]) for index in indices])

    return _stream(model, rows, hook_names, (COMPLETION_MEAN,), reader_of, batch_size)


def _stream(
    model: HookedTransformer,
    rows: Sequence[Row],
    hook_names: Sequence[str],
    positions: tuple[int, ...],
    reader_of: Callable[[list[int]], Reader],
    batch_size: int,
) -> Activations:
    """Runs the rows in batches; ``reader_of`` gives the reader for the rows of a batch."""
    names = resolve_hooks(model, hook_names)
    require_d_model(names)
    shape = (len(rows), len(positions), model.cfg.d_model)
    values = {name: np.empty(shape, dtype=np.float32) for name in names}
    stop = max(layer_of(name) for name in names) + 1
    kept: dict[str, Tensor] = {}
    for indices, tokens, mask in row_batches(model, rows, batch_size):
        keep = _keep(kept, reader_of(indices))
        hooks: Intervention = [(name, keep) for name in names]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            model(tokens, attention_mask=mask, stop_at_layer=stop)
        for name in names:
            if not torch.isfinite(kept[name]).all():
                raise NumericalError(f"activation is NaN or infinite at {name}")
            values[name][indices] = kept[name].numpy()
    return _frozen(values, positions)


def _keep(kept: dict[str, Tensor], read: Reader) -> Callable[..., None]:
    """A hook function that reads what is wanted and changes nothing."""

    def hook_function(activation: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
        kept[hook.name] = read(activation).float().cpu()

    return hook_function


def _tail_mean(lengths: list[int]) -> Reader:
    """Reads the mean over the last tokens of each row, as many as its length says."""

    def read(activation: Tensor) -> Tensor:
        longest = max(lengths)
        tail = activation[:, -longest:]
        tail = (tail.cpu() if tail.device.type == "mps" else tail).double()  # MPS has no float64
        sizes = torch.tensor(lengths, device=tail.device)[:, None]
        from_end = torch.arange(longest, 0, -1, device=tail.device)
        outside = from_end[None, :] > sizes
        mean: Tensor = tail.masked_fill(outside[..., None], 0).sum(1, keepdim=True)
        return mean / sizes[..., None]

    return read


def _check_completions(
    model: HookedTransformer, prompt_rows: Sequence[Row], completion_rows: Sequence[Row]
) -> None:
    if not prompt_rows or len(prompt_rows) != len(completion_rows):
        mistake = f"{len(completion_rows)} completions for {len(prompt_rows)} prompts"
        raise InputError("completions", mistake, "one completion per prompt, one or more")
    for index, (prompt, answer) in enumerate(zip(prompt_rows, completion_rows, strict=True)):
        if not prompt or not answer:
            part = "completion" if prompt else "prompt"
            raise InputError(f"text {index}", f"its {part} is empty", "leave the text out")
        if len(prompt) + len(answer) > model.cfg.n_ctx:
            mistake = f"has {len(prompt) + len(answer)} tokens"
            raise InputError(f"text {index}", mistake, f"at most {model.cfg.n_ctx}")


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
