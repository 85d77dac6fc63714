"""Families of directions: one kind of direction, read at many hook points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from lpa_interp.errors import InputError
from lpa_interp.records import Direction
from probes.activations import Activations
from probes.groups import contrast_weights
from probes.nulls import require_variation


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Activations [n, d_model] by hook point, with the label and the group of each text.

    ``labels`` are True for all texts where a direction is their mean, as that of a shift is.
    """

    values: Mapping[str, np.ndarray]
    labels: np.ndarray
    groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class DirectionFamily:
    """One kind of direction: a vector [d_model] of any norm at each hook point.

    ``n`` texts are behind it; ``texts`` holds them where they are known: the null that permutes
    their labels needs them, and so does an interval.
    """

    name: str
    vectors: Mapping[str, np.ndarray]
    n: int
    texts: LabelledTexts | None = None


def labelled_family(
    name: str,
    activations: Activations,
    labels: Bool[np.ndarray, " n"],
    groups: Sequence[str],
    position: int = -1,
) -> DirectionFamily:
    """Mean-difference directions, kept with their texts, at every collected hook point.

    Args:
        name: Such as ``trait`` or the name of a factor.
        activations: Of the texts, in the order of ``labels``.
        labels: True for the positive side.
        groups: The group of each text, such as its facet: labels are permuted by group.
        position: Position to read.

    Raises:
        InputError: The texts do not differ at a hook point, or one side is empty.
    """
    if not 0 < labels.sum() < len(labels):
        raise InputError("labels", "all texts are on one side", "both sides are needed")
    weights = contrast_weights(labels[None])[0]
    values = {hook: activations.at(hook, position) for hook in activations.hook_names}
    for hook, read in values.items():
        require_variation(read, hook)
    vectors = {
        hook: weights @ (read.astype(np.float64) - read.mean(axis=0, dtype=np.float64))
        for hook, read in values.items()
    }
    return DirectionFamily(name, vectors, len(labels), LabelledTexts(values, labels, groups))


def direction_family(
    directions: Sequence[Direction], texts: LabelledTexts | None = None
) -> DirectionFamily:
    """Fitted directions of one name, such as refusal, harmfulness or the shift, as a family.

    ``texts`` are those that they were fitted to, at the places where they were read.

    Raises:
        InputError: There are none, they have several names, or two are at one hook point.
    """
    names = {direction.name for direction in directions}
    if len(names) != 1:
        raise InputError("directions", f"have the names {sorted(names)}", "give those of one name")
    vectors = {direction.hook_name: direction.vector for direction in directions}
    if len(vectors) < len(directions):
        raise InputError(f"directions {names.pop()!r}", "two are at one hook point")
    n = min(direction.n for direction in directions)
    return DirectionFamily(names.pop(), vectors, n, texts)
