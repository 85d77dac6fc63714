"""Angles between directions, layer by layer, each against the nulls it was given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.curves import (
    Curve,
    beyond_nulls_legend,
    draw_curve,
    draw_null,
    hook_kind,
    layer_axis,
    null_looks,
)
from figures.rows import RunRows
from figures.style import (
    INK,
    WIDTH,
    Drawing,
    as_table,
    colour_of,
    finite,
    in_order,
    legend_above,
    models_in,
    plain,
)
from figures.wording import ALPHA, fixed, listing, n_text
from lpa_interp.records import DirectionAngle

Panel = tuple[str, str, str, str, str]
"""First and second direction, the kind of hook point, the model, and the model that was read."""


def draw_angles(rows: RunRows) -> Drawing | None:
    """Cosine by layer over the bands of its nulls: a row per pair, base beside lpa."""
    found = rows.angles
    if not found:
        return None
    nulls, grid = in_order(a.null for a in found), _layout(found)
    columns = max(len(line) for line in grid)
    height = 1.95 if len(grid) <= 2 else 1.5
    fig = Figure(figsize=(WIDTH, 0.65 + height * len(grid)), layout="constrained")
    axes = fig.subplots(len(grid), columns, squeeze=False, sharex=True, sharey="row")
    for line, axis_row in zip(grid, axes, strict=True):
        for panel, ax in zip_longest(line, axis_row):
            if panel is None:
                ax.set_axis_off()
                continue
            _draw_panel(ax, [a for a in found if _panel(a) == panel], nulls)
            ax.set_title(plain(_title(panel, found)))
        axis_row[0].set_ylabel("cosine")
        axis_row[0].set_ylim(*_limits([a for a in found if _panel(a) in line]))
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    legend = beyond_nulls_legend(nulls, "differs from", "does not")
    legend_above(fig, legend, columns=3 if len(nulls) > 1 else None)
    pairs = in_order(f"{a.first} and {a.second}" for a in found)
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Angle between the directions, by layer",
        caption=_caption(found),
        alt=f"Line charts of the cosine by layer for {listing(pairs)}, over grey bands of "
        f"{listing(nulls)}, markers filled where the cosine differs from every null, for "
        f"{listing(models_in(found))}.",
    )


def _limits(cell: Sequence[DirectionAngle]) -> tuple[float, float]:
    """Room for cosines and nulls: an interval from -1 to 1 would squeeze them, and runs out."""
    ends = [0.0, *finite(end for a in cell for end in (a.cosine, a.null_low, a.null_high))]
    pad = max(0.03, 0.25 * (max(ends) - min(ends)))
    return max(-1.05, min(ends) - pad), min(1.05, max(ends) + pad)


def _panel(angle: DirectionAngle) -> Panel:
    pair = angle.first, angle.second, hook_kind(angle.hook_name)
    return *pair, angle.model, angle.frame or angle.model


def _layout(found: Sequence[DirectionAngle]) -> list[list[Panel]]:
    """Rows of at most two panels: a pair begins a row, pairs of a single panel share one."""
    lines: list[list[Panel]] = []
    models = models_in(found)
    for pair in in_order(_panel(a)[:3] for a in found):
        mine = {p for p in map(_panel, found) if p[:3] == pair}
        # Each model read in itself comes before it is read in another.
        panels = sorted(mine, key=lambda p: (models.index(p[3]), p[4] != p[3], p[4]))
        alone = len(panels) == 1 and lines and len(lines[-1]) == 1
        if alone:
            lines[-1] += panels
        else:
            lines += [panels[start : start + 2] for start in range(0, len(panels), 2)]
    return lines


def _title(panel: Panel, found: Sequence[DirectionAngle]) -> str:
    first, second, kind, model, frame = panel
    several = len({hook_kind(a.hook_name) for a in found}) > 1
    read = "" if model == frame else f", read in {frame}"
    return f"{first} and {second}: {model}{read}" + (f" ({kind})" if several else "")


def _draw_panel(ax: Axes, cell: Sequence[DirectionAngle], nulls: Sequence[str]) -> None:
    ax.axhline(0, color=INK, lw=0.7, ls=":")
    layer_axis(ax)
    for null, look in null_looks(nulls).items():
        rows = sorted((a for a in cell if a.null == null), key=lambda a: a.layer)
        if rows:
            ends = [a.null_low for a in rows], [a.null_high for a in rows]
            draw_null(ax, [a.layer for a in rows], *ends, look)
    by_layer = {a.layer: a for a in sorted(cell, key=lambda a: a.layer)}
    hollow = [not _differs([a for a in cell if a.layer == layer]) for layer in by_layer]
    cosines = [a.cosine for a in by_layer.values()]
    band: Any = {end: [getattr(a, end) for a in by_layer.values()] for end in ("low", "high")}
    colour = colour_of(cell[0].model)
    line = Curve(x=[*by_layer], y=cosines, **band, colour=colour, marker="o", hollow=hollow)
    draw_curve(ax, line)


def _differs(tests: Sequence[DirectionAngle]) -> bool:
    """Whether the cosine differs from every null that it was compared with."""
    return all(a.p_adjusted is not None and a.p_adjusted < ALPHA for a in tests)


def _caption(found: Sequence[DirectionAngle]) -> str:
    draws = n_text(a.n_permutations for a in found).removeprefix("n = ")
    sizes = listing(
        f"{first} {n_text(a.n_first for a in found if a.first == first)}"
        for first in in_order(a.first for a in found)
    )
    others = listing(
        f"{second} {n_text(a.n_second for a in found if a.second == second)}"
        for second in in_order(a.second for a in found)
    )
    return (
        "Cosine of two directions at each layer. Grey is the control: the central 95 % of each "
        f"null ({listing(in_order(a.null for a in found))}; {draws} draws), in which something "
        "meaningless stands in the place of the first direction. Filled markers: two-sided p, "
        f"Benjamini-Hochberg over the layers of a pair and null, below {ALPHA} for every null "
        f"that the pair was given. Texts behind the first directions: {sizes}; behind the second: "
        f"{others}. Look for: a run of filled markers outside all bands in base, and whether it "
        "moves in lpa. Isotropic random directions are the weakest null: two contrasts of any "
        "texts share the large directions of the residual stream. A direction fitted to few texts "
        f"is noisy and its cosine shrinks towards zero. {_interval_words(found)}"
    )


def _interval_words(found: Sequence[DirectionAngle]) -> str:
    levels = in_order(f"{fixed(100 * a.level, 0)} %" for a in found if a.level is not None)
    if not levels:
        return "These cosines have no interval."
    return (
        f"Coloured bands are {listing(levels)} bootstrap intervals over the texts behind both "
        "directions, of the cosine that ever more texts would lead to: they allow for the noise, "
        "so that the line can lie nearer to zero than its band. A band that runs out of its panel "
        "says that the texts are too few."
    )
