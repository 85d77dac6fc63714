"""SAE features: which ones differ between two groups, how far the groups share them."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures.rows import RunRows
from figures.style import (
    INK,
    MODEL_COLOURS,
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
    plain,
    stripe_categories,
)
from figures.wording import ALPHA, count_of, fixed, listing, n_text, p_text
from lpa_interp.records import FeatureOverlap, FeatureShift, SaeQuality

CONTRASTS = {
    "traits": "positive minus negative statements",
    "requests": "harmful minus harmless requests",
    "training": "lpa minus base",
}


MODEL_ORDER: list[str] = list(MODEL_COLOURS)


def draw_features(rows: RunRows) -> Drawing | None:
    """Dot plots of the top features per contrast and model, with overlap and SAE quality."""
    if not (rows.shifts or rows.overlaps or rows.qualities):
        return None
    panels = in_order((s.contrast, s.model) for s in rows.shifts)
    places, lines, columns = _places(panels)
    cells = [_top(rows.shifts, *panel) for panel in panels]
    limit = 1.08 * max((abs(v) for v in finite(s.effect for s in rows.shifts)), default=1.0)
    longest = max((len(cell) for cell in cells), default=0)
    tables = 0.5 + 0.17 * (len(rows.overlaps) + len(rows.qualities) + 4)
    heights = [0.9 + 0.15 * longest] * lines + [tables]
    fig = Figure(figsize=(WIDTH, 0.4 + sum(heights)), layout="constrained")
    grid = fig.add_gridspec(lines + 1, columns, height_ratios=heights)
    for place, panel, cell in zip(places, panels, cells, strict=True):
        _draw_contrast(fig.add_subplot(grid[place]), panel, cell, limit)
    _draw_tables(fig.add_subplot(grid[lines, :]), rows.overlaps, rows.qualities)
    _legend(fig, models_in(rows.shifts))
    table = [
        *({"table": "shift", **row} for cell in cells for row in as_table(cell)),
        *({"table": "overlap", **row} for row in as_table(rows.overlaps)),
        *({"table": "quality", **row} for row in as_table(rows.qualities)),
    ]
    return Drawing(
        figure=fig,
        table=table,
        title="SAE features that differ",
        caption=_caption(rows),
        alt=f"Dot plots of the features with the largest effects for {listing(CONTRASTS)}, and "
        "below them tables of shared features and of the quality of the autoencoder.",
    )


def _places(panels: list[tuple[str, str]]) -> tuple[list[tuple[int, int]], int, int]:
    """Where each panel goes, and the grid: one row if it fits, else models by contrasts."""
    if len(panels) <= 3:
        return [(0, i) for i in range(len(panels))], min(1, len(panels)), max(1, len(panels))
    contrasts = in_order(contrast for contrast, _ in panels)
    contrasts.sort(key=lambda c: list(CONTRASTS).index(c) if c in CONTRASTS else len(CONTRASTS))
    models = sorted({model for _, model in panels}, key=MODEL_ORDER.index)
    places = [(models.index(model), contrasts.index(contrast)) for contrast, model in panels]
    return places, len(models), len(contrasts)


def _top(shifts: list[FeatureShift], contrast: str, model: str) -> list[FeatureShift]:
    cell = [s for s in shifts if s.contrast == contrast and s.model == model]
    return sorted(cell, key=lambda s: s.rank)


def _draw_contrast(
    ax: Axes, panel: tuple[str, str], cell: list[FeatureShift], limit: float
) -> None:
    contrast, model = panel
    colour = colour_of(model)
    stripe_categories(ax, [str(s.feature) for s in cell])
    ax.tick_params(axis="y", labelsize=6.5)
    for y, shift in enumerate(cell):
        effect = number(shift.effect)
        ax.plot([0, effect], [y, y], color=colour, lw=1, alpha=0.6)
        filled = _significant(shift)
        face = colour if filled else "white"
        ax.plot([effect], [y], marker="o", markersize=4, color=colour, markerfacecolor=face)
    ax.axvline(0, color=MUTED, lw=0.8, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set_xlim(-limit, limit)
    ax.set_title(plain(f"{contrast}: {model}"), color=colour)
    ax.set_xlabel(f"effect, pooled SD\n{CONTRASTS.get(contrast, plain(contrast))}")
    ax.set_ylabel("feature")


def _significant(shift: FeatureShift) -> bool:
    return shift.p_adjusted is not None and shift.p_adjusted < ALPHA


def _legend(fig: Figure, models: list[str]) -> None:
    marks = [Line2D([], [], marker="o", ls="none", color=colour_of(m), label=m) for m in models]
    hollow = Line2D([], [], marker="o", ls="none", color=INK, markerfacecolor="white")
    hollow.set_label(f"hollow: adjusted p at or above {ALPHA}")
    if marks:
        legend_above(fig, [*marks, hollow])


def _draw_tables(ax: Axes, overlaps: list[FeatureOverlap], qualities: list[SaeQuality]) -> None:
    ax.set_axis_off()
    head = ("Shared top features", "shared", "expected", "p", "active")
    lines = [
        (
            f"{o.first} and {o.second}",
            f"{o.shared} of {o.top_k}",
            fixed(o.expected),
            p_text(o.p_value),
            str(o.n_active),
        )
        for o in overlaps
    ]
    quality_head = ("Autoencoder on", "var. expl.", "L0", "dead share", "CE clean / SAE / zero")
    quality = [
        (q.model, fixed(q.variance_explained), fixed(q.l0, 1), fixed(q.dead_fraction), _losses(q))
        for q in qualities
    ]
    written = [(head, True), *((x, False) for x in lines), (("",) * 5, False)]
    written += [(quality_head, True), *((x, False) for x in quality)]
    for row, (cells, bold) in enumerate(written):
        for x, text in zip((0.0, 0.36, 0.5, 0.62, 0.76), cells, strict=True):
            y = 1 - (row + 0.5) / len(written)
            weight = "bold" if bold else "normal"
            ax.text(x, y, plain(text), va="center", fontsize=7.5, fontweight=weight)


def _losses(quality: SaeQuality) -> str:
    return " / ".join(fixed(v) for v in (quality.ce_clean, quality.ce_sae, quality.ce_zero))


def _caption(rows: RunRows) -> str:
    shifts = rows.shifts
    meaning = listing(
        f"{k} ({v})" for k, v in CONTRASTS.items() if k in {s.contrast for s in shifts}
    )
    trained = sorted({q.n_training_tokens for q in rows.qualities})
    read = n_text(q.n_tokens for q in rows.qualities)
    quality = (
        f" The autoencoder saw {listing(f'{n:,}' for n in trained)} training tokens; its quality "
        f"is measured on {read} tokens."
        if trained
        else ""
    )
    return (
        f"Features with the largest effects, strongest first, {count_of(len(shifts), 'row')}: "
        f"{meaning}. The effect is the difference of means over the pooled standard deviation, "
        f"{n_text(s.n_first for s in shifts)} against {n_text(s.n_second for s in shifts)} texts. "
        f"Filled: p by label permutation (the control), Benjamini-Hochberg over features, below "
        f"{ALPHA}. No interval is drawn: these features were picked for size, which inflates "
        "every effect. The overlap table sets the shared count against the hypergeometric "
        f"expectation.{quality} Look for: shared features well above expectation between traits "
        "and requests. Read nothing into an autoencoder with low variance explained or many "
        "dead features, or one that reads lpa worse than base."
    )
