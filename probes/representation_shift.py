"""Where LPA moved the residual stream: the same texts read on the base and on the trained model.

The noise of the texts inflates the norm of their mean shift, and so shrinks the share of it
that lies along a direction. All measures here leave out the products of a text with itself,
which hold that noise: they are estimates for many texts, not descriptions of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float64

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import ActivationShift, Direction
from probes.activations import Activations
from probes.cka import alignment, pair_sums, permuted_alignment, u_centred
from probes.nulls import (
    RANDOM_NULLS,
    NullComparison,
    adjusted,
    against_null,
    random_directions,
    require_variation,
    unit_rows,
)
from probes.resamples import TextDraws, draw_texts

NEGLIGIBLE = 1e-6
"""A mean shift below this share of the activations' norm is rounding of float32."""


def representation_shifts(
    base: Activations,
    lpa: Activations,
    group: str,
    *,
    source: str = "",
    directions: Sequence[Direction] = (),
    blocks: Sequence[str] | None = None,
    position: int = -1,
    n_null: int = 500,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[ActivationShift]:
    """CKA, mean shift, and the shift along given directions, at each hook point.

    Args:
        base: Activations of the texts on the base model.
        lpa: Of the same texts in the same order on the trained model.
        group: Kind of texts: ``statements``, ``harmful``, ``harmless`` or ``neutral``.
        source: Name of the set that the texts are from.
        directions: Directions to measure the shift along, each at its own hook point.
        blocks: The facet of each text, where texts come in facets: resamples and sign flips take
            whole blocks. None where every text stands for itself.
        position: Position to read.
        n_null: Draws of each null.
        n_bootstrap: Resamples of the texts.
        seed: Of the draws.

    Returns:
        Per hook point a row of ``cka`` and ``relative_shift``, and per direction and random null
        one of ``shift_along`` and ``shift_share``; Benjamini-Hochberg over the layers. There is
        no ``shift_share`` where ``relative_shift`` is zero.

    Raises:
        InputError: The readings do not match, all texts are equal at a hook point, nothing moved
            at a hook point that has a direction, or two directions have one name and place.
    """
    _require_match(base, lpa, directions)
    draws = draw_texts(base.n, blocks, n_null, n_bootstrap, seed)
    common: dict[str, Any] = {"group": group, "source": source, "position": position, "n": base.n}
    common |= {"n_bootstrap": n_bootstrap, "n_null": n_null, "n_blocks": draws.n_blocks}
    rows: list[ActivationShift] = []
    for hook in base.hook_names:
        before, after = (side.at(hook, position).astype(np.float64) for side in (base, lpa))
        here = [direction for direction in directions if direction.hook_name == hook]
        place = {"hook_name": hook, "layer": layer_of(hook), "seed": seed, "p_adjusted": np.nan}
        rows += _at_hook(before, after, here, draws, common | place)
    return adjusted(rows, family=lambda row: (row.measure, row.direction, row.null))


def _at_hook(
    before: Float64[np.ndarray, "n d"],
    after: Float64[np.ndarray, "n d"],
    directions: Sequence[Direction],
    draws: TextDraws,
    place: dict[str, Any],
) -> Iterator[ActivationShift]:
    """Every measure at one hook point."""
    require_variation(before, place["hook_name"])
    yield _cka(before, after, draws, place)
    yield _relative_shift(before, after, draws, place)
    for direction in directions:
        yield from _along(before, after, direction, draws, place)


def shift_directions(
    base: Activations, lpa: Activations, *, position: int = -1, split: str = "all"
) -> list[Direction]:
    """The mean shift, lpa minus base, at each hook point where anything moved, in network order.

    Args:
        base: Activations of the texts on the base model.
        lpa: Of the same texts in the same order on the trained model.
        position: Position to read.
        split: Name of the texts' split.

    Returns:
        Unit directions named ``shift`` with the label ``lpa``; ``raw_norm`` is in activation
        units. Layers below the first update have none: their activations are equal.

    Raises:
        InputError: The readings do not match, or nothing moved anywhere.
    """
    _require_match(base, lpa, ())
    found = []
    for hook in base.hook_names:
        before, after = (side.at(hook, position).astype(np.float64) for side in (base, lpa))
        mean = (after - before).mean(axis=0)
        norm = float(np.linalg.norm(mean))
        if norm <= NEGLIGIBLE * _scale(before):
            continue
        found.append(
            Direction(
                name="shift",
                model="lpa",
                hook_name=hook,
                layer=layer_of(hook),
                position=position,
                method="mean_difference",
                raw_norm=norm,
                n=base.n,
                split=split,
                vector=(mean / norm).astype(np.float32),
            )
        )
    if not found:
        raise InputError("activations", "base and lpa are equal", "has the adapter been trained?")
    return found


def _require_match(base: Activations, lpa: Activations, directions: Sequence[Direction]) -> None:
    if base.hook_names != lpa.hook_names or base.n != lpa.n:
        raise InputError("activations", "base and lpa differ in hook points or number of texts")
    keys = [(direction.name, direction.hook_name) for direction in directions]
    if len(set(keys)) < len(keys):
        raise InputError("directions", "two have the same name and hook point")
    absent = {hook for _, hook in keys} - set(base.hook_names)
    if absent:
        raise InputError("directions", f"no activations were read at {', '.join(sorted(absent))}")


def _cka(
    before: Float64[np.ndarray, "n d"],
    after: Float64[np.ndarray, "n d"],
    draws: TextDraws,
    place: dict[str, Any],
) -> ActivationShift:
    first, second = u_centred(before), u_centred(after)
    value = float(alignment(first, second, np.ones((1, len(before))))[0])
    null = permuted_alignment(first, second, draws.orders)
    compared = against_null(value, null, "greater")
    resampled = alignment(first, second, draws.counts)
    return _row("cka", "", value, resampled, "texts permuted", compared, place)


def _relative_shift(
    before: Float64[np.ndarray, "n d"],
    after: Float64[np.ndarray, "n d"],
    draws: TextDraws,
    place: dict[str, Any],
) -> ActivationShift:
    """The norm of the mean shift over the median norm of the base activations.

    The squared norm of the mean is the mean product of two texts' shifts, over texts of
    different blocks. Flipping the signs of blocks keeps every shift's size and takes away what
    they have in common.
    """
    scale, moved = _scale(before), after - before
    products, every = draws.apart * (moved @ moved.T), np.ones((1, len(moved)))

    def norm(weights: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        squared = pair_sums(weights, products) / pair_sums(pairs, draws.apart)
        root: np.ndarray = np.sqrt(np.maximum(squared, 0.0)) / scale
        return root

    value, null = float(norm(every, every)[0]), norm(draws.signs, every)
    compared = against_null(value, null, "greater")
    resampled = norm(draws.counts, draws.counts)
    return _row("relative_shift", "", value, resampled, "signs flipped", compared, place)


def _along(
    before: Float64[np.ndarray, "n d"],
    after: Float64[np.ndarray, "n d"],
    direction: Direction,
    draws: TextDraws,
    place: dict[str, Any],
) -> Iterator[ActivationShift]:
    """The mean shift along a direction, and its share of the whole, against random directions."""
    scale, moved = _scale(before), after - before
    mean, unit = moved.mean(axis=0), unit_rows(direction.vector[None])[0]
    if np.linalg.norm(mean) <= NEGLIGIBLE * scale:
        raise InputError(f"direction {direction.name!r}", f"nothing moved at {direction.hook_name}")
    weights = draws.counts / draws.counts.sum(axis=1, keepdims=True)
    resampled = weights @ (moved @ unit) / scale
    own, resampled_shares = _shares(moved, unit[None], draws)
    for null in RANDOM_NULLS:
        drawn = random_directions(null, len(unit), len(draws.signs), draws.seed, before)
        along = float(unit @ mean) / scale
        compared = against_null(along, drawn @ mean / scale)
        yield _row("shift_along", direction.name, along, resampled, null, compared, place)
        if len(own):
            share, others = float(own[0]), _shares(moved, drawn, draws)[0]
            compared = against_null(share, others, "either tail")
            yield _row(
                "shift_share", direction.name, share, resampled_shares, null, compared, place
            )


def _shares(
    moved: Float64[np.ndarray, "n d"], units: Float64[np.ndarray, "k d"], draws: TextDraws
) -> tuple[Float64[np.ndarray, " shares"], Float64[np.ndarray, " resamples"]]:
    """The share of the squared mean shift along each unit direction, and resamples of the first.

    Both squares are mean products of two texts' shifts, over texts of different blocks. Where
    the whole is not above zero, texts have no shift in common and there are no shares;
    resamples in which it is not are left out.
    """
    along, whole = moved @ units.T, draws.apart * (moved @ moved.T)
    total = float(whole.sum())
    shares = ((draws.apart @ along) * along).sum(axis=0) / total if total > 0 else np.empty(0)
    totals = pair_sums(draws.counts, whole)
    parts = pair_sums(draws.counts, draws.apart * np.outer(along[:, 0], along[:, 0]))
    return shares, parts[totals > 0] / totals[totals > 0]


def _scale(before: Float64[np.ndarray, "n d"]) -> float:
    return float(np.median(np.linalg.norm(before, axis=1)))


def _row(
    measure: str,
    direction: str,
    value: float,
    resampled: Float64[np.ndarray, " n_bootstrap"],
    null: str,
    compared: NullComparison,
    place: dict[str, Any],
) -> ActivationShift:
    low, high = np.percentile(resampled, [2.5, 97.5])
    about: dict[str, Any] = {
        "measure": measure,
        "direction": direction,
        "null": null,
        "value": value,
    }
    return ActivationShift(low=float(low), high=float(high), **about, **asdict(compared), **place)
