"""Resamples and null draws of texts that come in blocks, such as the statements of a facet.

The texts of a block are near-paraphrases, so that whole blocks are drawn and flipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpa_interp.errors import InputError
from probes.nulls import NULLS


@dataclass(frozen=True, slots=True)
class TextDraws:
    """Draws that every layer shares.

    ``counts`` [n_bootstrap, n] say how often each text is drawn, ``signs`` and ``orders``
    [n_null, n] are sign flips by block and orders of the texts, ``apart`` [n, n] is 1 for texts
    of different blocks and 0 for others.
    """

    counts: np.ndarray
    signs: np.ndarray
    orders: np.ndarray
    apart: np.ndarray
    n_blocks: int
    seed: int


def draw_texts(
    n: int, blocks: Sequence[str] | None, n_null: int, n_bootstrap: int, seed: int
) -> TextDraws:
    """Draws resamples of blocks, sign flips of blocks and orders of texts.

    Resamples of one block alone, which hold no pair of texts to compare, are left out: of four
    blocks that is one resample in 64, of ten one in a thousand million.

    Args:
        n: Number of texts.
        blocks: The block of each text; None where every text is its own.
        n_null: Sign flips and orders.
        n_bootstrap: Resamples.
        seed: Of all of them.

    Raises:
        InputError: Texts and blocks differ in number, or there are fewer than four blocks.
    """
    names = [str(index) for index in range(n)] if blocks is None else list(blocks)
    if len(names) != n:
        raise InputError("blocks", f"{len(names)} blocks for {n} texts")
    codes = np.unique(np.asarray(names), return_inverse=True)[1]
    n_blocks = int(codes.max()) + 1
    if n_blocks < 4:
        raise InputError("blocks", f"{n_blocks} are too few for an interval", "four at least")
    rng = np.random.default_rng([seed, len(NULLS)])  # a stream apart from those of the nulls
    counts = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)
    counts = counts[(counts > 0).sum(axis=1) > 1]
    signs = rng.choice([-1.0, 1.0], size=(n_null, n_blocks))
    orders = rng.permuted(np.tile(np.arange(n), (n_null, 1)), axis=1)
    apart = (codes[:, None] != codes[None, :]).astype(np.float64)
    return TextDraws(1.0 * counts[:, codes], signs[:, codes], orders, apart, n_blocks, seed)
