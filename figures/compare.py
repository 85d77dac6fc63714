"""Runs beside each other: every score of each run, and the paired differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.behaviour import place_of
from figures.style import (
    CONTROL,
    MUTED,
    SIDE_COLOURS,
    WIDTH,
    Drawing,
    as_table,
    in_order,
    legend_above,
    number,
    numbers,
    plain,
    stripe_categories,
)
from figures.wording import (
    ALPHA,
    judge_label,
    level_text,
    listing,
    measure_of,
    n_text,
    sentence_case,
)
from lpa_interp.records import RunContrast, RunScore, SeedSpread

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito, one a study or pair; more than there are repeat with another marker."""

MARKERS = "os^Dvp"
BASE_GAP, ROW_HEIGHT = 0.30, 0.13
"""Inches per category, and per dot in it."""

Panel = tuple[str, str]
"""Measure and side."""


@dataclass(frozen=True, slots=True)
class _Dot:
    """A value with its interval; hollow dots are the weaker or the less certain ones."""

    value: float
    low: float
    high: float
    style: int
    hollow: bool


@dataclass(frozen=True, slots=True)
class _Cell:
    """A panel: its categories, and the dots of each from top to bottom."""

    panel: Panel
    dots: dict[str, list[_Dot]]


def draw_values(values: Sequence[RunScore], spreads: Sequence[SeedSpread]) -> Drawing | None:
    """Dot plots of every score: a row per benchmark and attack, a colour per study.

    Seeds of one study stand side by side, each with its own interval.
    """
    if not values:
        return None
    studies = in_order(row.study for row in values)
    cells = _cells(
        values,
        [_dot(row, row.value, studies.index(row.study), row.model == "base") for row in values],
    )
    handles = [*_handles(studies), *_hollow("base model", "trained model")]
    return Drawing(
        figure=_figure(cells, handles, reference=None),
        table=as_table(values),
        title="Runs compared: every score",
        caption=_values_caption(values, spreads),
        alt="Dot plots with intervals of "
        + listing(f"{measure_of(m).label} ({side})" for m, side in _panels(values))
        + f" for the runs {listing(in_order(row.run for row in values))}.",
    )


def draw_differences(contrasts: Sequence[RunContrast]) -> Drawing | None:
    """Dot plots of every paired difference: a row per benchmark and attack, a colour per pair."""
    shown = [row for row in contrasts if row.difference is not None]
    if not shown:
        return None
    pairs = in_order(pair_label(row) for row in shown)
    unsure = [row.p_adjusted is None or row.p_adjusted >= ALPHA for row in shown]
    cells = _cells(
        shown,
        [
            _dot(row, row.difference, pairs.index(pair_label(row)), hollow)
            for row, hollow in zip(shown, unsure, strict=True)
        ],
    )
    handles = [*_handles(pairs), *_hollow("adjusted p of 0.05 or more", "below 0.05")]
    return Drawing(
        figure=_figure(cells, handles, reference=0.0),
        table=as_table(contrasts),
        title="Runs compared: paired differences",
        caption=_differences_caption(shown, len(contrasts) - len(shown)),
        alt="Dot plots with intervals of the paired differences "
        + listing(pairs)
        + f" in {listing(in_order(measure_of(row.measure).label for row in shown))}.",
    )


def pair_label(row: RunContrast) -> str:
    """The two models of a difference in words."""
    if row.first_run == row.second_run:
        return f"{row.first_run}: {row.first_model} to {row.second_model}"
    return f"{row.first_run} to {row.second_run}"


def _panels(rows: Iterable[RunScore | RunContrast]) -> list[Panel]:
    return in_order((row.measure, row.side) for row in rows)


def _dot(row: RunScore | RunContrast, value: float | None, style: int, hollow: bool) -> _Dot:
    scale = measure_of(row.measure).scale
    middle, low, high = (scale * number(end) for end in (value, row.low, row.high))
    return _Dot(middle, low, high, style, hollow)


def _cells(rows: Sequence[RunScore | RunContrast], dots: Sequence[_Dot]) -> list[_Cell]:
    """Dots by panel and category, in the order of the rows."""
    found: dict[Panel, dict[str, list[_Dot]]] = {}
    for row, dot in zip(rows, dots, strict=True):
        panel = found.setdefault((row.measure, row.side), {})
        panel.setdefault(_category(row), []).append(dot)
    return [_Cell(panel, categories) for panel, categories in found.items()]


def _category(row: RunScore | RunContrast) -> str:
    judge = "" if row.judge == "none" else f" [{judge_label(row.judge)}]"
    return place_of(row.benchmark, row.attack) + judge


def _figure(cells: Sequence[_Cell], handles: Sequence[Line2D], reference: float | None) -> Figure:
    heights = [
        0.55 + sum(BASE_GAP + ROW_HEIGHT * len(dots) for dots in cell.dots.values())
        for cell in cells
    ]
    columns = min(len(handles), 3)
    legend = 0.22 * -(-len(handles) // columns)
    fig = Figure(figsize=(WIDTH, 0.3 + legend + sum(heights)), layout="constrained")
    axes = fig.subplots(len(cells), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax, cell in zip(axes[:, 0], cells, strict=True):
        _draw_cell(ax, cell, reference)
    for measure in in_order(cell.panel[0] for cell in cells):
        # Both sides of a measure on one scale: a side's small change must look small.
        here = [ax for ax, cell in zip(axes[:, 0], cells, strict=True) if cell.panel[0] == measure]
        ends = [end for ax in here for end in ax.get_xlim()]
        for ax in here:
            ax.set_xlim(min(ends), max(ends))
    legend_above(fig, handles, columns)
    return fig


def _draw_cell(ax: Axes, cell: _Cell, reference: float | None) -> None:
    measure, side = cell.panel
    how = measure_of(measure)
    stripe_categories(ax, list(cell.dots))
    for row, dots in enumerate(cell.dots.values()):
        for index, dot in enumerate(dots):
            _draw_dot(ax, row + 0.8 * ((index + 0.5) / len(dots) - 0.5), dot)
    line = how.reference if reference is None else reference
    if line is not None:
        ax.axvline(line, color=MUTED, lw=0.8, ls=":", zorder=1)
    title = sentence_case(how.label)
    ax.set_title(title if side == "both" else f"{title}: {side}", color=SIDE_COLOURS[side])
    ax.set_xlabel((how.unit if reference is None else how.change_unit).strip())
    if how.scale != 1 and reference is None:
        ax.set_xlim(-3, 103)


def _draw_dot(ax: Axes, y: float, dot: _Dot) -> None:
    colour = COLOURS[dot.style % len(COLOURS)]
    ax.plot(numbers([dot.low, dot.high]), [y, y], color=colour, lw=1.3, zorder=2)
    face = "white" if dot.hollow else colour
    ax.plot([dot.value], [y], _marker(dot.style), color=colour, markerfacecolor=face, zorder=3)


def _marker(style: int) -> str:
    return MARKERS[(style + style // len(COLOURS)) % len(MARKERS)]


def _handles(names: Sequence[str]) -> list[Line2D]:
    return [
        Line2D(
            [], [], color=COLOURS[i % len(COLOURS)], marker=_marker(i), ls="none", label=plain(name)
        )
        for i, name in enumerate(names)
    ]


def _hollow(hollow: str, filled: str) -> list[Line2D]:
    faces = (("white", hollow), (CONTROL, filled))
    return [
        Line2D([], [], color=CONTROL, marker="o", ls="none", markerfacecolor=face, label=label)
        for face, label in faces
    ]


def _values_caption(values: Sequence[RunScore], spreads: Sequence[SeedSpread]) -> str:
    seeds = ", ".join(in_order(f"{row.study}: {row.n_seeds} seeds" for row in spreads))
    undecided = sum(row.n_undecided for row in values)
    return (
        f"Dots are scores, bars {level_text(values)} over prompts, {n_text(r.n for r in values)} "
        f"per dot. {undecided} verdicts were undecided and are left out of n. "
        + (f"Dots of one colour and fill are seeds ({seeds}): how far they lie apart is the "
           "spread of training, which no bar shows. " if seeds else
           "Each study has one seed, so nothing here shows how training varies. ")
        + "The base model and the harmless side are the controls. Look for: trained dots that "
        "leave those of their base on the harmful side and stay with them on the harmless side."
    )  # fmt: skip


def _differences_caption(rows: Sequence[RunContrast], empty: int) -> str:
    methods = listing(in_order(row.method for row in rows))
    return (
        f"Dots are differences on the same prompts, second model minus first, bars 95 % intervals "
        f"({methods}), {n_text(r.n for r in rows)} pairs per dot. Filled dots have a p-value below "
        f"{ALPHA} after Holm's correction over all differences of the same measure, judge and "
        f"side. {empty} comparisons without enough decided pairs are left out. The dotted line is "
        "no difference. Look for: filled dots on the same side of it on every benchmark."
    )
