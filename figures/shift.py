"""Where training changed the model: activations of several kinds of texts, and the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.curves import (
    COVARIANCE,
    Curve,
    draw_curve,
    draw_null,
    even_out,
    hook_kind,
    joint_null,
    layer_axis,
    swept,
)
from figures.rows import RunRows
from figures.style import (
    CONTROL,
    INK,
    MUTED,
    SIDE_COLOURS,
    WIDTH,
    Drawing,
    as_table,
    in_order,
    legend_above,
    plain,
)
from figures.wording import ALPHA, fixed, listing, n_text, span
from lpa_interp.records import ActivationShift

GROUPS = {
    "statements": ("#B07A00", "o"),
    "harmful": (SIDE_COLOURS["harmful"], "^"),
    "benign": (SIDE_COLOURS["harmless"], "v"),
    "harmless": (SIDE_COLOURS["harmless"], "v"),
    "neutral": (MUTED, "D"),
}
"""Colour and marker of the groups of texts; others are drawn in ink."""
UNIT = "share of the base norm"
WHOLE = {"relative_shift": ("Mean shift", UNIT), "cka": ("Likeness of base and lpa", "CKA")}
"""Measures that need no direction: title and axis."""
ALONG = "shift_along"
IN_WORDS = {"relative_shift": "the mean shift", "cka": "CKA", ALONG: "the shift along a direction"}
Panel = tuple[str, str]
"""Measure and direction."""


def draw_activation_shifts(rows: RunRows) -> Drawing | None:
    """Mean shift and CKA by layer and group of texts; below, the shift along each direction."""
    shown = _shown(rows.activation_shifts)
    panels = sorted(in_order(map(_panel, shown)), key=lambda p: [*WHOLE, ALONG].index(p[0]))
    if not panels:
        return None
    groups = [g for g in GROUPS if any(s.group == g for s in shown)]
    groups += [g for g in in_order(s.group for s in shown) if g not in GROUPS]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    fig = Figure(figsize=(WIDTH, 0.6 + 2.0 * lines), layout="constrained")
    axes = fig.subplots(lines, columns, squeeze=False, sharex=True)
    for index, ax in enumerate(axes.flat):
        if index >= len(panels):
            ax.set_axis_off()
            continue
        _draw_panel(ax, [s for s in shown if _panel(s) == panels[index]], groups)
        if index + columns >= len(panels):
            ax.set_xlabel("layer")
            ax.tick_params(labelbottom=True)
    legend_above(fig, _legend(groups), columns=4)
    return Drawing(
        figure=fig,
        table=as_table(shown),
        title="Where training moved the residual stream",
        caption=_caption(shown, rows.activation_shifts),
        alt="Line charts by layer with intervals of "
        f"{listing(_name(p)[0].lower() for p in panels)}, one line each for "
        f"{listing(groups)}, over grey bands of the null; filled markers differ from the null.",
    )


def _panel(shift: ActivationShift) -> Panel:
    return shift.measure, shift.direction


def _shown(found: Sequence[ActivationShift]) -> list[ActivationShift]:
    """Rows that are drawn: along a direction, those of the stricter null."""
    strict = any(s.null == COVARIANCE for s in found)
    along = [s for s in found if s.measure == ALONG and (not strict or s.null == COVARIANCE)]
    return [s for s in found if s.measure in WHOLE] + swept(along, key=_panel)


def _name(panel: Panel) -> tuple[str, str]:
    measure, direction = panel
    return WHOLE.get(measure) or (f"Shift along the {plain(direction)} direction", UNIT)


def _draw_panel(ax: Axes, cell: Sequence[ActivationShift], groups: Sequence[str]) -> None:
    measure = cell[0].measure
    if measure != "cka":  # unrelated texts are far below, and would squeeze the lines
        draw_null(ax, *joint_null(cell), {"color": CONTROL, "alpha": 0.3})
    for group in groups:
        mine = sorted((s for s in cell if s.group == group), key=lambda s: s.layer)
        if not mine:
            continue
        x = [s.layer for s in mine]
        colour, marker = GROUPS.get(group, (INK, "P"))
        values = {field: [getattr(s, field) for s in mine] for field in ("value", "low", "high")}
        hollow = [s.p_adjusted is None or not s.p_adjusted < ALPHA for s in mine]
        look: dict[str, Any] = {"colour": colour, "marker": marker, "hollow": hollow}
        look |= {"low": values["low"], "high": values["high"]}
        draw_curve(ax, Curve(x=x, y=values["value"], **look))
    ax.axhline(1 if measure == "cka" else 0, color=INK, lw=0.7, ls=":")
    layer_axis(ax)
    title, unit = _name(_panel(cell[0]))
    ax.set_title(title)
    ax.set_ylabel(unit)


def _legend(groups: Sequence[str]) -> list[Any]:
    handles: list[Any] = []
    for group in groups:
        colour, marker = GROUPS.get(group, (INK, "P"))
        handles.append(
            Line2D([], [], color=colour, marker=marker, markersize=4, label=plain(group))
        )
    handles = even_out(handles)
    look: Any = {"color": INK, "marker": "o", "markersize": 4, "ls": "none"}
    handles.append(Line2D([], [], **look, label=f"differs from the null (adjusted p < {ALPHA})"))
    handles.append(Line2D([], [], **look, markerfacecolor="white", label="does not"))
    handles.append(Patch(color=CONTROL, alpha=0.3, label="null, over all groups"))
    return handles


def _from(cell: Sequence[ActivationShift]) -> str:
    """The sets that a group's texts are from, where the rows tell."""
    sources = in_order(s.source for s in cell if s.source)
    return f" of {listing(sources)}" if sources else ""


def _caption(shown: Sequence[ActivationShift], every: Sequence[ActivationShift]) -> str:
    sizes = listing(
        f"{plain(group)} {n_text(s.n for s in shown if s.group == group)}"
        + _from([s for s in shown if s.group == group])
        for group in in_order(s.group for s in shown)
    )
    nulls = in_order(s.null for s in shown)
    places = listing(in_order(f"token {fixed(s.position, 0)}" for s in shown))
    measures = {null: in_order(s.measure for s in shown if s.null == null) for null in nulls}
    control = listing(
        f"{null} for {listing(IN_WORDS[name] for name in names)}"
        for null, names in measures.items()
    )
    cka = span((s.null_high for s in shown if s.measure == "cka"), 2)
    unrelated = "" if cka == "not available" else f" CKA of unrelated texts reaches {cka}."
    left_out = in_order(
        "shares of the squared shift" if s.measure == "shift_share" else _name(_panel(s))[0].lower()
        for s in every
        if s.measure == "shift_share" or _panel(s) not in map(_panel, shown)
    )
    others = f" Not drawn, but in probes/activation_shifts.jsonl: {listing(left_out)}."
    return (
        f"The same texts read on base and on lpa at {places} of "
        f"{listing(in_order(hook_kind(s.hook_name) for s in shown))} ({sizes}). The mean shift is "
        "lpa minus base, in units of the base activations' median norm; along a direction it has "
        "a sign. CKA is 1 where the texts lie to one another as before. Coloured bands are 95 % "
        f"bootstrap intervals over texts. Control: {control}; grey is its central 95 %, over all "
        f"groups.{unrelated} "
        f"Filled markers: Benjamini-Hochberg over the layers of a measure below {ALPHA}; for CKA "
        "that means nearer than unrelated texts. Look for: the layer from which the lines part "
        "from zero, whether requests move as statements do and more than neutral texts, and "
        "whether the shift runs along the refusal direction: a shift of all texts alike is no "
        "sign of harm being recognised." + (others if left_out else "")
    )
