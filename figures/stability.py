"""Does the other half of the texts give the same direction? Split-half cosine by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.curves import Curve, draw_curve, draw_null, even_out, joint_null, layer_axis
from figures.rows import RunRows
from figures.style import (
    CONTROL,
    INK,
    MODEL_MARKERS,
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
from figures.wording import ALPHA, listing, n_text, target_words
from lpa_interp.records import DirectionStability

Panel = tuple[str, str, int]
"""Target, method and position."""


def draw_stability(rows: RunRows) -> Drawing | None:
    """Split-half cosine by layer over its null: a panel per target, a line per model."""
    found = rows.stability
    if not found:
        return None
    panels = in_order(map(_panel, found))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    height = 2.3 if lines == 1 else 1.5 * lines
    fig = Figure(figsize=(WIDTH, 0.7 + height), layout="constrained")
    axes = fig.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for index, ax in enumerate(axes.flat):
        if index >= len(panels):
            ax.set_axis_off()
            continue
        _draw_panel(ax, [s for s in found if _panel(s) == panels[index]])
        ax.set_title(plain(_title(panels[index], panels)), fontsize=7.5)
        if index % columns == 0:
            ax.set_ylabel("cosine of halves")
        if index + columns >= len(panels):
            ax.set_xlabel("layer")
            ax.tick_params(labelbottom=True)
    lowest = min([0.0, *finite(end for s in found for end in (s.low, s.null_low))])
    axes[0, 0].set_ylim(lowest - 0.05, 1.03)
    legend_above(fig, _legend(models_in(found)), columns=3)
    targets = listing(in_order(target_words(s.target) for s in found))
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Does the other half of the texts give the same direction?",
        caption=_caption(found),
        alt="Line charts by layer of the cosine between directions fitted to two halves of the "
        f"texts, for {targets}, one line each for {listing(models_in(found))}, over a grey band "
        "of the null; filled markers are above it.",
    )


def _panel(row: DirectionStability) -> Panel:
    return row.target, row.method, row.position


def _title(panel: Panel, panels: Sequence[Panel]) -> str:
    target, method, position = panel
    title = target_words(target)
    if len({m for _, m, _ in panels}) > 1:
        title += f", {method.replace('_', ' ')}"
    if len({p for t, m, p in panels if (t, m) == (target, method)}) > 1:
        title += f", token {position}"
    return title


def _draw_panel(ax: Axes, cell: Sequence[DirectionStability]) -> None:
    draw_null(ax, *joint_null(cell), {"color": CONTROL, "alpha": 0.3})
    ax.axhline(0, color=INK, lw=0.7, ls=":")
    models = models_in(cell)
    for place, model in enumerate(models):
        mine = sorted((s for s in cell if s.model == model), key=lambda s: s.layer)
        look: dict[str, Any] = {"colour": colour_of(model), "marker": MODEL_MARKERS.get(model, "v")}
        look |= {"low": [s.low for s in mine], "high": [s.high for s in mine]}
        # Where two models agree, the first shows on both sides of the one drawn over it.
        look["width"] = 1.2 + 1.6 * (place < len(models) - 1)
        look["hollow"] = [s.p_adjusted is None or not s.p_adjusted < ALPHA for s in mine]
        draw_curve(ax, Curve(x=[s.layer for s in mine], y=[s.cosine for s in mine], **look))
    layer_axis(ax)


def _legend(models: Sequence[str]) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=colour_of(m), marker=MODEL_MARKERS.get(m, "v"), markersize=4, label=m)
        for m in models
    ]
    handles = even_out(handles)
    look: Any = {"color": INK, "marker": "o", "markersize": 4, "ls": "none"}
    handles.append(Line2D([], [], **look, label=f"above the null (adjusted p < {ALPHA})"))
    handles.append(Line2D([], [], **look, markerfacecolor="white", label="not above"))
    handles.append(Patch(color=CONTROL, alpha=0.3, label="null: labels permuted"))
    return handles


def _caption(found: Sequence[DirectionStability]) -> str:
    sizes = listing(
        f"{target_words(target)} {n_text(s.n for s in found if s.target == target)} texts in "
        f"{listing(in_order(str(s.n_groups) for s in found if s.target == target))}"
        for target in in_order(s.target for s in found)
    )
    splits = n_text(s.n_splits for s in found).removeprefix("n = ")
    draws = n_text(s.n_permutations for s in found).removeprefix("n = ")
    return (
        "The groups of texts (facets; for a persona, pairs of opposed instructions) are halved at "
        "random, each half gives a direction, and the line is the mean cosine of the two over "
        f"{splits} halvings, with their central 95 % as a band: a spread over halvings of these "
        f"texts, no interval for new ones. Texts and groups: {sizes}. Control: the same with "
        f"labels permuted by group ({draws} times), central 95 % in grey. Filled markers: "
        f"one-sided p, Benjamini-Hochberg over the layers, below {ALPHA}. Look for: lines well "
        "above the grey band. Where they are not, the direction is one of the texts that happened "
        "to be written, and nothing that is measured along it speaks of the trait. A direction "
        "from all texts is steadier than one from a half."
    )
