"""Models and data whose truth is known, so that finding it (or not) can be tested."""

from __future__ import annotations

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
    cfg = model.cfg
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(cfg.d_model, 2, generator=generator))[0].T
    marker, direction = axes[0], axes[1]
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    for norm in [model.ln_final, *(ln for block in model.blocks for ln in (block.ln1, block.ln2))]:
        norm.w.data.fill_(1.0)
    for written in (model.embed.W_E, *(b.mlp.W_out for b in model.blocks)):
        written.data -= written.data @ axes.T @ axes
    for block in model.blocks:
        block.attn.W_O.data -= block.attn.W_O.data @ axes.T @ axes
    _plant(model, marker, direction)
    return model, direction, marker


def _plant(model: HookedTransformer, marker: torch.Tensor, direction: torch.Tensor) -> None:
    harm, harmless = (
        {token for row in rows(model, 24) for token in row}
        for rows in (harmful_rows, harmless_rows)
    )
    model.embed.W_E.data[sorted(harm - harmless)] += 2.0 * marker
    attention = model.blocks[PLANTED_LAYER - 1].attn
    attention._W_V.data[0] = 0.0
    attention._W_V.data[0][:, 0] = marker
    for query_head in (0, 1):  # the two that share the first key-value head
        attention.W_Q.data[query_head] = 0.0  # attends evenly
        attention.W_O.data[query_head] = 0.0
        attention.W_O.data[query_head][0] = 4.0 * direction
    unembed = model.unembed.W_U.data
    unembed -= torch.outer(direction, direction @ unembed)
    unembed[:, refusal_token_ids(model)] += 2.0 * direction[:, None]
