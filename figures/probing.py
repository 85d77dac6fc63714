"""Texts projected on the trait and refusal directions."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.rows import RunRows
from figures.style import (
    INK,
    MUTED,
    SIDE_COLOURS,
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
from figures.wording import listing, n_text
from lpa_interp.records import Projection

GROUPS = {
    "positive_trait": "positive\nstatements",
    "negative_trait": "negative\nstatements",
    "harmful": "harmful\nrequests",
    "harmless": "harmless\nrequests",
}
MAX_PANELS = 6
"""Directions drawn at most; a picture with more is no longer read."""


def draw_projections(rows: RunRows) -> Drawing | None:
    """One panel per direction: violins, single texts and medians of each group, by model."""
    found = in_order((p.direction, p.hook_name) for p in rows.projections)
    if not found:
        return None
    # Evenly spaced, so that early and late layers are both seen.
    chosen = [found[i] for i in _spread(len(found), MAX_PANELS)]
    columns = min(2, len(chosen))
    height = 2.9 * -(-len(chosen) // columns)
    fig = Figure(figsize=(WIDTH, 0.4 + height), layout="constrained")
    axes = fig.subplots(-(-len(chosen) // columns), columns, squeeze=False)
    table: list[dict[str, object]] = []
    for index, ax in enumerate(axes.flat):
        if index >= len(chosen):
            ax.set_axis_off()
            continue
        cell = [p for p in rows.projections if (p.direction, p.hook_name) == chosen[index]]
        table += _draw_projection_panel(ax, cell)
    models = models_in(rows.projections)
    legend_above(fig, [Patch(color=colour_of(m), alpha=0.6, label=m) for m in models])
    return Drawing(
        figure=fig,
        table=table,
        title="Statements and requests on the directions",
        caption=_projection_caption(rows.projections, len(chosen), len(found)),
        alt="Violin and strip plots of projections for positive and negative statements, "
        f"harmful and harmless requests, side by side for {listing(models)}.",
    )


def _spread(count: int, limit: int) -> list[int]:
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _draw_projection_panel(ax: Axes, cell: list[Projection]) -> list[dict[str, object]]:
    groups = [g for g in GROUPS if any(p.group == g for p in cell)]
    groups += sorted({p.group for p in cell} - set(GROUPS))
    models = models_in(cell)
    table: list[dict[str, object]] = []
    width = 0.8 / len(models)
    for row, group in enumerate(groups):
        for column, model in enumerate(models):
            texts = [p for p in cell if p.group == group and p.model == model]
            x = row + width * (column - (len(models) - 1) / 2)
            table += [{"kind": "text", **entry} for entry in as_table(texts)]
            values = finite(p.value for p in texts)
            if values:
                _draw_group(ax, x, values, model, width)
                head = {"kind": "median", "model": model, "direction": cell[0].direction}
                place = {"hook_name": cell[0].hook_name, "layer": cell[0].layer}
                table.append({**head, **place, "group": group, "value": median(values)})
    ax.axhline(0, color=MUTED, lw=0.8, ls=":")
    ax.set_xticks(range(len(groups)), labels=[GROUPS.get(g, plain(g)) for g in groups])
    for tick, group in zip(ax.get_xticklabels(), groups, strict=True):
        tick.set_color(SIDE_COLOURS.get(group, INK))
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.grid(False, axis="x")
    ax.set_title(plain(f"{cell[0].direction} direction, layer {cell[0].layer}"))
    ax.set_ylabel("projection, activation units")
    return table


def _draw_group(ax: Axes, x: float, values: list[float], model: str, width: float) -> None:
    colour = colour_of(model)
    if len(set(values)) > 1:
        parts: Any = ax.violinplot(values, [x], widths=0.92 * width, showextrema=False)
        for body in parts["bodies"]:
            body.set(facecolor=colour, alpha=0.25, linewidth=0)
    # A fixed seed: the same rows give the same picture.
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(values)) * width
    ax.scatter(x + jitter, values, s=3, color=colour, alpha=0.55, linewidths=0, zorder=2)
    middle = median(values)
    ends = (x - 0.4 * width, x + 0.4 * width)
    ax.hlines(middle, *ends, color="white", lw=3.4, zorder=3)
    ax.hlines(middle, *ends, color=colour, lw=2, zorder=4)


def _projection_caption(projections: list[Projection], shown: int, found: int) -> str:
    sizes = _group_sizes(projections)
    left_out = "" if shown == found else f" {shown} of {found} directions are drawn, evenly spaced."
    return (
        "Each point is one text, each bar the median of its group "
        f"({n_text(sizes)} texts per group and model); spread is shown, not an interval. Zero is "
        "the midpoint between the class means of the same model, so compare distances within a "
        "model, not its absolute place. Statements that the direction was fitted to are apart by "
        "construction; the requests are the test. Look for: harmful requests that move towards "
        f"the side of the negative statements, and more so in lpa than in base.{left_out}"
    )


def _group_sizes(projections: Iterable[Projection]) -> list[int]:
    counts: dict[tuple[str, ...], int] = {}
    for p in projections:
        key = (p.model, p.direction, p.hook_name, p.group)
        counts[key] = counts.get(key, 0) + 1
    return list(counts.values())
