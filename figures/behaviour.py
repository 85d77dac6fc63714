"""Behaviour before and after: every measure, model, benchmark and attack as a dot plot."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.rows import RunRows
from figures.style import (
    MUTED,
    SIDE_COLOURS,
    WIDTH,
    Drawing,
    Table,
    as_table,
    draw_interval,
    in_order,
    legend_above,
    model_handles,
    models_in,
    number,
    plain,
    stripe_categories,
)
from figures.wording import (
    MEASURES,
    judge_label,
    judges_text,
    level_text,
    listing,
    measure_of,
    n_text,
    sentence_case,
)
from lpa_interp.records import Score

Panel = tuple[str, str]
"""Measure and side."""

Category = tuple[str, str, str]
"""Benchmark, attack and judge."""


def place_of(benchmark: str, attack: str) -> str:
    """Benchmark and attack in words."""
    return benchmark if attack in ("", "none") else f"{benchmark}, {attack}"


def draw_behaviour(rows: RunRows) -> Drawing | None:
    """A grid of dot plots: measures with two sides take a row, the others share one."""
    if not rows.scores:
        return None
    grid = _layout(rows.scores)
    groups = [[[s for s in rows.scores if _panel(s) == p] for p in line] for line in grid]
    sizes = [max(len(_categories(cell)) for cell in line) for line in groups]
    heights = [0.62 + 0.36 * size for size in sizes]
    fig = Figure(figsize=(WIDTH, 0.45 + sum(heights)), layout="constrained")
    axes = fig.subplots(len(grid), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    models = models_in(rows.scores)
    for line, cells, pair in zip(grid, groups, axes, strict=True):
        _draw_line(list(pair), line, cells, models)
    legend_above(fig, model_handles(models))
    return Drawing(
        figure=fig,
        table=_table(grid, groups),
        title="Behaviour before and after, on both sides",
        caption=_caption(rows.scores),
        alt="Dot plots with intervals for "
        + listing(f"{measure_of(m).label} ({side})" for line in grid for m, side in line)
        + f", each benchmark and attack one row, one dot each for {listing(models)}.",
    )


def _panel(score: Score) -> Panel:
    return score.measure, score.side


def _layout(scores: list[Score]) -> list[list[Panel]]:
    """Rows of at most two panels: harmful beside harmless, one-sided measures in pairs."""
    found = in_order(_panel(score) for score in scores)
    names = sorted({m for m, _ in found}, key=lambda m: (m not in MEASURES, _rank(m), m))
    lines = [[(m, s) for s in ("harmful", "harmless") if (m, s) in found] for m in names]
    single = [(m, "both") for m in names if (m, "both") in found]
    pairs = [single[i : i + 2] for i in range(0, len(single), 2)]
    return [line for line in lines if line] + pairs


def _rank(measure: str) -> int:
    return list(MEASURES).index(measure) if measure in MEASURES else len(MEASURES)


def _categories(scores: list[Score]) -> list[Category]:
    return in_order((s.benchmark, s.attack, s.judge) for s in scores)


def _draw_line(
    axes: list[Axes], line: list[Panel], cells: list[list[Score]], models: list[str]
) -> None:
    paired = len(line) == 2 and line[0][0] == line[1][0]
    shared = _categories([score for cell in cells for score in cell])
    for index, ax in enumerate(axes):
        if index >= len(line):
            ax.set_axis_off()
            continue
        categories = shared if paired else _categories(cells[index])
        _draw_panel(ax, line[index], cells[index], categories, models)
        if paired and index:
            ax.tick_params(axis="y", labelleft=False)
    if paired:
        ends = [end for ax in axes for end in ax.get_xlim()]
        for ax in axes:
            ax.set_xlim(min(ends), max(ends))


def _draw_panel(
    ax: Axes, panel: Panel, scores: list[Score], categories: list[Category], models: list[str]
) -> None:
    name, side = panel
    how = measure_of(name)
    judges = {judge for _, _, judge in categories}
    labels = [
        place_of(b, a) + (f" [{judge_label(j)}]" if len(judges) > 1 else "")
        for b, a, j in categories
    ]
    stripe_categories(ax, labels)
    gap = 0.24
    for score in scores:
        row = categories.index((score.benchmark, score.attack, score.judge))
        y = row + gap * (models.index(score.model) - (len(models) - 1) / 2)
        value, low, high = (how.scale * number(x) for x in (score.value, score.low, score.high))
        draw_interval(ax, y, value, low, high, score.model)
    if how.reference is not None:
        ax.axvline(how.reference, color=MUTED, lw=0.8, ls=":", zorder=1)
    if how.scale != 1:
        ax.set_xlim(-3, 103)
    title = sentence_case(how.label)
    ax.set_title(title if side == "both" else f"{title}: {side}", color=SIDE_COLOURS[side])
    ax.set_xlabel(", ".join(x for x in (how.unit.strip(), plain(judges_text(scores))) if x))


def _table(grid: list[list[Panel]], groups: list[list[list[Score]]]) -> Table:
    return as_table(score for cells in groups for cell in cells for score in cell)


def _caption(scores: list[Score]) -> str:
    judges = judges_text(scores)
    undecided = sum(s.n_undecided or 0 for s in scores)
    return (
        f"Dots are scores, bars {level_text(scores)}, {n_text(s.n for s in scores)} per dot. "
        f"{sentence_case(judges) or 'No judge'}; {undecided} verdicts were undecided and are left "
        "out of n. AUROC ranks harmful above harmless requests by what its judge says. The "
        "harmless side is the control: a model that refuses everything scores high on both "
        "sides. The dotted line marks chance (AUROC) or even odds (log-odds). Look for: lpa "
        "above base on the harmful side, no rise on the harmless side, and perplexity that "
        "stays. A bar is the uncertainty of one score; whether two models differ is settled by "
        "the paired tests in the table."
    )
