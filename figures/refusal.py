"""The refusal direction: the search for it, and its angle with the trait direction."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from figures.rows import RunRows
from figures.style import (
    CONTROL,
    INK,
    WIDTH,
    Drawing,
    as_table,
    colour_of,
    finite,
    in_order,
    legend_above,
    models_in,
    number,
    numbers,
    plain,
)
from figures.wording import ALPHA, count_of, listing, n_text
from lpa_interp.records import DirectionAngle, RefusalCandidate

SCORES = (
    ("bypass", "Bypass: harmful, ablated"),
    ("induce", "Induce: harmless, added"),
    ("kl", "KL: harmless, ablated"),
)


def draw_refusal_candidates(rows: RunRows) -> Drawing | None:
    """Heat maps of position by layer: a row per model, a column per score."""
    found = rows.candidates
    models = models_in(found)
    if not found:
        return None
    positions = sorted({c.position for c in found})
    height = 0.9 + len(models) * (0.75 + 0.22 * len(positions))
    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = fig.subplots(len(models), 3, squeeze=False, sharex=True, sharey=True)
    norms = _norms(found)
    for column, (score, title) in enumerate(SCORES):
        for line, model in enumerate(models):
            ax = axes[line, column]
            cell = [c for c in found if c.model == model]
            image = _draw_map(ax, cell, score, positions, norms[score])
            ax.set_title(title if line == 0 else "")
            if column == 0:
                ax.set_ylabel(model, color=colour_of(model), fontweight="bold")
        axes[-1, column].set_xlabel("layer")
        unit = "nats, log scale" if isinstance(norms[score], LogNorm) else "nats"
        fig.colorbar(image, ax=axes[:, column], location="bottom", label=unit, aspect=28)
    legend_above(fig, _map_legend())
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Search for the refusal direction",
        caption=_candidate_caption(found),
        alt="Heat maps of bypass, induce and KL scores by token position and layer for "
        f"{listing(models)}; dropped candidates are hatched, the chosen one is framed.",
    )


def _norms(found: list[RefusalCandidate]) -> dict[str, Normalize]:
    """Colour scales shared by the models: symmetric about 0 for log-odds, logarithmic for KL."""
    odds = finite(v for c in found for v in (c.bypass, c.induce))
    limit = max([abs(v) for v in odds], default=1.0) or 1.0
    kls = [v for v in finite(c.kl for c in found) if v > 0]
    kl: Normalize = Normalize(0, 1)
    if kls and min(kls) < max(kls):
        kl = LogNorm(min(kls), max(kls))
    return {"bypass": _symmetric(limit), "induce": _symmetric(limit), "kl": kl}


def _symmetric(limit: float) -> Normalize:
    return TwoSlopeNorm(0.0, -limit, limit)


def _draw_map(
    ax: Axes, cell: list[RefusalCandidate], score: str, positions: list[int], norm: Normalize
) -> AxesImage:
    layers = sorted({c.layer for c in cell})
    grid = np.full((len(positions), max(layers) + 1), np.nan)
    hatched = []
    for c in cell:
        row = positions.index(c.position)
        grid[row, c.layer] = number(getattr(c, score))
        box = Rectangle((c.layer - 0.5, row - 0.5), 1, 1)
        if c.rejected:
            hatched.append(box)
        if c.selected:
            ax.add_patch(_frame(box, "white", 2.6))
            ax.add_patch(_frame(box, INK, 1.2))
    colours = "YlGnBu" if score == "kl" else "RdBu_r"
    image = ax.imshow(grid, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    marks = {"hatch": "/////", "facecolor": "none", "edgecolor": "#00000066", "linewidth": 0}
    ax.add_collection(PatchCollection(hatched, **marks))  # type: ignore[arg-type]
    tokens = {c.position: c.token for c in cell}
    ax.set_yticks(range(len(positions)), labels=[_token(p, tokens.get(p)) for p in positions])
    ax.set_ylim(len(positions) - 0.5, -0.5)
    ax.set_xlim(min(layers) - 0.5, max(layers) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(False)
    return image


def _frame(box: Rectangle, colour: str, width: float) -> Rectangle:
    return Rectangle(box.get_xy(), 1, 1, fill=False, edgecolor=colour, lw=width, zorder=5)


def _token(position: int, token: str | None) -> str:
    shown = plain(token or "")
    return f"{shown if len(shown) <= 14 else shown[:13] + '...'}  {position}"


def _map_legend() -> list[Patch]:
    return [
        Patch(facecolor="white", edgecolor=INK, lw=1.2, label="chosen"),
        Patch(facecolor="white", edgecolor=CONTROL, hatch="/////", lw=0.5, label="dropped"),
    ]


def _candidate_caption(found: list[RefusalCandidate]) -> str:
    sentences = []
    for model in models_in(found):
        cell = [c for c in found if c.model == model]
        reasons = Counter(c.rejected for c in cell if c.rejected)
        why = listing(f"{count} for {reason}" for reason, count in reasons.most_common())
        sentences.append(
            f"{model}: {count_of(len(cell), 'candidate')}, {sum(reasons.values())} dropped"
            + (f" ({why})" if why else "")
            + ", "
            + listing([_chosen(c) for c in cell if c.selected] or ["none chosen"])
        )
    return (
        "Mean refusal log-odds with a candidate direction ablated on harmful requests (bypass, "
        "lower is better) and added on harmless ones (induce, must be positive), and KL of the "
        "ablated model on harmless requests (lower is better), by token position from the end "
        "of the prompt and by layer. Red refuses, blue complies. Means over the validation "
        "requests, no interval: this is a search, and its control is the random direction in "
        f"the ablation figure. {'. '.join(sentences)}. Look for: a compact blue region under "
        "bypass that is red under induce. A choice at the edge of the map or among noise means "
        "that the model has no clear refusal direction."
    )


def _chosen(candidate: RefusalCandidate) -> str:
    return f"chosen: layer {candidate.layer}, token {candidate.position}"


def draw_angles(rows: RunRows) -> Drawing | None:
    """Cosine of two directions by layer, a column per model, with the band of the null."""
    found = rows.angles
    if not found:
        return None
    lines = in_order((a.first, a.second, a.null) for a in found)
    models = models_in(found)
    fig = Figure(figsize=(WIDTH, 0.55 + 2.3 * len(lines)), layout="constrained")
    axes = fig.subplots(len(lines), len(models), squeeze=False, sharex=True, sharey=True)
    for (first, second, null), axis_row in zip(lines, axes, strict=True):
        for model, ax in zip(models, axis_row, strict=True):
            key = (first, second, null, model)
            cell = [a for a in found if (a.first, a.second, a.null, a.model) == key]
            _draw_angle_panel(ax, cell, model)
            ax.set_title(plain(f"{first} and {second}: {model}"))
        axis_row[0].set_ylabel(f"cosine\n(null: {plain(null)})")
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    significant = {"marker": "o", "color": INK, "ls": "none", "label": f"adjusted p < {ALPHA}"}
    hollow = {**significant, "markerfacecolor": "white", "label": "not significant"}
    band = Patch(color=CONTROL, alpha=0.3, label="central 95 % of the null")
    legend_above(fig, [Line2D([], [], **significant), Line2D([], [], **hollow), band])  # type: ignore[arg-type]
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Angle between the directions, by layer",
        caption=_angle_caption(found),
        alt="Line charts of the cosine by layer over a grey null band, filled markers where "
        f"significant, for {listing(models)}.",
    )


def _draw_angle_panel(ax: Axes, cell: list[DirectionAngle], model: str) -> None:
    cell = sorted(cell, key=lambda a: a.layer)
    x = [a.layer for a in cell]
    low, high = numbers(a.null_low for a in cell), numbers(a.null_high for a in cell)
    ax.fill_between(x, low, high, color=CONTROL, alpha=0.3, lw=0)
    ax.plot(x, numbers(a.cosine for a in cell), color=colour_of(model), lw=1.2, zorder=2)
    for a in cell:
        significant = a.p_adjusted is not None and a.p_adjusted < ALPHA
        ax.plot(
            [a.layer],
            [number(a.cosine)],
            marker="o",
            markersize=4,
            color=colour_of(model),
            markerfacecolor=colour_of(model) if significant else "white",
            zorder=3,
        )
    ax.axhline(0, color=INK, lw=0.7, ls=":")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _angle_caption(found: list[DirectionAngle]) -> str:
    draws = n_text(a.n_permutations for a in found).removeprefix("n = ")
    return (
        "Cosine of the two directions at each layer. The grey band is the control: the central "
        f"95 % of the null ({listing(sorted({a.null for a in found}))}, {draws} draws). Filled "
        f"markers: two-sided p, Benjamini-Hochberg over layers, below {ALPHA}. The directions "
        f"come from {n_text(a.n_first for a in found)} and {n_text(a.n_second for a in found)} "
        "texts per pair. Look for: a run of filled markers outside the band in base and whether "
        "it moves in lpa. The cosine has no interval of its own; a direction fitted to few "
        "texts is noisy and its cosine shrinks towards zero."
    )
