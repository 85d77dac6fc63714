"""What a SAE says of a model: how well it reconstructs, and which features a prompt has.

Padding and the first position of a sequence are left out: the first position is the attention
sink, which the SAE is not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from lpa_interp.chat import Row, chat_rows, post_instruction_row, row_batches
from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.model import HookedTransformer, unembed
from lpa_interp.records import ModelLabel, SaeQuality
from probes.features import Sae

CHUNK = 512
"""Tokens encoded, or unembedded, at a time: both are far wider than d_model."""


@torch.no_grad()
def sae_quality(
    model: HookedTransformer,
    sae: Sae,
    rows: Sequence[Row],
    label: ModelLabel,
    name: str,
    batch_size: int = 16,
) -> SaeQuality:
    """Reconstruction, sparsity and cross entropy of a SAE on held-out texts.

    Make one row for each model that features are read on, also where the SAE was trained on
    another. Cross entropy is over predictions made at the positions that are replaced.

    Args:
        model: The model to read.
        sae: A SAELens SAE whose metadata names the hook point.
        rows: Token rows of texts that the SAE was not trained on.
        label: Label of the model.
        name: Name of the SAE.
        batch_size: Rows per forward pass.

    Raises:
        InputError: No row has a second token, or the SAE does not fit the model.
    """
    hook_name = hook_of(model, sae)
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise InputError("rows", "there are no texts of two tokens or more")
    sums = _Sums(torch.zeros(sae.cfg.d_sae, dtype=torch.bool))
    for _, tokens, mask in row_batches(model, rows, batch_size):
        kept = _inner(mask)
        variants: list[Callable[[Tensor], Tensor]] = [
            lambda x: sums.read(x, sae),
            lambda x: torch.cat([sae(part.to(sae.dtype)) for part in torch.split(x, CHUNK)]).to(x),
            torch.zeros_like,
        ]
        for place, change in enumerate(variants):
            with model.hooks(fwd_hooks=[(hook_name, _replace(kept, change))]):
                final = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
            sums.cross_entropy[place] += _cross_entropy(model, final, tokens, kept)
        sums.n_predictions += int(kept[:, :-1].sum())
    entropies = [value / max(sums.n_predictions, 1) for value in sums.cross_entropy]
    return SaeQuality(
        model=label,
        sae=name,
        hook_name=hook_name,
        n_features=sae.cfg.d_sae,
        n_training_tokens=int(sae.cfg.metadata.n_training_tokens or 0),
        n_tokens=sums.n,
        variance_explained=sums.variance_explained(),
        l0=sums.active / sums.n,
        dead_fraction=1 - float(sums.ever.float().mean()),
        ce_clean=entropies[0],
        ce_sae=entropies[1],
        ce_zero=entropies[2],
    )


@dataclass(slots=True)
class _Sums:
    """Running sums over tokens, in float64."""

    ever: Tensor
    n: int = 0
    active: float = 0.0
    residual: float = 0.0
    squares: float = 0.0
    total: Tensor | float = 0.0
    n_predictions: int = 0
    cross_entropy: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def read(self, activations: Tensor, sae: Sae) -> Tensor:
        """Adds a batch's tokens to the sums and gives them back unchanged."""
        for part in torch.split(activations.to(sae.dtype), CHUNK):
            features = sae.encode(part)
            error = part.double() - sae.decode(features).double()
            self.n += len(part)
            self.active += float((features > 0).sum())
            self.ever |= (features > 0).any(0).cpu()
            self.residual += float(error.pow(2).sum())
            self.squares += float(part.double().pow(2).sum())
            self.total = self.total + part.double().sum(0)
        return activations

    def variance_explained(self) -> float:
        """1 - residual / variance about the mean token, both summed over dimensions."""
        mean_square = float(torch.as_tensor(self.total).pow(2).sum()) / self.n
        return 1 - self.residual / (self.squares - mean_square)


def hook_of(model: HookedTransformer, sae: Sae) -> str:
    """The hook point of a SAE, checked against the model.

    Raises:
        InputError: The model has no such hook point, or another d_model.
    """
    name = str(sae.cfg.metadata.hook_name)
    if name not in model.hook_dict:
        raise InputError(f"SAE at {name}", "the model has no such hook point")
    if sae.cfg.d_in != model.cfg.d_model:
        raise InputError(f"SAE at {name}", f"d_in {sae.cfg.d_in}, not {model.cfg.d_model}")
    return name


def _inner(mask: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Tokens, without the first of each row."""
    return mask.bool() & (mask.cumsum(1) > 1)


def _replace(kept: Bool[Tensor, "batch pos"], change: Callable[[Tensor], Tensor]) -> Any:
    """A hook function that changes the activations at the kept positions."""

    def hook_function(
        activation: Float[Tensor, "batch pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch pos d_model"]:
        changed = activation.clone()
        changed[kept] = change(activation[kept])
        return changed

    return hook_function


def _cross_entropy(
    model: HookedTransformer, final: Tensor, tokens: Tensor, kept: Bool[Tensor, "batch pos"]
) -> float:
    """Summed next-token cross entropy (nats) at the kept positions."""
    predicting = kept[:, :-1]
    resid, targets = final[:, :-1][predicting], tokens[:, 1:][predicting]
    total = 0.0
    for part, target in zip(torch.split(resid, CHUNK), torch.split(targets, CHUNK), strict=True):
        logits = unembed(model, part[None])[0].float()
        total += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
    return total


@torch.no_grad()
def content_features(
    model: HookedTransformer, sae: Sae, rows: Sequence[Row], batch_size: int = 16
) -> Float32[np.ndarray, "n n_features"]:
    """Mean feature activations over the content tokens of each prompt.

    Content is the user's text: what lies between the template's header and its tokens after the
    instruction. The mean over content is read, not the last token: a SAE describes the words it
    is read on, and the last token is the same template token in every prompt.

    Raises:
        InputError: No rows, or a row that does not end in the template's tokens.
    """
    hook_name = hook_of(model, sae)
    spans = content_spans(model, rows)
    means = np.empty((len(rows), sae.cfg.d_sae), dtype=np.float32)
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any = None) -> None:
        kept["activation"] = activation

    for indices, tokens, mask in row_batches(model, rows, batch_size):
        with model.hooks(fwd_hooks=[(hook_name, keep)]):
            model(tokens, attention_mask=mask, stop_at_layer=layer_of(hook_name) + 1)
        for index, activation in zip(indices, kept["activation"], strict=True):
            offset = tokens.shape[1] - len(rows[index])
            start, end = spans[index]
            content = activation[offset + start : offset + end].to(sae.dtype)
            means[index] = sae.encode(content).float().mean(0).cpu().numpy()
    return means


def content_spans(model: HookedTransformer, rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Start and end of the user's text in each row; one token at least.

    The header is known from the template. Under another system message its last tokens still
    open the user's turn, so the longest ending of the header that a row holds is looked for.

    Raises:
        InputError: No rows, or a row that does not end in the template's tokens.
    """
    ending = post_instruction_row(model)
    if not rows or any(row[-len(ending) :] != ending for row in rows):
        raise InputError("rows", "need prompts that end in the chat template's tokens")
    first, second = chat_rows(model, ["Hello.", "Name a colour"])
    header = [
        a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    ]
    spans = []
    for row in rows:
        end = len(row) - len(ending)
        spans.append((max(min(_after(row, header), end - 1), 1), end))
    return spans


def _after(row: Row, header: Row) -> int:
    """Where the first match of the longest possible ending of the header ends."""
    for size in range(len(header), 0, -1):
        tail = header[-size:]
        for start in range(len(row) - size + 1):
            if row[start : start + size] == tail:
                return start + size
    return 1
