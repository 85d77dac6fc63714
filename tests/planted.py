"""Models and data whose truth is known, so that finding it (or not) can be tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lpa_interp.chat import Row, chat_rows
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from probes.activations import Activations
from tests.tiny import tiny_model

# Products of tiny matrices wait for threads longer than they take.
torch.set_num_threads(1)
threadpool_limits(1)

HOOK = "blocks.0.hook_resid_pre"
# Capital letters are tokens of their own in the tiny vocabulary: they mark the harm words.
HARM_WORDS = ("LOCK", "STEAL", "BREAK", "HACK", "BURN", "CHEAT")
HARMLESS_WORDS = ("cat", "mat", "sing", "bake", "read", "draw")
PLANTED_LAYER = 2


def grouped_data(
    seed: int, strength: float, n_groups: int = 20, size: int = 3, d_model: int = 32
) -> tuple[Activations, np.ndarray, list[str], np.ndarray]:
    """Activations of grouped statements with a class difference along a known direction.

    Statements of a group share an offset as large as their own noise, as facets do; with
    ``strength`` 0 the labels mean nothing. Returns activations, labels, groups, direction.
    """
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(d_model)
    direction /= np.linalg.norm(direction)
    group_labels = rng.permutation(np.arange(n_groups) < n_groups // 2)
    offsets = rng.standard_normal((n_groups, d_model))
    values = np.repeat(offsets, size, axis=0) + rng.standard_normal((n_groups * size, d_model))
    labels = np.repeat(group_labels, size)
    values += strength * np.where(labels, 1.0, -1.0)[:, None] * direction
    groups = [f"facet{index // size}" for index in range(len(labels))]
    return one_hook(values), labels, groups, direction


def one_hook(values: np.ndarray, hook_name: str = HOOK) -> Activations:
    """Activations at one hook point and the last position."""
    return Activations({hook_name: values.astype(np.float32)[:, None]}, (-1,))


def harmful_rows(model: HookedTransformer, n: int = 12) -> list[Row]:
    """Prompts that each hold a harm word."""
    return _rows(model, HARM_WORDS, n)


def harmless_rows(model: HookedTransformer, n: int = 12) -> list[Row]:
    """The same prompts with harmless words."""
    return _rows(model, HARMLESS_WORDS, n)


def _rows(model: HookedTransformer, words: tuple[str, ...], n: int) -> list[Row]:
    texts = ("tell me how to {}", "please {} it", "how to {} the house", "can you {} here")
    pairs = [(text, word) for text in texts for word in words]
    return chat_rows(model, [text.format(word) for text, word in pairs[:n]])


def refusing_model(seed: int = 0) -> tuple[HookedTransformer, torch.Tensor, torch.Tensor]:
    """A tiny transformer that refuses along a known direction, written in the block before
    `PLANTED_LAYER`.

    Capital letters carry a marker in their embedding. The first key-value head of that block
    attends evenly and writes the direction as much as it saw of the marker; the unembedding
    reads the direction as refusal. Before `PLANTED_LAYER` the direction is absent; from there
    on it carries all of the refusal. Returns the model and the unit direction and marker.
    """
    model = tiny_model(seed)
    marker, direction = _axes(model, seed, 2)
    _clear(model, torch.stack([marker, direction]))
    _mark(model, 2.0 * marker)
    _write(model, marker, 4.0 * direction)
    _read(model, 2.0 * direction)
    return model, direction, marker


@dataclass(frozen=True)
class PlantedPair:
    """A model before and after training whose refusal gain takes a known way.

    ``trait`` and ``refusal`` are unit directions at a known angle: the trained model writes along
    ``refusal``, and ``share`` of what it refuses more than the base is read from ``trait``.
    ``absent`` is a unit direction that nothing writes.
    """

    base: HookedTransformer
    trained: HookedTransformer
    trait: torch.Tensor
    refusal: torch.Tensor
    absent: torch.Tensor


def planted_pair(
    share: float = 1.0, cosine: float = 0.6, base_on_trait: float = 0.0, seed: int = 0
) -> PlantedPair:
    """A pair whose extra refusal on harmful prompts flows through the trait direction, or not.

    Refusal is written in the block before `PLANTED_LAYER` along two axes, the trait's and another,
    and the unembedding, equal in both models, reads both. Of the trained model's gain ``share``
    is read from the trait's axis. Its refusal direction has the same ``cosine`` with the trait's
    whatever the share: what it writes there is read as much as the share demands. The base's own
    refusal is read from the other axis, but for ``base_on_trait`` of it (less than 1). Most of the
    residual stream's norm is constant. Without a final norm the truth is exact: log-odds are
    linear in what is written.
    """
    models = [tiny_model(seed), tiny_model(seed)]
    marker, trait, other, constant, absent = _axes(models[0], seed, 5)
    # In units of the base's refusal, which the gain equals.
    elsewhere = (1 - base_on_trait) + (1 - share)
    written = elsewhere * cosine / (1 - cosine**2) ** 0.5
    read = (base_on_trait + share) / written  # per unit along the trait's axis
    before = (1 - base_on_trait) * other + (base_on_trait / read if read else 0.0) * trait
    after = elsewhere * other + written * trait
    for model, vector in zip(models, (before, after), strict=True):
        _clear(model, torch.stack([marker, trait, other, constant, absent]))
        model.embed.W_E.data += 3.0 * constant
        _mark(model, 2.0 * marker)
        _write(model, marker, 1.5 * vector)
        _read(model, 2.0 * (read * trait + other))
        model.ln_final = torch.nn.Identity()
    refusal = torch.nn.functional.normalize(after, dim=0)
    return PlantedPair(*models, trait, refusal, absent)


def _axes(model: HookedTransformer, seed: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(model.cfg.d_model, n, generator=generator))[0].T


def _clear(model: HookedTransformer, axes: torch.Tensor) -> None:
    """Quietens a model, and makes nothing write along the axes."""
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    for norm in [model.ln_final, *(ln for block in model.blocks for ln in (block.ln1, block.ln2))]:
        norm.w.data.fill_(1.0)
    for written in (model.embed.W_E, *(b.mlp.W_out for b in model.blocks)):
        written.data -= written.data @ axes.T @ axes
    for block in model.blocks:
        block.attn.W_O.data -= block.attn.W_O.data @ axes.T @ axes


def _mark(model: HookedTransformer, marker: torch.Tensor) -> None:
    """Adds a marker to the embedding of the tokens that only harmful prompts hold."""
    harm, harmless = (
        {token for row in rows(model, 24) for token in row}
        for rows in (harmful_rows, harmless_rows)
    )
    model.embed.W_E.data[sorted(harm - harmless)] += marker


def _write(model: HookedTransformer, marker: torch.Tensor, vector: torch.Tensor) -> None:
    """Makes the block before `PLANTED_LAYER` write a vector as much as it sees of the marker."""
    attention = model.blocks[PLANTED_LAYER - 1].attn
    attention._W_V.data[0] = 0.0
    attention._W_V.data[0][:, 0] = marker
    for query_head in (0, 1):  # the two that share the first key-value head
        attention.W_Q.data[query_head] = 0.0  # attends evenly
        attention.W_O.data[query_head] = 0.0
        attention.W_O.data[query_head][0] = vector


def _read(model: HookedTransformer, reader: torch.Tensor) -> None:
    """Makes the unembedding read a vector, and nothing else along it, as refusal."""
    unembed = model.unembed.W_U.data
    unit = reader / reader.norm()
    unembed -= torch.outer(unit, unit @ unembed)
    unembed[:, refusal_token_ids(model)] += reader[:, None]
