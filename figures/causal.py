"""Causal share: how much of the refusal that training gained goes through a subspace."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from figures.causal_words import above_controls, caption, gain_text, head, no_share
from figures.curves import looks_of
from figures.rows import RunRows
from figures.style import (
    CONTROL,
    GRID,
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
    number,
    numbers,
    plain,
)
from figures.wording import MINUS, fixed, listing, sentence_case
from lpa_interp.records import MediatedShare

Group = tuple[str, str, str]
"""First and second model, and side."""
Slot = tuple[str, int]
"""A subspace's name and its dimensions."""

CONTROLS = {
    "random": (CONTROL, "o", 0.12, "random (control)"),
    "random_matched": (MUTED, "D", 0.3, "random, same norm (control)"),
}
"""Controls with colour, marker, place in the slot and words."""
MAIN, NET = -0.26, -0.09
"""Places in the slot of the share and of the net share."""
ENDS = (-0.8, 2.2)
"""Shares beyond these are drawn as arrows: they would squeeze all others."""


def draw_causal_share(rows: RunRows) -> Drawing | None:
    """Per side the gain in nats beside the shares of it, on one scale."""
    found = rows.mediated_shares
    if not found:
        return None
    groups = in_order(_group(s) for s in found)
    cells = [[s for s in found if _group(s) == group] for group in groups]
    heights = [2.75 if _has_share(cell) else 0.95 for cell in cells]
    fig = Figure(figsize=(WIDTH, 0.8 + sum(heights)), layout="constrained")
    ratios = {"height_ratios": heights, "width_ratios": [1, 4.6]}
    axes = fig.subplots(len(cells), 2, squeeze=False, gridspec_kw=ratios)
    for cell, (left, right) in zip(cells, axes, strict=True):
        _draw_gain(left, _gained(cell), _has_share(cell))
        if _has_share(cell):
            _draw_shares(right, left, cell)
        else:
            _say_no_share(right, cell[0])
    if _has_share(found):
        legend_above(fig, _legend(found), columns=4)
    names = in_order(s.ablated for s in found if not s.control_of)
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="How much of the refusal gained goes through the trait directions",
        caption=caption(found),
        alt="Per side a bar of the refusal gain in nats, and beside it, on the same scale, the "
        f"share of it lost when the {listing(names)} subspaces are cut out, with intervals, each "
        "beside random and norm-matched random subspaces; lines at none and all of the gain.",
    )


def _group(share: MediatedShare) -> Group:
    return share.first, share.second, share.side


def _slot(share: MediatedShare) -> Slot:
    return share.control_of or share.ablated, share.k


def _gained(cell: Sequence[MediatedShare]) -> MediatedShare:
    """A row with the gain, which all rows of a side share."""
    return next((s for s in cell if finite([s.gain])), cell[0])


def _has_share(cell: Sequence[MediatedShare]) -> bool:
    return bool(finite(s.share for s in cell))


def _draw_gain(ax: Axes, row: MediatedShare, has_share: bool) -> None:
    """The gain as a bar from zero: what the shares beside it are shares of."""
    gain, colour = number(row.gain), colour_of(row.second)
    ax.bar([0], [gain], width=0.5, color=colour, alpha=0.28, lw=0)
    ax.plot([0, 0], numbers([row.gain_low, row.gain_high]), color=colour, lw=1.8)
    ax.plot([0], [gain], marker="s", color=colour)
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_xticks([0], labels=[gain_text(row)])
    ax.set_xlim(-0.75, 0.75)
    ax.tick_params(axis="x", length=0, labelsize=7)
    ax.grid(False, axis="x")
    models = f"({row.second} {MINUS} {row.first})"
    ax.set_ylabel(f"refusal gained, nats\n{models}" if has_share else f"nats\n{models}")
    ax.yaxis.set_major_locator(MaxNLocator(4 if has_share else 2, min_n_ticks=2))
    ax.set_title(f"{row.side.capitalize()} requests", color=SIDE_COLOURS.get(row.side, INK))


def _say_no_share(ax: Axes, row: MediatedShare) -> None:
    """Words in the place of the shares."""
    ax.set_axis_off()
    why = textwrap.fill(f"{sentence_case(no_share(row))}.", 64).replace("$", r"\$")
    words = f"{why}\nWhat each ablation took away, in nats, is in the table."
    look: Any = {"ha": "left", "va": "center", "color": INK, "linespacing": 1.5}
    ax.text(0.02, 0.5, words, transform=ax.transAxes, **look)


def _draw_shares(ax: Axes, gain_ax: Axes, cell: Sequence[MediatedShare]) -> None:
    """Every subspace with its controls, aligned with the gain: one is the whole of it."""
    places = _places(in_order(_slot(s) for s in cell))
    looks = looks_of(in_order(name for name, _ in places))
    ax.set_ylim(*_limits(cell))
    for share in cell:
        x = places[_slot(share)]
        if share.control_of:
            colour, marker, offset, _ = CONTROLS.get(share.ablated, (CONTROL, "v", 0.2, ""))
            _draw_share(ax, x + offset, share, colour, marker, size=3.6)
            continue
        colour, marker = looks[share.ablated]
        _draw_share(ax, x + MAIN, share, colour, marker, size=6.0)
        _draw_net(ax, x + NET, share, colour)
        above: Any = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text(x, 1.0, head(share), color=colour, fontweight="bold", **above)
    _name_slots(ax, places, cell)
    _mark_ends(ax)
    # One scale: the bar's top is the line of the whole gain.
    for gain in finite([_gained(cell).gain]):
        gain_ax.set_ylim(*(end * gain for end in ax.get_ylim()))
        gain_ax.axhline(gain, color=INK, lw=0.8, ls=(0, (4, 2)), zorder=1)


def _places(slots: Sequence[Slot]) -> dict[Slot, float]:
    """Slots side by side, with a gap where another direction begins."""
    places, x = {}, 0.0
    for index, slot in enumerate(slots):
        x += 0.3 if index and slots[index - 1][0] != slot[0] else 0.0
        places[slot] = x
        x += 1.0
    return places


def _limits(cell: Sequence[MediatedShare]) -> tuple[float, float]:
    """What shows every interval; the shares of a damaged model do not count."""
    sound = [s for s in cell if not s.damaged]
    fields = ("share", "share_low", "share_high", "net_low", "net_high")
    ends = finite(getattr(s, field) for s in sound for field in fields)
    low, high = min([-0.12, *ends]), max([1.12, *ends])
    return max(ENDS[0], low - 0.06), min(ENDS[1], high + 0.06)


def _draw_share(
    ax: Axes, x: float, share: MediatedShare, colour: str, marker: str, size: float
) -> None:
    """A dot with its interval: hollow where the ablation damaged the model, else filled."""
    value, (low, high) = number(share.share), ax.get_ylim()
    if not math.isfinite(value):
        return
    ends = np.clip(numbers([share.share_low, share.share_high]), low, high)
    ax.plot([x, x], ends, color=colour, lw=1.6, zorder=2)
    if not low <= value <= high:
        margin = 0.03 * (high - low)
        marker, value = ("^", high - margin) if value > high else ("v", low + margin)
    face = "white" if share.damaged else colour
    look: Any = {"marker": marker, "markersize": size, "markerfacecolor": face}
    ax.plot([x], [value], color=colour, ls="none", markeredgewidth=1.2, **look, zorder=4)


def _draw_net(ax: Axes, x: float, share: MediatedShare, colour: str) -> None:
    ends = np.clip(numbers([share.net_low, share.net_high]), *ax.get_ylim())
    ax.plot([x, x], ends, color=colour, lw=0.9, zorder=2)
    look: Any = {"marker": "_", "markersize": 6, "markeredgewidth": 1.6, "color": colour}
    ax.plot([x], [number(share.net_share)], ls="none", **look, zorder=3)


def _name_slots(ax: Axes, places: dict[Slot, float], cell: Sequence[MediatedShare]) -> None:
    """Direction and dimensions under each slot, and the KL where the model was damaged."""
    broken = {_slot(s): s.kl_harmless for s in cell if s.damaged and not s.control_of}
    looks = looks_of(in_order(name for name, _ in places))
    names = [f"{plain(name)}\nk = {k}" for name, k in places]
    for index, slot in enumerate(places):
        names[index] += f"\nKL {fixed(broken[slot], 1)}" if slot in broken else ""
    ax.set_xticks(list(places.values()), labels=names)
    for label, (name, _) in zip(ax.get_xticklabels(), places, strict=True):
        label.set_color(looks[name][0])
    for one, other in pairwise(places):
        if one[0] != other[0]:
            ax.axvline((places[one] + places[other]) / 2, color=GRID, lw=1.2)
    ax.set_xlim(min(places.values()) - 0.6, max(places.values()) + 0.6)
    ax.tick_params(axis="x", length=0)
    ax.grid(False, axis="x")


def _mark_ends(ax: Axes) -> None:
    """Lines at none and at all of the gain, with their words, and an axis in per cent."""
    ax.axhline(0, color=INK, lw=0.8, zorder=1)
    ax.axhline(1, color=INK, lw=0.8, ls=(0, (4, 2)), zorder=1)
    beside: Any = {"transform": ax.get_yaxis_transform(), "va": "center", "color": INK}
    for y, words in ((0, "none\nof it"), (1, "the whole\ngain")):
        ax.text(1.01, y, words, fontsize=7, **beside)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{fixed(100 * y, 0)} %"))
    ax.set_ylabel("share of the gain that is lost")


def _legend(found: Sequence[MediatedShare]) -> list[Line2D]:
    looks = looks_of(in_order(s.ablated for s in found if not s.control_of))
    marks: list[tuple[str, str, str, float]] = [
        (colour, marker, f"{plain(name)} cut out", 6.0) for name, (colour, marker) in looks.items()
    ]
    for name, (colour, marker, _, words) in CONTROLS.items():
        if any(s.ablated == name for s in found):
            marks.append((colour, marker, words, 3.6))
    if finite(s.net_share for s in found):
        marks.append((MUTED, "_", "net of what base loses", 6.0))
    if any(above_controls(s) for s in found):
        marks.append((INK, "$*$", "above both controls", 5.0))
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=size, ls="none", label=words)
        for colour, marker, words, size in marks
    ]
    if any(s.damaged for s in found):
        hollow: Any = {"marker": "o", "markerfacecolor": "white", "ls": "none"}
        handles.append(Line2D([], [], color=MUTED, **hollow, label="model damaged"))
    return handles
