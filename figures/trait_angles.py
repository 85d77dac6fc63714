"""Angles of many traits to the refusal direction: factors, dark traits and personas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.rows import RunRows
from figures.style import (
    INK,
    WIDTH,
    Drawing,
    as_table,
    finite,
    in_order,
    legend_above,
    models_in,
    number,
    plain,
)
from figures.wording import ALPHA, fixed, listing, n_text, target_words
from lpa_interp.records import DirectionAngle

COLOURS = "PuOr_r"


def draw_trait_angles(rows: RunRows) -> Drawing | None:
    """Cosine with refusal, a row per trait and a column per layer, base beside lpa."""
    found = rows.trait_angles
    if not found:
        return None
    traits, models = in_order(a.first for a in found), models_in(found)
    second = listing(in_order(a.second for a in found))
    fig = Figure(figsize=(WIDTH, 1.25 + 0.23 * len(traits)), layout="constrained")
    axes = fig.subplots(1, len(models), squeeze=False, sharey=True)[0]
    largest = max([0.1, *(abs(a.cosine) for a in found if a.cosine is not None)])
    images = []
    for model, ax in zip(models, axes, strict=True):
        cell = [a for a in found if a.model == model]
        images.append(_draw_matrix(ax, cell, traits, largest))
        ax.set_title(plain(f"cosine with {second}: {model}"))
        ax.set_xlabel("layer")
    axes[0].set_yticks(range(len(traits)), labels=[plain(target_words(t)) for t in traits])
    bar: Any = fig.colorbar(images[-1], ax=axes, fraction=0.03, pad=0.015)
    bar.outline.set_linewidth(0)
    bar.set_label("cosine")
    legend_above(fig, [_dot()])
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Angles of other traits to the refusal direction",
        caption=_caption(found, second),
        alt=f"Heat maps of the cosine with {second}, one row each for "
        f"{listing(map(target_words, traits))} and a column per layer, for {listing(models)}; dots "
        "mark cosines that differ from every null.",
    )


def _draw_matrix(
    ax: Axes, cell: Sequence[DirectionAngle], traits: Sequence[str], largest: float
) -> Any:
    layers = sorted({a.layer for a in cell})
    cosines = np.full((len(traits), len(layers)), np.nan)
    for a in cell:
        cosines[traits.index(a.first), layers.index(a.layer)] = number(a.cosine)
    step = 0.5
    edges = (layers[0] - step, layers[-1] + step, len(traits) - 0.5, -0.5)
    look: Any = {"cmap": COLOURS, "vmin": -largest, "vmax": largest}
    image = ax.imshow(cosines, extent=edges, aspect="auto", interpolation="nearest", **look)
    for row, trait in enumerate(traits):
        mine = [a for a in cell if a.first == trait]
        clear = clear_layers(mine)
        dark = {a.layer for a in mine if abs(number(a.cosine)) > 0.6 * largest}
        for some, colour in ((clear - dark, INK), (clear & dark, "white")):
            ax.plot(sorted(some), [row] * len(some), ls="none", marker=".", ms=3, color=colour)
    ax.grid(False)
    sources = [trait.partition(":")[0] for trait in traits]
    for row in range(1, len(traits)):
        if sources[row] != sources[row - 1]:
            ax.axhline(row - 0.5, color="white", lw=3)
    ax.tick_params(axis="y", length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return image


def clear_layers(cell: Sequence[DirectionAngle]) -> set[int]:
    """Layers at which a pair's cosine differs from every null that it was given."""
    unclear = {a.layer for a in cell if not number(a.p_adjusted) < ALPHA}
    return {a.layer for a in cell} - unclear


def _dot() -> Line2D:
    look: Any = {"color": INK, "marker": ".", "markersize": 5, "ls": "none"}
    return Line2D([], [], **look, label=f"differs from every null (adjusted p < {ALPHA})")


def _caption(found: Sequence[DirectionAngle], second: str) -> str:
    draws = n_text(a.n_permutations for a in found).removeprefix("n = ")
    sizes = listing(
        f"{target_words(first)} {n_text(a.n_first for a in found if a.first == first)}"
        for first in in_order(a.first for a in found)
    )
    widths = finite(number(a.high) - number(a.low) for a in found)
    interval = (
        f"; the 95 % bootstrap intervals over texts in the table are {fixed(min(widths))} to "
        f"{fixed(max(widths))} wide"
        if widths
        else "; no intervals"
    )
    personas = (
        " Personas are read over the model's own completions under opposed instructions, all of "
        "them kept: a model that does not follow the instructions gives a direction of their "
        "wording, and each rests on few instructions."
        if any(a.first.startswith("persona_vectors:") for a in found)
        else ""
    )
    return (
        f"Cosine with the {second} direction at each layer. Each row is named for the end that "
        f"its direction points to ({sizes} texts{interval}). Control, in the table: "
        f"{listing(in_order(a.null for a in found))}, {draws} draws each. Dots: two-sided p, "
        "Benjamini-Hochberg over the layers of a pair and null, below "
        f"{ALPHA} for every null.{personas} Look for: runs of dots, and whether traits of one kind "
        "point the same way; how steady a direction is, the split-half cosines tell."
    )
