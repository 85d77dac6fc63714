"""An interval for the cosine of two fitted directions, over the texts that they were fitted to.

Directions from few texts are noisy, and noise turns them towards being orthogonal: their cosine
shrinks towards zero, and the cosines of resampled texts shrink once more. So the noise is taken
out. With D the pair of directions and G = D D^T their three products, resamples give products G*
whose mean is above G by an estimate N of what noise adds to each product. G - N is without noise;
a resample has noise twice, and G* - 2N varies about G - N. Its cosines give the interval: it is
for the cosine that ever more texts of the same kinds would lead to, not for that of as many again.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 10 (bias) and 13
(percentile intervals).
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float64

from probes.crossval import group_draws
from probes.families import LabelledTexts

LEVEL = 0.95


def cosine_interval(
    first: LabelledTexts,
    second: LabelledTexts,
    hook_name: str,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % bootstrap interval of the cosine of two mean differences at a hook point.

    Groups are drawn whole, within the sides that they hold. Texts behind both directions are
    drawn once for both: noise that the two share is taken out as well.

    Args:
        first: Texts of one direction.
        second: Of the other. They are the same texts where the names of the groups are.
        hook_name: Where both were read.
        n_bootstrap: Resamples.
        seed: Of the resamples.

    Returns:
        Both ends, within -1 to 1. An interval from -1 to 1 says that the texts are too few.

    Raises:
        InputError: The hook point was not read, or a side is empty.
    """
    values = [texts.values[hook_name].astype(np.float64) for texts in (first, second)]
    centres = [_centre(texts, read) for texts, read in zip((first, second), values, strict=True)]
    once, resampled = [], []
    for texts, read, centre in zip((first, second), values, centres, strict=True):
        once.append(_weights(texts, np.ones((1, len(texts.labels)))) @ (read - centre))
        resampled.append(_weights(texts, _counts(texts, n_bootstrap, seed)) @ (read - centre))
    products = _products(*once)
    drawn = _products(*resampled)
    cosines = _cosine(drawn - 2 * (drawn.mean(axis=0) - products))
    low, high = np.percentile(cosines, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _centre(texts: LabelledTexts, read: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, " d"]:
    """What may be taken off all texts: a mean difference does not change, and digits are saved."""
    both_sides = 0 < texts.labels.sum() < len(texts.labels)
    centre: np.ndarray = read.mean(axis=0) * both_sides
    return centre


def _counts(texts: LabelledTexts, n_bootstrap: int, seed: int) -> Float64[np.ndarray, "k n"]:
    """How often each text is drawn. The stream is that of the groups' names."""
    names, codes = np.unique(np.asarray(texts.groups), return_inverse=True)
    stream = zlib.crc32("\n".join(names).encode())
    draws = group_draws(texts.labels, codes, n_bootstrap, np.random.default_rng([seed, stream]))
    return draws[:, codes]


def _weights(
    texts: LabelledTexts, counts: Float64[np.ndarray, "k n"]
) -> Float64[np.ndarray, "k n"]:
    """Rows w with w @ x = the mean difference of the texts drawn, or their mean with one side."""
    weights = np.zeros_like(counts)
    for side, sign in ((texts.labels, 1), (~texts.labels, -1)):
        if side.any():
            weights += sign * (counts * side) / (counts * side).sum(axis=1, keepdims=True)
    return weights


def _products(
    first: Float64[np.ndarray, "k d"], second: Float64[np.ndarray, "k d"]
) -> Float64[np.ndarray, "k 3"]:
    """The squared norms of both and their inner product, row by row."""
    pairs = ((first, first), (second, second), (first, second))
    return np.stack([(one * two).sum(axis=1) for one, two in pairs], axis=1)


def _cosine(products: Float64[np.ndarray, "k 3"]) -> Float64[np.ndarray, " k"]:
    """Cosines, at most 1 in size; 1 in size too where a squared norm is not above zero."""
    norms = np.sqrt(np.maximum(products[:, 0], 0) * np.maximum(products[:, 1], 0))
    inner = products[:, 2]
    sizes = np.divide(np.abs(inner), norms, out=np.ones_like(inner), where=norms > 0)
    cosines: np.ndarray = np.sign(inner) * np.minimum(sizes, 1)
    return cosines
