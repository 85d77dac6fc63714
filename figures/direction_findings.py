"""Sentences on how steady directions are, on other traits and on subspaces, each by rule."""

from __future__ import annotations

from collections.abc import Sequence

from figures.rows import RunRows
from figures.style import in_order, number
from figures.subspaces import is_above
from figures.trait_angles import clear_layers
from figures.wording import ALPHA, count_of, listing, span, target_words
from lpa_interp.records import DirectionAngle, SubspaceAngle


def stability_sentences(rows: RunRows) -> list[str]:
    """Per target and method: the split-half cosines of each model beside their null."""
    lines = []
    for target, method in in_order((s.target, s.method) for s in rows.stability):
        every = [s for s in rows.stability if (s.target, s.method) == (target, method)]
        told = []
        for model in in_order(s.model for s in every):
            cell = [s for s in every if s.model == model]
            above = [s for s in cell if number(s.p_adjusted) < ALPHA]
            told.append(
                f"{model} {span((s.cosine for s in cell), 2, sign=True)}, above the null "
                f"(adjusted p < {ALPHA}) at {len(above)} of {count_of(len(cell), 'layer')}"
            )
        null = span((s.null_high for s in every), 2, sign=True)
        name = f"{target_words(target)}, {method.replace('_', ' ')}"
        lines.append(
            f"Split halves of {name}: cosines over layers {'; '.join(told)}. Permuted labels "
            f"reach {null} (upper 2.5 %)."
        )
    return lines


def other_trait_sentences(rows: RunRows) -> list[str]:
    """Per model: which of the other traits leave every null, and the cosines there."""
    found = rows.trait_angles
    lines = []
    for second, model in in_order((a.second, a.model) for a in found):
        mine = [a for a in found if (a.second, a.model) == (second, model)]
        traits = in_order(a.first for a in mine)
        told = [words for t in traits if (words := _clear_words([a for a in mine if a.first == t]))]
        start = f"Other traits and {second}, {model}: "
        if not told:
            none = f"none of {count_of(len(traits), 'trait')} differs detectably from every null"
            lines.append(f"{start}{none} at any layer.")
            continue
        lines.append(
            f"{start}{len(told)} of {count_of(len(traits), 'trait')} differ from every null "
            f"(adjusted p < {ALPHA}) somewhere: {listing(told)}."
        )
    return lines


def _clear_words(cell: Sequence[DirectionAngle]) -> str:
    """The layers at which one trait is clear of its nulls; nothing where there are none."""
    clear = clear_layers(cell)
    if not clear:
        return ""
    layers = len({a.layer for a in cell})
    cosines = span((a.cosine for a in cell if a.layer in clear), 2, sign=True)
    return f"{target_words(cell[0].first)} at {len(clear)} of {layers} layers ({cosines})"


def overlap_sentences(rows: RunRows) -> list[str]:
    """Per pair of subspaces and model: overlaps, and how many layers leave every null."""
    found = rows.subspace_angles
    lines = []
    for key in in_order((a.first, a.second, a.model) for a in found):
        cell = [a for a in found if (a.first, a.second, a.model) == key]
        first, second, model = key
        told = span((a.overlap for a in cell), 3)
        lines.append(f"Subspaces {first} and {second}, {model}: overlap {told}; {_beyond(cell)}.")
    return lines


def _beyond(cell: Sequence[SubspaceAngle]) -> str:
    layers = in_order(a.layer for a in cell)
    out = [layer for layer in layers if is_above([a for a in cell if a.layer == layer])]
    where = f"at {len(out) or 'none'} of {count_of(len(layers), 'layer')}"
    return f"above every null (adjusted p < {ALPHA}) {where}"
