"""Overlap of two subspaces, layer by layer, against that of random ones."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.curves import Curve, beyond_nulls_legend, draw_curve, draw_null, layer_axis, null_looks
from figures.rows import RunRows
from figures.style import (
    WIDTH,
    Drawing,
    as_table,
    colour_of,
    finite,
    in_order,
    legend_above,
    models_in,
    number,
    plain,
)
from figures.wording import ALPHA, listing, n_text, span
from lpa_interp.records import SubspaceAngle

Pair = tuple[str, str]


def draw_subspaces(rows: RunRows) -> Drawing | None:
    """Mean squared cosine of the principal angles by layer: a row per pair, base beside lpa."""
    found = rows.subspace_angles
    if not found:
        return None
    pairs, models = in_order(map(_pair, found)), models_in(found)
    nulls = in_order(a.null for a in found)
    fig = Figure(figsize=(WIDTH, 0.65 + 1.95 * len(pairs)), layout="constrained")
    axes = fig.subplots(len(pairs), len(models), squeeze=False, sharex=True, sharey="row")
    for pair, line in zip(pairs, axes, strict=True):
        for model, ax in zip(models, line, strict=True):
            cell = [a for a in found if (_pair(a), a.model) == (pair, model)]
            _draw_panel(ax, cell, nulls)
            ax.set_title(plain(f"{pair[0]} and {pair[1]}: {model}"))
        top = max([0.05, *finite(v for a in found if _pair(a) == pair for v in _heights(a))])
        line[0].set_ylim(-0.02 * top, min(1.02, 1.1 * top))
        line[0].set_ylabel("overlap")
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    legend_above(fig, beyond_nulls_legend(nulls, "above", "not above"), columns=2)
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Overlap of the subspaces, by layer",
        caption=_caption(found),
        alt="Line charts by layer of the overlap of "
        f"{listing(f'the {first} and the {second} subspace' for first, second in pairs)}, over "
        f"grey bands of {listing(nulls)}, for {listing(models)}; filled markers are above every "
        "band.",
    )


def _pair(angle: SubspaceAngle) -> Pair:
    return angle.first, angle.second


def _heights(angle: SubspaceAngle) -> tuple[float, float]:
    return angle.overlap, angle.null_high


def _draw_panel(ax: Axes, cell: Sequence[SubspaceAngle], nulls: Sequence[str]) -> None:
    layer_axis(ax)
    for null, look in null_looks(nulls).items():
        rows = sorted((a for a in cell if a.null == null), key=lambda a: a.layer)
        if rows:
            ends = [a.null_low for a in rows], [a.null_high for a in rows]
            draw_null(ax, [a.layer for a in rows], *ends, look)
    by_layer = {a.layer: a for a in sorted(cell, key=lambda a: a.layer)}
    if not by_layer:
        return
    hollow = [not is_above([a for a in cell if a.layer == layer]) for layer in by_layer]
    overlaps = [a.overlap for a in by_layer.values()]
    colour = colour_of(cell[0].model)
    draw_curve(ax, Curve(x=[*by_layer], y=overlaps, colour=colour, marker="o", hollow=hollow))


def is_above(tests: Sequence[SubspaceAngle]) -> bool:
    """Whether an overlap is above every null that it was compared with.

    One that is above the isotropic null and below the other says nothing: contrasts of few texts
    share less of the large directions than random draws with the same covariance do.
    """
    return all(
        number(a.p_adjusted) < ALPHA and number(a.overlap) > number(a.null_high) for a in tests
    )


def _caption(found: Sequence[SubspaceAngle]) -> str:
    sizes = listing(
        f"{first} (k = {k_first}) and {second} (k = {k_second})"
        for first, second, k_first, k_second in in_order(
            (a.first, a.second, a.k_first, a.k_second) for a in found
        )
    )
    draws = n_text(a.n_null for a in found).removeprefix("n = ")
    return (
        f"Mean squared cosine of the principal angles between the subspaces {sizes} at each "
        "layer: 1 where the smaller lies inside the larger, 0 where they are orthogonal. Each "
        "subspace holds the directions in which groups of texts (facets, requests) differ most "
        "from the other side. Largest cosines of a direction in one with a direction in the other: "
        f"{span((a.largest_cosine for a in found), 2)}. Grey is the control: random subspaces in "
        f"the place of the first, n = {draws} draws, central 95 %. Filled markers: above "
        f"every null, two-sided p, Benjamini-Hochberg over the layers of a null, below {ALPHA} "
        "for each. Look for: filled markers, and whether they rise in lpa. Above the isotropic "
        "null alone means little: any two sets of texts share the large directions of the residual "
        "stream. The overlap has no interval: noise of few texts moves it."
    )
