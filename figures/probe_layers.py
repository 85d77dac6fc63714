"""Probe sweeps: score by layer with its controls, the nested score beside it, selectivity below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from figures.curves import Curve, draw_curve
from figures.probe_choice import (
    NESTED,
    SELECTIVITY,
    Line,
    drawn_scores,
    line_of,
    swept_measure,
)
from figures.probe_words import caption
from figures.rows import RunRows
from figures.style import (
    BAND,
    CONTROL,
    INK,
    MODEL_MARKERS,
    MUTED,
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
from figures.wording import fixed, listing, measure_of
from lpa_interp.records import ProbeScore

DASHES = {"base": (1.0, 1.2), "lpa": (4.0, 2.0), "source": (6.0, 2.0, 1.0, 2.0)}
ACROSS = 3
"""Methods side by side at most."""
Lane = tuple[float, float]
"""Middle and half width, on the layer axis."""


def draw_probe_layers(rows: RunRows) -> Drawing | None:
    """Score by layer: a row per target and position, a column per method, selectivity below."""
    measure = swept_measure(rows.probe_scores)
    scores = drawn_scores(rows.probe_scores)
    if not scores:
        return None
    nested, strip = (
        any(s.measure == measure + kind for s in scores) for kind in (NESTED, SELECTIVITY)
    )
    fig = _figure(scores, measure, strip)
    legend_above(fig, _legend(models_in(scores), nested), columns=4 if nested else None)
    return Drawing(
        figure=fig,
        table=as_table(scores),
        title="Trait probes by layer, with shuffled labels as control",
        caption=caption(rows.probe_scores, scores, measure),
        alt=f"Line charts of {measure_of(measure).label} by layer, one panel per target and "
        f"method, with a line and band each for {listing(models_in(scores))} and grey lines for "
        "probes fitted to shuffled labels"
        + (", at the right the score with the layer chosen on inner folds" if nested else "")
        + ("; below, selectivity over control tasks." if strip else "."),
    )


def _figure(scores: Sequence[ProbeScore], measure: str, strip: bool) -> Figure:
    """All panels: a score panel, and a strip below it where there is selectivity."""
    lines = in_order(line_of(s, scores) for s in scores)
    methods = in_order(s.method for s in scores)
    blocks = [methods[start : start + ACROSS] for start in range(0, len(methods), ACROSS)]
    grid = [(line, block) for line in lines for block in blocks]
    heights = [2.0, 0.85] if strip else [2.2]
    if len(grid) > 2:
        heights = [0.8 * height for height in heights]
    fig = Figure(figsize=(WIDTH, 0.5 + sum(heights) * len(grid)), layout="constrained")
    axes = fig.subplots(
        len(grid) * len(heights),
        max(map(len, blocks)),
        squeeze=False,
        sharex=True,
        sharey="row",
        gridspec_kw={"height_ratios": heights * len(grid)},
    )
    _layer_ticks(axes[0, 0], scores)
    for index, (line, block) in enumerate(grid):
        mine = [s for s in scores if line_of(s, scores) == line]
        cells = [[s for s in mine if s.method == method] for method in block]
        pair = axes[index * len(heights) : (index + 1) * len(heights)]
        _draw_line(pair, cells, measure, _lane(scores))
        for method, ax in zip(block, pair[0], strict=False):
            ax.set_title(plain(method.replace("_", " ")))
        pair[0][0].set_ylabel(f"{_title(line, lines)}\n{measure_of(measure).label}")
    for column in range(axes.shape[1]):
        lowest = [ax for ax in axes[:, column] if ax.axison][-1]
        lowest.set_xlabel("layer")
        lowest.tick_params(labelbottom=True)
    return fig


def _title(line: Line, lines: Sequence[Line]) -> str:
    target, position, kind = line
    place = "completion mean" if position == 0 else f"token {fixed(position, 0)}"
    several = len({kind for *_, kind in lines}) > 1
    return f"{plain(target)}, {place}" + (f", {plain(kind)}" if several else "")


def _lane(scores: Sequence[ProbeScore]) -> Lane | None:
    """The lane for nested scores behind the last layer, or None where there are none."""
    if not any(s.measure.endswith(NESTED) for s in scores):
        return None
    layers = [s.layer for s in scores]
    half = max(0.4, 0.07 * (max(layers) - min(layers)))
    return max(layers) + 1.8 * half, half


def _layer_ticks(ax: Axes, scores: Sequence[ProbeScore]) -> None:
    layers = [s.layer for s in scores if not s.measure.endswith(NESTED)]
    first, last = min(layers, default=0), max(layers, default=0)
    places = MaxNLocator(5, integer=True).tick_values(first, last) if layers else []
    ticks = {int(tick): str(int(tick)) for tick in places if first <= tick <= last}
    if lane := _lane(scores):
        middle, half = lane
        ax.set_xlim(first - 0.4 * half if layers else middle - half, middle + half)
        ticks |= {middle: "nested"}  # type: ignore[dict-item]
    ax.set_xticks(list(ticks), labels=list(ticks.values()))


def _draw_line(
    pair: Any,
    cells: Sequence[Sequence[ProbeScore]],
    measure: str,
    lane: Lane | None,
) -> None:
    """The panels of one target, position and block of methods."""
    for column, ax in enumerate(pair[0]):
        below = pair[1][column] if len(pair) > 1 else None
        if column >= len(cells):
            ax.set_axis_off()
            if below is not None:
                below.set_axis_off()
            continue
        cell = cells[column]
        _draw_scores(ax, [s for s in cell if s.measure == measure])
        _draw_nested(ax, [s for s in cell if s.measure == measure + NESTED], lane)
        if below is not None:
            _draw_selectivity(below, [s for s in cell if s.measure == measure + SELECTIVITY])
    ends = finite(
        end for cell in cells for s in cell if not s.measure.endswith(SELECTIVITY)
        for end in (s.low, s.high, s.value)
    )  # fmt: skip
    pair[0][0].set_ylim(min([0.4, *ends]) - 0.02, 1.02)
    if len(pair) > 1:
        pair[1][0].set_ylabel("selectivity")


def _draw_scores(ax: Axes, cell: Sequence[ProbeScore]) -> None:
    for model in models_in(cell):
        for control in ("shuffled", "none"):
            found = [s for s in cell if (s.model, s.control) == (model, control)]
            fitted = control == "none"
            dashes = () if fitted else DASHES.get(model, (1.0, 1.0))
            colour, width = colour_of(model) if fitted else CONTROL, 1.7 if fitted else 1.2
            _draw_scores_of(ax, found, colour, dashes, width)
    ax.axhline(0.5, color=INK, lw=0.7, ls=":")


def _draw_scores_of(
    ax: Axes,
    found: Sequence[ProbeScore],
    colour: str,
    dashes: tuple[float, ...] = (),
    width: float = 1.7,
) -> None:
    found = sorted(found, key=lambda s: s.layer)
    low, high = [s.low for s in found], [s.high for s in found]
    x, y = [s.layer for s in found], [s.value for s in found]
    look: Any = {"colour": colour, "dashes": dashes, "width": width}
    draw_curve(ax, Curve(x=x, y=y, low=low, high=high, **look))


def _draw_nested(ax: Axes, nested: Sequence[ProbeScore], lane: Lane | None) -> None:
    """In a lane of its own behind the last layer: one mark per model, its null in grey."""
    if lane is None:
        return
    middle, half = lane
    ax.axvspan(middle - half, middle + half, color=BAND, lw=0, zorder=0)
    if not nested:
        look: Any = {"rotation": 90, "ha": "center", "va": "center", "color": MUTED}
        ax.text(middle, 0.75, "not measured", fontsize=6.5, **look)
    models = models_in(nested)
    for index, model in enumerate(models):
        x = middle + 0.7 * half * (index - (len(models) - 1) / 2)
        for score in (s for s in nested if s.model == model):
            fitted = score.control == "none"
            colour = colour_of(model) if fitted else CONTROL
            line: Any = {"lw": 1.5 if fitted else 4.5, "alpha": 1 if fitted else 0.35}
            ends = numbers([score.low, score.high])
            ax.plot([x, x], ends, color=colour, solid_capstyle="butt", **line)
            if fitted:
                mark: Any = {"marker": MODEL_MARKERS.get(model, "v"), "markeredgecolor": "white"}
                ax.plot([x], [number(score.value)], color=colour, **mark, zorder=3)


def _draw_selectivity(ax: Axes, cell: Sequence[ProbeScore]) -> None:
    for model in models_in(cell):
        found = [s for s in cell if s.model == model]
        _draw_scores_of(ax, found, colour_of(model), width=1.3)
    ax.axhline(0, color=INK, lw=0.7, ls=":")
    ax.yaxis.set_major_locator(MaxNLocator(3))


def _legend(models: Sequence[str], nested: bool) -> list[object]:
    handles: list[object] = [Line2D([], [], color=colour_of(m), label=m) for m in models]
    handles += [
        Line2D([], [], color=CONTROL, ls=(0, DASHES.get(m, (1.0, 1.0))), lw=1.2,
               label=f"{m}, shuffled labels")
        for m in models
    ]  # fmt: skip
    if nested:
        handles.append(
            Line2D([], [], color=INK, marker="o", markeredgecolor="white", lw=1.5,
                   label="layer chosen on inner folds (nested)")
        )  # fmt: skip
        handles.append(Patch(color=CONTROL, alpha=0.35, label="nested, shuffled labels"))
    return handles
