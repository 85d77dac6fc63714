"""The search for the refusal direction."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
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
    legend_above,
    models_in,
    number,
    plain,
)
from figures.wording import count_of, listing
from lpa_interp.records import RefusalCandidate

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
