"""What the trained update reads from and writes to: its share along each direction, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from figures.curves import (
    Curve,
    draw_curve,
    draw_null,
    even_out,
    joint_null,
    layer_axis,
    null_handles,
    null_looks,
    swept,
)
from figures.rows import RunRows
from figures.style import (
    INK,
    WIDTH,
    Drawing,
    as_table,
    finite,
    in_order,
    legend_above,
    number,
    plain,
)
from figures.wording import ALPHA, listing, span
from lpa_interp.records import WeightAlignment

ROLES = {
    "q": ("#4F46A3", "o"),
    "k": ("#958DD6", "s"),
    "v": ("#00785A", "^"),
    "up": ("#B07A00", "v"),
    "gate": ("#9C3D7A", "D"),
    "o": ("#4F46A3", "o"),
    "down": ("#B07A00", "v"),
}
"""Colour and marker of the roles: attention in cool colours, the MLP in warm ones."""
LEAST = 0.02
"""Of the expected share: the axis goes no further down, however far a null band does."""
SIDES = ("reads", "writes")
Panel = tuple[str, int]
"""Direction and its dimensions: a row."""


def draw_weight_alignments(rows: RunRows) -> Drawing | None:
    """Share of the update along a direction by layer and role: a row each, reads and writes."""
    found = swept(rows.weight_alignments, key=lambda a: (a.direction, a.k))
    if not found:
        return None
    panels = in_order((a.direction, a.k) for a in found)
    sides = [side for side in SIDES if any(a.side == side for a in found)]
    nulls = in_order(a.null for a in found)
    fig = Figure(figsize=(WIDTH, 0.7 + 1.95 * len(panels)), layout="constrained")
    axes = fig.subplots(len(panels), len(sides), squeeze=False, sharex=True, sharey="row")
    for panel, axis_row in zip(panels, axes, strict=True):
        for side, ax in zip(sides, axis_row, strict=True):
            cell = [a for a in found if (a.direction, a.k, a.side) == (*panel, side)]
            _draw_panel(ax, cell, nulls)
            k = f" (k = {panel[1]})" if panel[1] > 1 else ""
            verb = "Reads from" if side == "reads" else "Writes into"
            ax.set_title(f"{verb} the {plain(panel[0])} direction{k}")
        axis_row[0].set_ylabel("share of the update")
        axis_row[0].set_ylim(*_limits([a for a in found if (a.direction, a.k) == panel]))
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    legend_above(fig, _legend(found, nulls), columns=5)
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="What the trained weights read from and write into",
        caption=_caption(found, rows.weight_alignments),
        alt="Line charts, on a log scale, of the share of each LoRA update along "
        f"{listing(in_order(plain(d) for d, _ in panels))} by layer, one line per role "
        f"({listing(in_order(a.role for a in found))}), over grey bands of {listing(nulls)}; "
        "filled markers differ from every null.",
    )


def _draw_panel(ax: Axes, cell: Sequence[WeightAlignment], nulls: Sequence[str]) -> None:
    if not cell:
        ax.set_axis_off()
        return
    for null, look in null_looks(nulls).items():
        tests = [a for a in cell if a.null == null]
        if tests:
            draw_null(ax, *joint_null(tests), look)
    for role in in_order(a.role for a in cell):
        mine = sorted((a for a in cell if a.role == role), key=lambda a: a.layer)
        by_layer = {a.layer: a for a in mine}
        hollow = [not _differs([a for a in mine if a.layer == layer]) for layer in by_layer]
        colour, marker = ROLES.get(role, (INK, "P"))
        y = [a.share for a in by_layer.values()]
        look = {"colour": colour, "marker": marker, "hollow": hollow, "width": 1.0}
        draw_curve(ax, Curve(x=[*by_layer], y=y, **look))
    expected = number(cell[0].expected)
    ax.axhline(expected, color=INK, lw=0.7, ls=":")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    layer_axis(ax)


def _limits(rows: Sequence[WeightAlignment]) -> tuple[float, float]:
    """Room for every share and band above `LEAST` of what is expected."""
    ends = finite(end for a in rows for end in (a.share, a.null_low, a.null_high, a.expected))
    least = LEAST * min(finite(a.expected for a in rows), default=1e-4)
    return max(min(ends, default=least), least) / 1.4, max([*ends, 2 * least]) * 1.4


def _differs(tests: Sequence[WeightAlignment]) -> bool:
    """Whether the share differs from every null that it was compared with."""
    return all(a.p_adjusted is not None and a.p_adjusted < ALPHA for a in tests)


def _legend(found: Sequence[WeightAlignment], nulls: Sequence[str]) -> list[Any]:
    handles: list[Any] = []
    looks: dict[tuple[str, str], list[str]] = {}
    for role in in_order(a.role for a in found):
        looks.setdefault(ROLES.get(role, (INK, "P")), []).append(role)
    for (colour, marker), roles in looks.items():
        words = ", ".join(map(plain, roles))
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, label=words))
    handles.append(Line2D([], [], color=INK, lw=0.7, ls=":", label="k / d_model"))
    handles = even_out(handles)
    look: Any = {"color": INK, "marker": "o", "markersize": 4, "ls": "none"}
    handles.append(Line2D([], [], **look, label=f"adjusted p < {ALPHA}"))
    handles.append(Line2D([], [], **look, markerfacecolor="white", label="not"))
    return [*handles, *null_handles(nulls)]


def _caption(found: Sequence[WeightAlignment], every: Sequence[WeightAlignment]) -> str:
    names = {a.direction for a in found}
    others = listing(in_order(a.direction for a in every if a.direction not in names))
    left_out = f" Not drawn, but in probes/weight_alignment.jsonl: {others}." if others else ""
    draws = listing(str(n) for n in sorted({a.n_null for a in found}))
    ranks = listing(str(rank) for rank in sorted({a.rank for a in found}))
    return (
        "Share of each LoRA update's squared Frobenius norm that lies along a direction, on the "
        "side of the residual stream: what q, k, v, up and gate read, what o and down write, with "
        "the norm's gain in between, on a log scale. One adapter, so no interval "
        f"(rank {ranks}; the update's first singular direction holds {_top(found)} of it). "
        f"Control: the central 95 % of {draws} random directions per null (n = {draws}), over "
        "all roles; the dotted line is k / d_model, that of an isotropic direction. Filled "
        "markers: two-sided p, Benjamini-Hochberg over the layers and roles of a direction, below "
        f"{ALPHA} for every null ({listing(in_order(a.null for a in found))}). Look for: filled "
        "markers above the bands that come in runs of layers. Below the bands, the update avoids "
        f"the direction.{left_out}"
    )


def _top(found: Sequence[WeightAlignment]) -> str:
    return f"{span((100 * number(a.top_singular_share) for a in found), 0)} %"
