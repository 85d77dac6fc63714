"""Trait probes: AUROC by layer with its control, and texts projected on the directions."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from figures.rows import RunRows
from figures.style import (
    CONTROL,
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
    numbers,
    plain,
)
from figures.wording import listing, n_text
from lpa_interp.records import ProbeScore, Projection

DASHES = {"base": (0, (1, 1.2)), "lpa": (0, (4, 2)), "source": (0, (6, 2, 1, 2))}
GROUPS = {
    "positive_trait": "positive\nstatements",
    "negative_trait": "negative\nstatements",
    "harmful": "harmful\nrequests",
    "harmless": "harmless\nrequests",
}
MAX_PANELS = 6
"""Directions drawn at most; a picture with more is no longer read."""


def draw_probe_layers(rows: RunRows) -> Drawing | None:
    """One panel per target and method: score by layer, base and lpa, with the shuffled control."""
    scores = rows.probe_scores
    if not scores:
        return None
    lines = in_order((s.target, s.position, s.measure) for s in scores)
    methods = in_order(s.method for s in scores)
    fig = Figure(figsize=(WIDTH, 0.5 + 2.5 * len(lines)), layout="constrained")
    axes = fig.subplots(len(lines), len(methods), squeeze=False, sharex=True, sharey=True)
    for line, axis_row in zip(lines, axes, strict=True):
        for method, ax in zip(methods, axis_row, strict=True):
            cell = [s for s in scores if _line(s) == line and s.method == method]
            _draw_probe_panel(ax, cell)
            ax.set_title(plain(f"{line[0]}: {method.replace('_', ' ')}, token {line[1]}"))
        axis_row[0].set_ylabel(_measure_label(line[2]))
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    _probe_legend(fig, models_in(scores))
    return Drawing(
        figure=fig,
        table=as_table(scores),
        title="Trait probes by layer, with shuffled labels as control",
        caption=_probe_caption(scores),
        alt="Line charts of probe score by layer, one panel per target and method, with a "
        f"line and band each for {listing(models_in(scores))} and grey lines for probes fitted "
        "to shuffled labels.",
    )


def _line(score: ProbeScore) -> tuple[str, int, str]:
    return score.target, score.position, score.measure


def _measure_label(measure: str) -> str:
    return "AUROC" if measure == "auroc" else measure.replace("_", " ")


def _draw_probe_panel(ax: Axes, cell: list[ProbeScore]) -> None:
    for model in models_in(cell):
        for control in ("shuffled", "none"):
            found = [s for s in cell if s.model == model and s.control == control]
            found.sort(key=lambda s: s.layer)
            x = [s.layer for s in found]
            colour = CONTROL if control == "shuffled" else colour_of(model)
            low, high = numbers(s.low for s in found), numbers(s.high for s in found)
            ax.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
            ax.plot(
                x,
                numbers(s.value for s in found),
                color=colour,
                ls=DASHES.get(model, ":") if control == "shuffled" else "-",
                lw=1.2 if control == "shuffled" else 1.7,
                marker="o" if len(found) == 1 else None,
            )
    ax.axhline(0.5, color=INK, lw=0.7, ls=":")
    ends = finite(end for s in cell for end in (s.low, s.high, s.value))
    ax.set_ylim(min([0.4, *ends]) - 0.02, 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _probe_legend(fig: Figure, models: list[str]) -> None:
    fitted = [Line2D([], [], color=colour_of(m), label=m) for m in models]
    shuffled = [
        Line2D([], [], color=CONTROL, ls=DASHES.get(m, ":"), label=f"{m}, shuffled labels")
        for m in models
    ]
    legend_above(fig, [*fitted, *shuffled])


def _probe_caption(scores: list[ProbeScore]) -> str:
    folds = " or ".join(str(n) for n in sorted({s.n_folds for s in scores}))
    groups = listing(str(n) for n in sorted({s.n_groups for s in scores}))
    return (
        f"Cross-validated probe score by layer ({folds} folds that keep the {groups} facets "
        f"whole, {n_text(s.n for s in scores)} texts). Coloured bands are the 95 % intervals of "
        "the score. Grey is the control: the same procedure with labels permuted by facet, with "
        "its interval; the dotted line is chance. Look for: coloured lines clear of the grey "
        "band. A grey line away from chance means that the procedure leaks, and then the "
        "coloured one proves nothing. The best layer is found by looking at all of them, so its "
        "score is biased upwards."
    )


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
